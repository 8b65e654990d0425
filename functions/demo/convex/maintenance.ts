import { log } from "convex/server";
import { v } from "convex/values";
import { internalMutation, query } from "./_generated/server";

export const sweep = internalMutation({
  args: {},
  handler: async (ctx) => {
    await ctx.db.insert("sweeps", {});
    const request = await ctx.meta.getRequestMetadata();
    await log.audit({
      action: "maintenance.swept",
      source: { ip: log.vars.ip, userAgent: log.vars.userAgent, requestId: log.vars.requestId },
      read: { ip: request.ip, userAgent: request.userAgent },
      at: log.vars.now,
    });
  },
});

// The number of notices sent for a document, and of sweeps of it.
export const notices = query({
  args: { about: v.string() },
  handler: async (ctx, { about }) => {
    const notices = await ctx.db.query("notices").collect();
    const sweeps = await ctx.db.query("sweeps").collect();
    return { notices: notices.filter((notice) => notice.about === about).length, sweeps: sweeps.length };
  },
});
