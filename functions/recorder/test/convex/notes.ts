import { log, paginationOptsValidator } from "convex/server";
import { ConvexError, v } from "convex/values";
import { api, internal } from "./_generated/api";
import { action, internalMutation, mutation, query } from "./_generated/server";

const by = { ip: log.vars.ip, userAgent: log.vars.userAgent };

export const list = query({
  args: {},
  handler: async (ctx) => {
    const notes = await ctx.db.query("notes").collect();
    await log.audit({ action: "notes.listed", count: notes.length, ...by });
    return notes.map(({ text }) => text);
  },
});

export const page = query({
  args: { paginationOpts: paginationOptsValidator },
  handler: async (ctx, { paginationOpts }) => {
    const found = await ctx.db.query("notes").order("desc").paginate(paginationOpts);
    await log.audit({ action: "notes.paged", count: found.page.length, ...by });
    return found;
  },
});

export const add = mutation({
  args: { text: v.string() },
  handler: async (ctx, { text }) => {
    const user = await ctx.auth.getUserIdentity();
    await log.audit({ action: "note.added", text, user: user?.subject ?? null, email: user?.email ?? null, ...by });
    if (text === "") throw new ConvexError({ code: "EMPTY" });
    return await ctx.db.insert("notes", { text });
  },
});

// Concurrent calls conflict with each other, since each reads and writes the same counter.
export const count = mutation({
  args: {},
  handler: async (ctx) => {
    const counter = await ctx.db.query("counters").first();
    const value = (counter?.value ?? 0) + 1;
    await log.audit({ action: "counted", value });
    if (counter === null) await ctx.db.insert("counters", { value });
    else await ctx.db.patch(counter._id, { value });
    return value;
  },
});

// A nested mutation that fails keeps its log.
export const addTwice = mutation({
  args: {},
  handler: async (ctx) => {
    await ctx.runMutation(api.notes.add, { text: "first" });
    await ctx.runMutation(api.notes.add, { text: "" }).catch(() => {});
    await log.audit({ action: "added twice" });
  },
});

// Refused bodies and exceeded limits fail a function that catches the error too.
export const refused = mutation({
  args: { body: v.any(), logs: v.number() },
  handler: async (ctx, { body, logs }) => {
    await ctx.db.insert("notes", { text: "is not kept" });
    for (let i = 0; i < logs; i++) await log.audit({ i }).catch(() => {});
    await log.audit(body).catch(() => {});
  },
});

export const act = action({
  args: {},
  handler: async (ctx) => {
    await ctx.runMutation(api.notes.add, { text: "by an action" });
    await ctx.scheduler.runAfter(0, internal.notes.later, {});
    return await ctx.runQuery(api.notes.list, {});
  },
});

export const logsInAction = action({ args: {}, handler: async () => await log.audit({ action: "never" }) });

export const later = internalMutation({
  args: {},
  handler: async () => await log.audit({ action: "ran later", ...by }),
});

export const greeting = query({ args: {}, handler: async () => process.env.GREETING ?? null });
