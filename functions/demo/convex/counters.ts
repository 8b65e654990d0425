import { log } from "convex/server";
import { v } from "convex/values";
import { mutation, query } from "./_generated/server";

// Concurrent clients conflict with each other, and every attempt is logged.
export const add = mutation({
  args: { name: v.string() },
  handler: async (ctx, { name }) => {
    const counter = await ctx.db
      .query("counters")
      .withIndex("by_name", (q) => q.eq("name", name))
      .unique();
    const value = (counter?.value ?? 0) + 1;
    await log.audit({ action: "counter.added", name, value, requestId: log.vars.requestId });
    if (counter === null) {
      await ctx.db.insert("counters", { name, value });
    } else {
      await ctx.db.patch(counter._id, { value });
    }
    return value;
  },
});

export const get = query({
  args: { name: v.string() },
  handler: async (ctx, { name }) => {
    const counter = await ctx.db
      .query("counters")
      .withIndex("by_name", (q) => q.eq("name", name))
      .unique();
    return counter?.value ?? 0;
  },
});
