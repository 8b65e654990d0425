import { defineSchema, defineTable } from "convex/server";
import { v } from "convex/values";

export default defineSchema({
  scores: defineTable({ name: v.string(), score: v.number() }),
  notes: defineTable({ n: v.number() }),
  users: defineTable({ name: v.string(), role: v.optional(v.string()) }),
});
