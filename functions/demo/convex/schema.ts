import { defineSchema, defineTable } from "convex/server";
import { v } from "convex/values";

export default defineSchema({
  documents: defineTable({
    title: v.string(),
    text: v.string(),
    orgId: v.string(),
    revision: v.number(),
  }).index("by_org", ["orgId"]),
  counters: defineTable({ name: v.string(), value: v.number() }).index("by_name", ["name"]),
  sweeps: defineTable({}),
  notices: defineTable({ about: v.string(), from: v.union(v.string(), v.null()) }),
});
