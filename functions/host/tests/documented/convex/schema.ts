import { defineSchema, defineTable } from "convex/server";
import { v } from "convex/values";

export default defineSchema({
  documents: defineTable({ orgId: v.string(), title: v.string(), text: v.string() }).index("by_org", ["orgId"]),
  emails: defineTable({ to: v.string(), ip: v.union(v.string(), v.null()), userAgent: v.union(v.string(), v.null()) }),
});
