import { log } from "convex/server";
import { v } from "convex/values";
import { api } from "./_generated/api";
import { action } from "./_generated/server";

// An action cannot log. Each call that it makes is logged on its own.
export const make = action({
  args: { documentId: v.id("documents"), name: v.string() },
  handler: async (ctx, { documentId, name }): Promise<string> => {
    const document = await ctx.runQuery(api.documents.view, { documentId });
    const count = await ctx.runMutation(api.counters.add, { name });
    return `${document.title}, report ${count}`;
  },
});

export const confess = action({
  args: {},
  handler: async () => {
    await log.audit({ action: "report.confessed" });
  },
});
