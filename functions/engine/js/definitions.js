// The builders of `schema`, `crons` and `convex.config`: the part of `convex/server` that most
// calls do not need.

import {
  argsObject, functionName, getFunctionName, pathProxy, toReferencePath,
} from "convex:server";
import { asObjectValidator, convexToJson, isValidator, v } from "convex/values";

// ---- crons --------------------------------------------------------------------------------------

const DAYS = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

function whole(value, from, to, what) {
  if (!Number.isInteger(value) || value < from || value > to) {
    throw new Error(`${what} must be a whole number from ${from} to ${to}, not ${value}`);
  }
  return value;
}

function minute({ minuteUTC }) {
  return minuteUTC === undefined ? {} : { minuteUTC: whole(minuteUTC, 0, 59, "minuteUTC") };
}

class Crons {
  isCrons = true;
  /// Without a prototype, since a name can be `__proto__`.
  crons = { __proto__: null };

  #add(name, schedule, reference, args) {
    if (typeof name !== "string" || !/^[ -~]*$/.test(name))
      throw new Error(`The name of a cron is printable ASCII: ${name} is not`);
    if (Object.hasOwn(this.crons, name)) throw new Error(`There are two crons called ${name}`);
    this.crons[name] = {
      name: getFunctionName(reference), args: [convexToJson(argsObject(args))], schedule,
    };
  }
  interval(name, schedule, reference, args) {
    const given = ["seconds", "minutes", "hours"].filter((unit) => schedule[unit] !== undefined);
    if (given.length !== 1)
      throw new Error(`The cron ${name} needs one of seconds, minutes or hours`);
    whole(schedule[given[0]], 1, Number.MAX_SAFE_INTEGER, given[0]);
    this.#add(name, { ...schedule, type: "interval" }, reference, args);
  }
  hourly(name, schedule, reference, args) {
    // The schedule may be omitted.
    const isReference = typeof schedule === "string" || Boolean(schedule[functionName]);
    if (isReference) this.#add(name, { type: "hourly" }, schedule, reference);
    else this.#add(name, { ...minute(schedule), type: "hourly" }, reference, args);
  }
  daily(name, schedule, reference, args) {
    const hourUTC = whole(schedule.hourUTC, 0, 23, "hourUTC");
    this.#add(name, { hourUTC, ...minute(schedule), type: "daily" }, reference, args);
  }
  weekly(name, schedule, reference, args) {
    const { dayOfWeek } = schedule;
    if (!DAYS.includes(dayOfWeek))
      throw new Error(`dayOfWeek must be the name of a day, such as "monday", not ${dayOfWeek}`);
    const hourUTC = whole(schedule.hourUTC, 0, 23, "hourUTC");
    this.#add(name, { dayOfWeek, hourUTC, ...minute(schedule), type: "weekly" }, reference, args);
  }
  monthly(name, schedule, reference, args) {
    const day = whole(schedule.day, 1, 31, "day");
    const hourUTC = whole(schedule.hourUTC, 0, 23, "hourUTC");
    this.#add(name, { day, hourUTC, ...minute(schedule), type: "monthly" }, reference, args);
  }
  cron(name, cron, reference, args) {
    this.#add(name, { cron, type: "cron" }, reference, args);
  }
  export() {
    return JSON.stringify(this.crons);
  }
}

export const cronJobs = () => new Crons();

// ---- schemas ------------------------------------------------------------------------------------

class TableDefinition {
  indexes = [];
  stagedDbIndexes = [];
  searchIndexes = [];
  stagedSearchIndexes = [];
  vectorIndexes = [];
  stagedVectorIndexes = [];
  validator;
  stagedValidator;

  constructor(validator) {
    this.validator = validator;
  }
  " indexes"() {
    return this.indexes;
  }
  index(indexDescriptor, config) {
    const fields = Array.isArray(config) ? config : config.fields;
    (config.staged ? this.stagedDbIndexes : this.indexes).push({ indexDescriptor, fields });
    return this;
  }
  searchIndex(indexDescriptor, { searchField, filterFields = [], staged }) {
    (staged ? this.stagedSearchIndexes : this.searchIndexes).push({
      indexDescriptor, searchField, filterFields,
    });
    return this;
  }
  vectorIndex(indexDescriptor, { vectorField, dimensions, filterFields = [], staged }) {
    const index = { indexDescriptor, vectorField, dimensions, filterFields };
    (staged ? this.stagedVectorIndexes : this.vectorIndexes).push(index);
    return this;
  }
  staged(schema) {
    if (this.stagedValidator !== undefined)
      throw new Error("A table can have one staged validator only");
    if (isValidator(schema)) {
      this.stagedValidator = schema;
    } else {
      if (this.validator.kind !== "object" && this.validator.kind !== "any") {
        throw new Error(
          "Only a table that is an object can have single fields staged: stage a whole validator instead",
        );
      }
      const fields = { ...this.validator.fields, ...schema };
      this.stagedValidator = v.object(
        Object.fromEntries(Object.entries(fields).filter(([, field]) => field !== undefined)),
      );
    }
    return this;
  }
  self() {
    return this;
  }
  export() {
    const { validator, stagedValidator, ...indexes } = this;
    const documentType = validator.json;
    if (typeof documentType !== "object")
      throw new Error("What was given to defineTable() is not a validator");
    return { ...indexes, documentType, stagedDocumentType: stagedValidator?.json };
  }
}

