import { defineSchema, defineTable } from "convex/server";
import { v } from "convex/values";

export default defineSchema({
  shares: defineTable({ document: v.string(), with: v.string() }).index("by_document", ["document"]),
});
