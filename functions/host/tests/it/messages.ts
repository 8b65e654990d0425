import { log } from "convex/server";
import { ConvexError, v } from "convex/values";
import { api, internal } from "./_generated/api";
import { action, internalQuery, mutation, query } from "./_generated/server";

export const list = query({
  args: {},
  handler: async (ctx) => {
    const messages = await ctx.db.query("messages").collect();
    await log.audit({
      action: "listed",
      count: messages.length,
      ip: log.vars.ip,
      userAgent: log.vars.userAgent,
      requestId: log.vars.requestId,
      at: log.vars.now,
    });
    return messages.map((message) => message.text);
  },
});

export const count = query({
  args: {},
  handler: async (ctx) => (await ctx.db.query("messages").collect()).length,
});

export const send = mutation({
  args: { text: v.string() },
  handler: async (ctx, { text }) => {
    await ctx.db.insert("messages", { text });
    await log.audit({ action: "sent", text, ip: log.vars.ip, requestId: log.vars.requestId });
    return text;
  },
});

export const refuse = mutation({
  args: {},
  handler: async () => {
    await log.audit({ action: "refused", ip: log.vars.ip });
    throw new ConvexError({ code: "NO" });
  },
});

export const broken = query({
  args: {},
  handler: async () => {
    console.log("before");
    await log.audit({ action: "broken" });
    throw new Error("boom");
  },
});

export const kinds = query({
  args: {},
  handler: async () => ({ int: 5n, bytes: new Uint8Array([1, 2, 3]).buffer, nan: NaN, text: "x" }),
});

export const whoami = query({
  args: {},
  handler: async (ctx) => {
    const identity = await ctx.auth.getUserIdentity();
    await log.audit({ action: "asked", subject: identity?.subject ?? null });
    return identity;
  },
});

export const large = query({
  args: { kib: v.number() },
  handler: async (ctx, { kib }) => {
    const messages = await ctx.db.query("messages").collect();
    return { count: messages.length, text: "x".repeat(kib * 1024) };
  },
});

// Ends once there are so many messages.
export const waitFor = action({
  args: { count: v.number() },
  handler: async (ctx, { count }) => {
    while ((await ctx.runQuery(api.messages.count, {})) < count);
    return count;
  },
});

export const sendLater = action({
  args: { text: v.string() },
  handler: async (ctx, { text }) => ctx.runMutation(api.messages.send, { text }),
});

export const hidden = internalQuery({ args: {}, handler: async () => "hidden" });

export const revealing = query({
  args: {},
  handler: async (ctx) => ctx.runQuery(internal.messages.hidden, {}),
});
