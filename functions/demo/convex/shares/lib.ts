// A component, with tables of its own. Its logs count towards the limits of the function that calls it.
import { log } from "convex/server";
import { v } from "convex/values";
import { mutation, query } from "./_generated/server";

export const share = mutation({
  args: { document: v.string(), with: v.string() },
  handler: async (ctx, args) => {
    await ctx.db.insert("shares", args);
    await log.audit({
      action: "share.created",
      document: args.document,
      with: args.with,
      source: { ip: log.vars.ip, requestId: log.vars.requestId },
      at: log.vars.now,
    });
    return null;
  },
});

export const of = query({
  args: { document: v.string() },
  handler: async (ctx, { document }) => {
    const shares = await ctx.db
      .query("shares")
      .withIndex("by_document", (q) => q.eq("document", document))
      .collect();
    return shares.map((share) => share.with);
  },
});
