import { log } from "convex/server";
import { ConvexError, v } from "convex/values";
import { internal } from "./_generated/api";
import { internalMutation, mutation, query } from "./_generated/server";

// The viewer, address and time are variables: the result may be cached, and each delivery is logged with its own values.
const source = () => ({
  ip: log.vars.ip,
  userAgent: log.vars.userAgent,
  requestId: log.vars.requestId,
});

export const create = mutation({
  args: { title: v.string(), text: v.string(), orgId: v.string() },
  handler: async (ctx, args) => {
    const id = await ctx.db.insert("documents", { ...args, revision: 1 });
    await log.audit({ action: "document.created", document: id, title: args.title, source: source(), at: log.vars.now });
    return id;
  },
});

export const view = query({
  args: { documentId: v.id("documents") },
  handler: async (ctx, { documentId }) => {
    const document = await ctx.db.get(documentId);
    await log.audit({
      action: "document.viewed",
      document: documentId,
      found: document !== null,
      revision: document?.revision,
      source: source(),
      at: log.vars.now,
    });
    if (document === null) {
      throw new ConvexError({ code: "NOT_FOUND", documentId });
    }
    return { title: document.title, text: document.text, revision: document.revision };
  },
});

export const list = query({
  args: { orgId: v.string() },
  handler: async (ctx, { orgId }) => {
    const documents = await ctx.db
      .query("documents")
      .withIndex("by_org", (q) => q.eq("orgId", orgId))
      .collect();
    await log.audit({ action: "documents.listed", orgId, count: documents.length, ip: log.vars.ip, at: log.vars.now });
    return documents.map((document) => document.title);
  },
});

// A change, logged with all metadata of its caller and deployment, followed by a notice from a scheduled function. That one has
// no caller, so the request's metadata is passed to it.
export const update = mutation({
  args: { documentId: v.id("documents"), text: v.string(), userId: v.string() },
  handler: async (ctx, { documentId, text, userId }) => {
    const document = await ctx.db.get(documentId);
    const identity = await ctx.auth.getUserIdentity();
    const deployment = await ctx.meta.getDeploymentMetadata();
    const { name: functionName } = await ctx.meta.getFunctionMetadata();
    const request = await ctx.meta.getRequestMetadata();
    await log.audit({
      action: "document.updated",
      document: documentId,
      actor: { userId, subject: identity?.subject },
      fields: document === null ? [] : ["text"],
      source: { ...source(), deployment: deployment.name, functionName },
      at: log.vars.now,
    });
    if (document === null) {
      throw new ConvexError({ code: "NOT_FOUND", documentId });
    }
    await ctx.db.patch(documentId, { text, revision: document.revision + 1 });
    await ctx.scheduler.runAfter(0, internal.documents.notify, {
      about: documentId,
      ip: request.ip,
      userAgent: request.userAgent,
    });
    return document.revision + 1;
  },
});

export const notify = internalMutation({
  args: { about: v.string(), ip: v.union(v.string(), v.null()), userAgent: v.union(v.string(), v.null()) },
  handler: async (ctx, { about, ip, userAgent }) => {
    await ctx.db.insert("notices", { about, from: ip });
    await log.audit({
      action: "notice.sent",
      about,
      onBehalfOf: { ip, userAgent },
      own: { ip: log.vars.ip, userAgent: log.vars.userAgent },
      at: log.vars.now,
    });
  },
});

// Fails after it has logged and written: the write is rolled back, and the log stays.
export const refuse = mutation({
  args: { title: v.string() },
  handler: async (ctx, { title }) => {
    await ctx.db.insert("documents", { title, text: "", orgId: "refused", revision: 1 });
    await log.audit({ action: "document.refused", title, source: source() });
    throw new Error("this is refused");
  },
});
