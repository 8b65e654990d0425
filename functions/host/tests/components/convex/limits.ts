import { HOUR, RateLimiter } from "@convex-dev/rate-limiter";
import { log } from "convex/server";
import { v } from "convex/values";
import { components } from "./_generated/api";
import { mutation } from "./_generated/server";

const limiter = new RateLimiter(components.rateLimiter, { send: { kind: "fixed window", rate: 2, period: HOUR } });

export const send = mutation({
  args: { user: v.string(), fails: v.boolean() },
  handler: async (ctx, { user, fails }) => {
    const { ok } = await limiter.limit(ctx, "send", { key: user });
    await log.audit({ action: "sent", user, ok, fails, ip: log.vars.ip });
    if (fails) throw new Error("on purpose");
    return ok;
  },
});
