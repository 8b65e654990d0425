import { log } from "convex/server";
import { v } from "convex/values";
import { components, internal } from "./_generated/api";
import { internalMutation, mutation } from "./_generated/server";

// Calls a mutation that fails. Its writes are rolled back, and its logs stay.
export const outer = mutation({
  args: { tag: v.string() },
  handler: async (ctx, { tag }) => {
    await log.audit({ action: "nested.outer", tag });
    try {
      await ctx.runMutation(internal.nested.inner, { tag });
    } catch {
      await log.audit({ action: "nested.caught", tag });
    }
    const written = await ctx.db.query("counters").withIndex("by_name", (q) => q.eq("name", tag)).collect();
    return written.length;
  },
});

export const inner = internalMutation({
  args: { tag: v.string() },
  handler: async (ctx, { tag }) => {
    await ctx.db.insert("counters", { name: tag, value: 1 });
    await log.audit({ action: "nested.inner", tag });
    throw new Error("undo this");
  },
});

// Calls a component, which has tables of its own.
export const share = mutation({
  args: { document: v.string(), with: v.string() },
  handler: async (ctx, args): Promise<string[]> => {
    await ctx.runMutation(components.shares.lib.share, args);
    return await ctx.runQuery(components.shares.lib.of, { document: args.document });
  },
});