export function defineTable(schema) {
  return new TableDefinition(asObjectValidator(schema));
}

/// The validator of a table's complete documents, including system fields.
export function docValidator(tableName, table) {
  const whole = (validator) => {
    switch (validator.kind) {
      case "object":
        return validator.extend({ _id: v.id(tableName), _creationTime: v.number() });
      case "union":
        return v.union(...validator.members.map(whole));
      case "any":
        return validator;
      default:
        throw new Error(
          `The documents of table "${tableName}" must be objects, or a union of objects`,
        );
    }
  };
  return whole(table.validator);
}

class SchemaDefinition {
  tables;
  strictTableNameTypes;
  schemaValidation;

  constructor(tables, options) {
    this.tables = tables;
    this.schemaValidation = options?.schemaValidation ?? true;
  }
  #table(name) {
    if (!Object.hasOwn(this.tables, name)) {
      throw new Error(
        `The schema has no table "${name}". It has: ${Object.keys(this.tables).join(", ")}`,
      );
    }
    return this.tables[name];
  }
  doc(tableName) {
    return docValidator(tableName, this.#table(tableName));
  }
  id(tableName) {
    this.#table(tableName);
    return v.id(tableName);
  }
  export() {
    const tables = Object.entries(this.tables).map(([tableName, table]) => ({
      tableName,
      ...table.export(),
    }));
    return JSON.stringify({ tables, schemaValidation: this.schemaValidation });
  }
}

export function defineSchema(tables, options) {
  return new SchemaDefinition(tables, options);
}

// ---- components ---------------------------------------------------------------------------------

function checkEnv(env) {
  for (const [name, validator] of Object.entries(env ?? {})) {
    if (!isValidator(validator))
      throw new Error(`The environment variable "${name}" needs a validator, such as v.string()`);
  }
  return env ?? {};
}

function envReferences(env) {
  return new Proxy({}, {
    get(_, name) {
      if (typeof name !== "string") return undefined;
      if (!Object.hasOwn(env, name)) throw new Error(`The environment variable "${name}" is not declared in \`env\``);
      return { __envVarRef: name };
    },
  });
}

function checkPrefix(prefix) {
  if (prefix !== undefined && !prefix.startsWith("/"))
    throw new Error(`httpPrefix must start with a slash: "${prefix}" does not`);
}

const withSlash = (prefix) => (prefix.endsWith("/") ? prefix : `${prefix}/`);

function use(definition, options) {
  const path = definition?.componentDefinitionPath;
  if (typeof path !== "string") throw new Error("use() takes what a `convex.config` exports");
  const name = options?.name ?? definition.defaultName ?? definition._name ?? path.split("/").pop();
  if (typeof name !== "string" || name === "")
    throw new Error("The name of a component must be a string that is not empty");
  checkPrefix(options?.httpPrefix);
  this._childComponents.push([name, definition, options?.env ?? {}, options?.httpPrefix]);
  return {
    [toReferencePath]: `_reference/childComponent/${name}`,
    exports: pathProxy([], (parts, property) =>
      property === toReferencePath
        ? ["_reference/childComponent", name, ...parts].join("/")
        : undefined,
    ),
  };
}

function exportedEnv([name, value]) {
  if (typeof value === "string") return [name, { type: "value", value }];
  if (typeof value?.__envVarRef === "string")
    return [name, { type: "envVar", name: value.__envVarRef }];
  throw new Error(`The environment variable "${name}" must be a string or a reference to one`);
}

function exportDefinition() {
  const children = this._childComponents;
  const mounted = children.filter(([, , , prefix]) => prefix !== undefined);
  return {
    ...(this._isRoot ? {} : { name: this._name }),
    ...(this._httpPrefix === undefined ? {} : { httpPrefix: withSlash(this._httpPrefix) }),
    definitionType: this._isRoot
      ? { type: "app" }
      : { type: "childComponent", name: this._name, args: [] },
    childComponents: children.map(([name, definition, env]) => ({
      name,
      path: definition.componentDefinitionPath,
      args: [],
      env: Object.entries(env).filter(([, value]) => value !== undefined).map(exportedEnv),
    })),
    httpMounts: Object.fromEntries(
      mounted.map(([name, , , prefix]) => [withSlash(prefix), `_reference/childComponent/${name}`]),
    ),
    exports: { type: "branch", branch: [] },
    envVars: Object.entries(this._env).map(([name, validator]) => [
      name,
      {
        type: "value",
        value: JSON.stringify(validator.json),
        ...(validator.isOptional === "optional" ? { optional: true } : {}),
      },
    ]),
  };
}

export function defineApp(options) {
  const _env = checkEnv(options?.env);
  checkPrefix(options?.httpPrefix);
  return {
    _isRoot: true,
    _httpPrefix: options?.httpPrefix,
    _childComponents: [],
    _exportTree: {},
    _env,
    env: envReferences(_env),
    export: exportDefinition,
    use,
  };
}

export function defineComponent(name, options) {
  const _env = checkEnv(options?.env);
  return {
    _isRoot: false,
    _name: name,
    _childComponents: [],
    _exportTree: {},
    _onInitCallbacks: {},
    _env,
    env: envReferences(_env),
    export: exportDefinition,
    use,
  };
}
