import { TableAggregate } from "@convex-dev/aggregate";
import { log } from "convex/server";
import { v } from "convex/values";
import { components } from "./_generated/api";
import { mutation, query } from "./_generated/server";

const scores = new TableAggregate<any>(components.aggregate, {
  sortKey: (doc: any) => doc.score,
  sumValue: (doc: any) => doc.score,
});

export const add = mutation({
  args: { name: v.string(), score: v.number() },
  handler: async (ctx, score) => {
    const id = await ctx.db.insert("scores", score);
    await scores.insert(ctx, (await ctx.db.get(id))!);
    await log.audit({ action: "scored", name: score.name, count: await scores.count(ctx) });
    return id;
  },
});

export const remove = mutation({
  args: { id: v.id("scores") },
  handler: async (ctx, { id }) => {
    const doc = (await ctx.db.get(id))!;
    await ctx.db.delete(id);
    await scores.delete(ctx, doc);
    await log.audit({ action: "removed", name: doc.name, sum: await scores.sum(ctx) });
  },
});

export const standing = query({
  args: {},
  handler: async (ctx) => {
    const standing = {
      count: await scores.count(ctx),
      sum: await scores.sum(ctx),
      best: (await scores.max(ctx))?.key ?? null,
      third: (await scores.at(ctx, 2)).key,
      above20: await scores.count(ctx, { bounds: { lower: { key: 20, inclusive: false } } }),
    };
    await log.audit({ action: "standing", ...standing, userAgent: log.vars.userAgent });
    return standing;
  },
});
