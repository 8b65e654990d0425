import { log } from "convex/server";
import { v } from "convex/values";
import { mutation } from "./_generated/server";

// Every kind of value that a body can contain, and variables in every place where a value may be.
export const everything = mutation({
  args: { tag: v.string() },
  handler: async (_ctx, { tag }) => {
    await log.audit({
      action: "bodies.everything",
      tag,
      text: 'quotes " and \\ and \u2028 and é and 😀',
      numbers: [0, -1, 1.5, 1e21, NaN],
      date: new Date(0),
      left: { out: undefined, kept: null },
      nested: { deep: [{ ip: log.vars.ip }, [log.vars.now, log.vars.now]] },
      userAgent: log.vars.userAgent,
      requestId: log.vars.requestId,
      convexActor: log.vars.convexActor,
    });
    return null;
  },
});

// Data from a user that looks like a variable is refused.
export const forged = mutation({
  args: { sent: v.string() },
  handler: async (_ctx, { sent }) => {
    await log.audit({ action: "bodies.forged", sent: JSON.parse(sent) });
    return null;
  },
});

export const unknownVariable = mutation({
  args: {},
  handler: async () => {
    await log.audit({ action: "bodies.unknown", ip: Symbol("ip") as any });
    return null;
  },
});
