import { log } from "convex/server";
import { internalMutation } from "./_generated/server";

export const sweep = internalMutation({
  args: {},
  handler: async (ctx) => {
    const request = await ctx.meta.getRequestMetadata();
    await log.audit({
      action: "maintenance.swept",
      source: { ip: log.vars.ip, userAgent: log.vars.userAgent, requestId: log.vars.requestId },
      read: { ip: request.ip, userAgent: request.userAgent },
      at: log.vars.now,
    });
  },
});
