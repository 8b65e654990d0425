// The module that the census adds to an app's functions. It fills each table with one document, and
// generates arguments that fit the validators. Functions may refuse them for other reasons.

import { makeFunctionReference } from "convex/server";
import { action, mutation, query } from "./_generated/server";

const schemas = import("./schema").then((module) => module.default, () => undefined);

/// A value that a validator accepts, with documents' ids from `ids`. Throws if there is none.
function sample(validator, ids) {
  switch (validator.type) {
    case "id": {
      const id = ids[validator.tableName];
      if (id === undefined) throw new Error(`no document of ${validator.tableName}`);
      return id;
    }
    case "null": return null;
    case "number": return 1;
    case "bigint": return 1n;
    case "boolean": return true;
    case "string": return "text";
    case "bytes": return new ArrayBuffer(1);
    case "any": return {};
    case "literal": return validator.value?.$integer !== undefined ? 1n : validator.value;
    case "array": return [];
    case "record": return {};
    case "union": return firstOf(validator.value, ids);
    case "object": {
      const object = {};
      for (const [name, { fieldType, optional }] of Object.entries(validator.value)) {
        // The options of `paginate`.
        if (name === "numItems" && fieldType.type === "number") object[name] = 10;
        else if (name === "cursor" && takesNull(fieldType)) object[name] = null;
        else if (!optional) object[name] = sample(fieldType, ids);
      }
      return object;
    }
  }
  throw new Error(`no value of ${validator.type}`);
}

function takesNull({ type, value }) {
  return type === "null" || type === "any" || (type === "union" && value.some(takesNull));
}

function firstOf(validators, ids) {
  let failure = new Error("a union of nothing");
  for (const validator of validators) {
    try {
      return sample(validator, ids);
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

async function idsOf(ctx) {
  const schema = await schemas;
  const ids = {};
  for (const table of Object.keys(schema?.tables ?? {})) {
    const document = await ctx.db.query(table).first();
    if (document !== null) ids[table] = document._id;
  }
  return ids;
}

export const fill = mutation({
  args: {},
  handler: async (ctx) => {
    const schema = await schemas;
    if (schema === undefined) return 0;
    const { tables } = JSON.parse(schema.export());
    const ids = {};
    let filled;
    do {
      filled = 0;
      for (const { tableName, documentType } of tables) {
        if (ids[tableName] !== undefined) continue;
        try {
          ids[tableName] = await ctx.db.insert(tableName, sample(documentType, ids));
          filled++;
        } catch {}
      }
    } while (filled > 0);
    return Object.keys(ids).length;
  },
});

export const arguments_ = query({
  handler: async (ctx, { validator }) => sample(JSON.parse(validator), await idsOf(ctx)),
});

export const runQuery = query({ handler: (ctx, { name, args }) => ctx.runQuery(makeFunctionReference(name), args) });
export const runMutation = mutation({ handler: (ctx, { name, args }) => ctx.runMutation(makeFunctionReference(name), args) });
export const runAction = action({ handler: (ctx, { name, args }) => ctx.runAction(makeFunctionReference(name), args) });
