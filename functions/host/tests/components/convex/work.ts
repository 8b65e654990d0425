import { Workpool } from "@convex-dev/workpool";
import { log } from "convex/server";
import { v } from "convex/values";
import { components, internal } from "./_generated/api";
import { internalAction, internalMutation, mutation } from "./_generated/server";

const pool = new Workpool(components.workpool, {
  maxParallelism: 2,
  defaultRetryBehavior: { maxAttempts: 2, initialBackoffMs: 10, base: 2 },
});

export const enqueue = mutation({
  args: {},
  handler: async (ctx) => {
    for (const n of [1, 2, 3, 4]) {
      await pool.enqueueAction(ctx, internal.work.act, { n }, { retry: n === 4, onComplete: internal.work.done, context: { n } });
    }
    await pool.enqueueMutation(ctx, internal.work.note, { n: 5 }, { onComplete: internal.work.done, context: { n: 5 } });
    await log.audit({ action: "enqueued", ip: log.vars.ip });
  },
});

/// Number 3 always fails, and number 4 the first time.
export const act = internalAction({
  args: { n: v.number() },
  handler: async (ctx, { n }) => {
    const times: number = await ctx.runMutation(internal.work.note, { n });
    if (n === 3 || (n === 4 && times === 1)) throw new Error(`number ${n}`);
    return n * 10;
  },
});

export const note = internalMutation({
  args: { n: v.number() },
  handler: async (ctx, { n }) => {
    await ctx.db.insert("notes", { n });
    const notes: any[] = await ctx.db.query("notes").collect();
    const times = notes.filter((note) => note.n === n).length;
    await log.audit({ action: "worked", n, times, ip: log.vars.ip });
    return times;
  },
});

export const done = internalMutation({
  args: { workId: v.string(), context: v.object({ n: v.number() }), result: v.any() },
  handler: async (_ctx, { context, result }) => {
    await log.audit({ action: "done", n: context.n, kind: result.kind, value: result.returnValue ?? null, error: result.error ?? null });
  },
});
