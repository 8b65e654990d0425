import { log } from "convex/server";
import { v } from "convex/values";
import { internal } from "./_generated/api";
import { internalMutation, mutation } from "./_generated/server";

// Tries to silence the log: it logs something, and then more than the limit allows. It catches the error and continues as if
// nothing had happened, but fails all the same, and the logs before the limit are kept.
export const silence = mutation({
  args: { tag: v.string() },
  handler: async (ctx, { tag }) => {
    await log.audit({ action: "limits.deed", tag });
    await ctx.db.insert("counters", { name: tag, value: 1 });
    for (let i = 0; i < 600; i++) {
      try {
        await log.audit({ action: "limits.noise", tag, i });
      } catch {
        // Ignored.
      }
    }
    return "silenced";
  },
});

export const tooLarge = mutation({
  args: { tag: v.string(), bytes: v.number() },
  handler: async (_ctx, { tag, bytes }) => {
    await log.audit({ action: "limits.large", tag, text: "x".repeat(bytes) });
    return null;
  },
});

// The logs of a nested call count towards its caller's limits.
export const together = mutation({
  args: { tag: v.string() },
  handler: async (ctx, { tag }) => {
    for (let i = 0; i < 250; i++) {
      await log.audit({ action: "limits.mine", tag, i });
    }
    await ctx.runMutation(internal.limits.another, { tag });
    return null;
  },
});

export const another = internalMutation({
  args: { tag: v.string() },
  handler: async (_ctx, { tag }) => {
    for (let i = 0; i < 251; i++) {
      await log.audit({ action: "limits.another", tag, i });
    }
  },
});
