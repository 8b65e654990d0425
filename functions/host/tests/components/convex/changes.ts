import { Migrations } from "@convex-dev/migrations";
import { log } from "convex/server";
import { components, internal } from "./_generated/api";
import { mutation, query } from "./_generated/server";

const migrations = new Migrations<any>(components.migrations);

export const setRole = migrations.define({
  table: "users",
  batchSize: 10,
  migrateOne: async (_ctx: any, user: any) => {
    if (user.role !== undefined) return;
    await log.audit({ action: "migrated", name: user.name, ip: log.vars.ip });
    return { role: "reader" };
  },
});

export const fill = mutation(async (ctx) => {
  for (let i = 0; i < 25; i++) await ctx.db.insert("users", i === 7 ? { name: `${i}`, role: "admin" } : { name: `${i}` });
});

export const migrate = mutation(async (ctx) => {
  const status = await migrations.runOne(ctx, internal.changes.setRole);
  await log.audit({ action: "migrating", processed: status.processed, state: status.state });
});

export const roles = query(async (ctx) => {
  const roles = (await ctx.db.query("users").collect()).map(({ role }) => role ?? "none");
  const [status] = await migrations.getStatus(ctx, { migrations: [internal.changes.setRole] });
  const count = (wanted: string) => roles.filter((role) => role === wanted).length;
  return { readers: count("reader"), admins: count("admin"), processed: status?.processed ?? 0 };
});
