// A mutation like the one in the public documentation of audit logging: it reads a document, looks up its caller, deployment and own
// name, logs them with variables, and passes the request's metadata to a scheduled function.
import { log } from "convex/server";
import { v } from "convex/values";
import { internal } from "./_generated/api";
import { internalMutation, mutation, query } from "./_generated/server";

export const createDocument = mutation({
  args: { orgId: v.string(), title: v.string(), text: v.string() },
  returns: v.id("documents"),
  handler: async (ctx, args) => await ctx.db.insert("documents", args),
});

export const updateDocument = mutation({
  args: { userId: v.string(), orgId: v.string(), documentId: v.id("documents") },
  handler: async (ctx, { userId, orgId, documentId }) => {
    const document = await ctx.db.get("documents", documentId);
    const identity = await ctx.auth.getUserIdentity();
    const { name: deploymentName } = await ctx.meta.getDeploymentMetadata();
    const { name: functionName } = await ctx.meta.getFunctionMetadata();

    await log.audit({
      action: "document.viewed",
      actor: { userId, authUserId: identity?.sub },
      source: { ip: log.vars.ip, userAgent: log.vars.userAgent, deploymentName, functionName },
      fields: { documentId, orgId, deploymentName, functionName },
    });

    const { ip, userAgent, requestId } = await ctx.meta.getRequestMetadata();
    await ctx.scheduler.runAfter(0, internal.updateDocument.sendEmail, { requestMetadata: { ip, userAgent, requestId }, to: userId });
    return document;
  },
});

export const sendEmail = internalMutation({
  args: {
    to: v.string(),
    requestMetadata: v.object({
      ip: v.union(v.string(), v.null()),
      userAgent: v.union(v.string(), v.null()),
      requestId: v.string(),
    }),
  },
  handler: async (ctx, { to, requestMetadata }) => {
    const { ip, userAgent } = requestMetadata;
    const metadata = await ctx.meta.getRequestMetadata();
    await ctx.db.insert("emails", { to, ip, userAgent });
    await log.audit({
      action: "email.sent",
      to,
      source: requestMetadata,
      own: { ip: log.vars.ip, userAgent: log.vars.userAgent },
      scheduled: metadata.scheduledFunctionId !== null,
    });
  },
});

export const emails = query({
  args: {},
  handler: async (ctx) => (await ctx.db.query("emails").collect()).map((email) => email.to),
});
