import { Crons } from "@convex-dev/crons";
import { log } from "convex/server";
import { v } from "convex/values";
import { components, internal } from "./_generated/api";
import { internalMutation, mutation, query } from "./_generated/server";

const crons = new Crons(components.crons);

export const register = mutation(async (ctx) => {
  await crons.register(ctx, { kind: "interval", ms: 1000 }, internal.beats.beat, { name: "dynamic" }, "beat");
});

export const beat = internalMutation({
  args: { name: v.string() },
  handler: async (_ctx, { name }) => {
    await log.audit({ action: "beat", name, ip: log.vars.ip, userAgent: log.vars.userAgent });
  },
});

export const stop = mutation(async (ctx) => {
  await crons.delete(ctx, { name: "beat" });
});

export const names = query(async (ctx) => (await crons.list(ctx)).map(({ name }) => name));
