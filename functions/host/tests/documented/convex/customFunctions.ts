// Custom function builders whose log adds the same metadata to every body.
import { log } from "convex/server";
import { type ObjectType, type PropertyValidators, v } from "convex/values";
import { type MutationCtx, type QueryCtx, mutation, query } from "./_generated/server";

type Body = { action: string; [key: string]: any };
type Audit = { audit: (body: Body) => Promise<void> };

const auditOf = async (ctx: QueryCtx | MutationCtx): Promise<Audit> => {
  const identity = await ctx.auth.getUserIdentity();
  const { name } = await ctx.meta.getFunctionMetadata();
  return {
    audit: (body) =>
      log.audit({
        ...body,
        metadata: {
          function: name,
          actor: identity?.tokenIdentifier ?? null,
          ip: log.vars.ip,
          userAgent: log.vars.userAgent,
          requestId: log.vars.requestId,
          timestamp: log.vars.now,
        },
      }),
  };
};

function auditedQuery<Args extends PropertyValidators, Returned>(definition: {
  args: Args;
  handler: (ctx: QueryCtx & Audit, args: ObjectType<Args>) => Promise<Returned>;
}) {
  return query({
    args: definition.args,
    handler: async (ctx, args) => definition.handler({ ...ctx, ...(await auditOf(ctx)) }, args as ObjectType<Args>),
  });
}

function auditedMutation<Args extends PropertyValidators, Returned>(definition: {
  args: Args;
  handler: (ctx: MutationCtx & Audit, args: ObjectType<Args>) => Promise<Returned>;
}) {
  return mutation({
    args: definition.args,
    handler: async (ctx, args) => definition.handler({ ...ctx, ...(await auditOf(ctx)) }, args as ObjectType<Args>),
  });
}

export const rename = auditedMutation({
  args: { documentId: v.id("documents"), title: v.string() },
  handler: async (ctx, { documentId, title }) => {
    await ctx.db.patch(documentId, { title });
    await ctx.audit({ action: "document.renamed", title });
    return title;
  },
});

export const titles = auditedQuery({
  args: { orgId: v.string() },
  handler: async (ctx, { orgId }) => {
    const documents = await ctx.db
      .query("documents")
      .withIndex("by_org", (q) => q.eq("orgId", orgId))
      .collect();
    await ctx.audit({ action: "documents.listed", count: documents.length });
    return documents.map((document) => document.title);
  },
});
