// `convex/server`: the builders of functions and their access to the database, for functions that
// run without the npm package. It uses the same operations of the host as the package does.

import { load, log } from "convex:prelude";
import {
  commitTsPlaceholder,
  ConvexError,
  asObjectValidator,
  convexToJson,
  isSimpleObject,
  jsonToConvex,
  operandToJson,
  patchToJson,
  v,
} from "convex/values";

/// The version passed to the host with some operations, which ignores it.
const VERSION = "1.49.0";
const MAX_QUERY_OPERATORS = 256;

export const functionName = Symbol.for("functionName");
export const toReferencePath = Symbol.for("toReferencePath");

// ---- operations ---------------------------------------------------------------------------------

function operation(op, args) {
  return JSON.parse(Convex.syscall(op, JSON.stringify(args)));
}

async function asyncOperation(op, args) {
  let answer;
  try {
    answer = await Convex.asyncSyscall(op, JSON.stringify(args));
  } catch (failed) {
    if (failed.data === undefined) throw new Error(failed.message);
    const error = new ConvexError(jsonToConvex(failed.data));
    error.message = failed.message;
    throw error;
  }
  return JSON.parse(answer);
}

async function convexOperation(op, args) {
  return jsonToConvex(await asyncOperation(op, args));
}

function required(value, method, name) {
  if (value === undefined) throw new TypeError(`${method}() needs \`${name}\``);
  return value;
}

export function argsObject(args) {
  if (args === undefined) return {};
  if (!isSimpleObject(args))
    throw new Error(`The arguments to a Convex function must be an object. Received: ${args}`);
  return args;
}

// ---- references to functions --------------------------------------------------------------------

/// The host's identification of a function.
export function getFunctionAddress(reference) {
  if (typeof reference === "string") {
    return reference.startsWith("function://")
      ? { functionHandle: reference }
      : { name: reference };
  }
  const name = reference?.[functionName];
  if (name) return { name };
  const path = reference?.[toReferencePath];
  if (path) return { reference: path };
  throw new Error(`${reference} is not a functionReference`);
}

export function getFunctionName(reference) {
  const { name, functionHandle, reference: path } = getFunctionAddress(reference);
  if (name === undefined) {
    throw new Error(
      `Only a function of this component, like "api.file.func", has a name: ${functionHandle ?? path}`,
    );
  }
  return name;
}

export function makeFunctionReference(name) {
  return { [functionName]: name };
}

/// An object whose members, at any depth, are identified by their path. `read` returns the value of
/// a symbol member for a path.
export function pathProxy(parts, read) {
  return new Proxy({}, {
    get(_, property) {
      return typeof property === "string" ? pathProxy([...parts, property], read) : read(parts, property);
    },
  });
}

export const anyApi = pathProxy([], (parts, property) => {
  if (property === Symbol.toStringTag) return "FunctionReference";
  if (property !== functionName) return undefined;
  if (parts.length < 2)
    throw new Error(
      `A function is api.moduleName.functionName, not ${["api", ...parts].join(".")}`,
    );
  const module = parts.slice(0, -1).join("/");
  const exported = parts.at(-1);
  return exported === "default" ? module : `${module}:${exported}`;
});

export function filterApi(api) {
  return api;
}

export function componentsGeneric() {
  return pathProxy([], (parts, property) => {
    if (property !== toReferencePath) return undefined;
    if (parts.length === 0) throw new Error("A component is components.name, not components");
    return `_reference/childComponent/${parts.join("/")}`;
  });
}

export function currentSystemUdfInComponent(componentId) {
  return { [toReferencePath]: `_reference/currentSystemUdfInComponent/${componentId}` };
}

export async function createFunctionHandle(reference) {
  return await asyncOperation("1.0/createFunctionHandle", {
    ...getFunctionAddress(reference),
    version: VERSION,
  });
}

export async function getServiceToken(service) {
  return await asyncOperation("1.0/createServiceToken", { service, version: VERSION });
}

export async function getServiceUrl(service) {
  return await asyncOperation("1.0/getServiceUrl", { service, version: VERSION });
}

// ---- audit logs ---------------------------------------------------------------------------------

export { log };

// ---- queries ------------------------------------------------------------------------------------

class Expression {
  constructor(inner) {
    this.inner = inner;
  }
  serialize() {
    return this.inner;
  }
}

function operand(value) {
  return value instanceof Expression ? value.inner : { $literal: operandToJson(value) };
}

const binary = (name) => (left, right) =>
  new Expression({ [name]: [operand(left), operand(right)] });
const unary = (name) => (value) => new Expression({ [name]: operand(value) });
const variadic = (name) => (...values) => new Expression({ [name]: values.map(operand) });

const filterBuilder = {
  eq: binary("$eq"),
  neq: binary("$neq"),
  lt: binary("$lt"),
  lte: binary("$lte"),
  gt: binary("$gt"),
  gte: binary("$gte"),
  add: binary("$add"),
  sub: binary("$sub"),
  mul: binary("$mul"),
  div: binary("$div"),
  mod: binary("$mod"),
  neg: unary("$neg"),
  and: variadic("$and"),
  or: variadic("$or"),
  not: unary("$not"),
  field: (path) => new Expression({ $field: path }),
};

/// A chain of steps, each of which creates a new link. A link can be used once.
class Chain {
  #steps;
  #isUsed = false;

  constructor(steps = []) {
    this.#steps = steps;
  }
  use() {
    if (this.#isUsed) {
      throw new Error("This builder was used already. Chain the calls, as in `q => q.eq(…).eq(…)`");
    }
    this.#isUsed = true;
    return this.#steps;
  }
  add(step) {
    return new this.constructor([...this.use(), step]);
  }
  export() {
    return this.use();
  }
}

class IndexRange extends Chain {
  eq(fieldPath, value) {
    return this.add({ type: "Eq", fieldPath, value: operandToJson(value) });
  }
  gt(fieldPath, value) {
    return this.add({ type: "Gt", fieldPath, value: operandToJson(value) });
  }
  gte(fieldPath, value) {
    return this.add({ type: "Gte", fieldPath, value: operandToJson(value) });
  }
  lt(fieldPath, value) {
    return this.add({ type: "Lt", fieldPath, value: operandToJson(value) });
  }
  lte(fieldPath, value) {
    return this.add({ type: "Lte", fieldPath, value: operandToJson(value) });
  }
}

export class SearchFilter extends Chain {
  search(fieldPath, value) {
    return this.add({ type: "Search", fieldPath, value });
  }
  eq(fieldPath, value) {
    return this.add({ type: "Eq", fieldPath, value: operandToJson(value) });
  }
}

/// The result of `db.query(table)`: a query whose index has not been chosen.
class QueryInitializer {
  #table;

  constructor(table) {
    this.#table = table;
  }
  withIndex(name, range) {
    const indexName = `${this.#table}.${required(name, "withIndex", "indexName")}`;
    const built = range === undefined ? new IndexRange() : range(new IndexRange());
    return new Query({
      source: { type: "IndexRange", indexName, range: built.export(), order: null },
      operators: [],
    });
  }
  withSearchIndex(name, filter) {
    const indexName = `${this.#table}.${required(name, "withSearchIndex", "indexName")}`;
    const built = required(filter, "withSearchIndex", "searchFilter")(new SearchFilter());
    return new Query({
      source: { type: "Search", indexName, filters: built.export() },
      operators: [],
    });
  }
  fullTableScan() {
    return new Query({
      source: { type: "FullTableScan", tableName: this.#table, order: null },
      operators: [],
    });
  }
  async count() {
    return await convexOperation("1.0/count", { table: this.#table });
  }
  order(order) {
    return this.fullTableScan().order(order);
  }
  filter(predicate) {
    return this.fullTableScan().filter(predicate);
  }
  limit(n) {
    return this.fullTableScan().limit(n);
  }
  collect() {
    return this.fullTableScan().collect();
  }
  take(n) {
    return this.fullTableScan().take(n);
  }
  paginate(options) {
    return this.fullTableScan().paginate(options);
  }
  first() {
    return this.fullTableScan().first();
  }
  unique() {
    return this.fullTableScan().unique();
  }
  [Symbol.asyncIterator]() {
    return this.fullTableScan()[Symbol.asyncIterator]();
  }
}

/// A query that is built, and then read once.
class Query {
  /// The query, until it is executed or passed to the next link.
  #query;
  /// The host's number of the stream of results, while it is open.
  #stream;
  #table;

  constructor(query) {
    this.#query = query;
    this.#table = query.source.tableName ?? query.source.indexName.split(".")[0];
  }
  #take() {
    const query = this.#query;
    if (query === undefined) {
      throw new Error(
        "A query can only be chained once and can't be chained after iteration begins.",
      );
    }
    this.#query = undefined;
    return query;
  }
  order(order) {
    const query = this.#take();
    if (query.source.type === "Search")
      throw new Error("The results of a search are in order of relevance already");
    if (query.source.order !== null) throw new Error("The order of a query can be given once only");
    query.source.order = required(order, "order", "order");
    return new Query(query);
  }
  #with(operator) {
    const query = this.#take();
    if (query.operators.length >= MAX_QUERY_OPERATORS) {
      throw new Error(`A query cannot have more than ${MAX_QUERY_OPERATORS} operators`);
    }
    query.operators.push(operator);
    return new Query(query);
  }
  filter(predicate) {
    return this.#with({
      filter: operand(required(predicate, "filter", "predicate")(filterBuilder)),
    });
  }
  limit(n) {
    return this.#with({ limit: required(n, "limit", "n") });
  }
  #start() {
    this.#stream = operation("1.0/queryStream", { query: this.#take(), version: VERSION }).queryId;
  }
  #end() {
    if (this.#stream !== undefined) operation("1.0/queryCleanup", { queryId: this.#stream });
    this.#stream = undefined;
    this.#query = undefined;
  }
  [Symbol.asyncIterator]() {
    this.#start();
    return this;
  }
  async next() {
    if (this.#stream === undefined) this.#start();
    const { value, done } = await asyncOperation("1.0/queryStreamNext", { queryId: this.#stream });
    if (done) this.#end();
    return { value: jsonToConvex(value), done };
  }
  async return() {
    this.#end();
    return { done: true, value: undefined };
  }
  async paginate(options) {
    const { numItems, cursor, endCursor, maximumRowsRead, maximumBytesRead } = required(
      options, "paginate", "options",
    );
    if (typeof numItems !== "number" || numItems < 0) {
      throw new Error(`paginate(): \`numItems\` must be a positive number, not ${numItems}`);
    }
    const { page, isDone, continueCursor, splitCursor, pageStatus } = await asyncOperation(
      "1.0/queryPage",
      {
        query: this.#take(), cursor, endCursor: endCursor ?? null, pageSize: numItems,
        maximumRowsRead: maximumRowsRead ?? null, maximumBytesRead,
        version: VERSION,
      },
    );
    return { page: page.map(jsonToConvex), isDone, continueCursor, splitCursor, pageStatus };
  }
  async collect() {
    const documents = [];
    for await (const document of this) documents.push(document);
    return documents;
  }
  async take(n) {
    if (!Number.isInteger(n) || n < 0)
      throw new TypeError(`take(): \`n\` must be a whole number, not ${n}`);
    return await this.limit(n).collect();
  }
  async first() {
    return (await this.take(1))[0] ?? null;
  }
  async unique() {
    const [only, another] = await this.take(2);
    if (another !== undefined) {
      throw new Error(
        `unique() query returned more than one result from table ${this.#table}:\n [${only._id}, ${another._id}, ...]`,
      );
    }
    return only ?? null;
  }
}

// ---- the database -------------------------------------------------------------------------------

/// `db.get(id)` and `db.get(table, id)` are both in use: the table comes first if it comes at all.
function tableFirst(count, args) {
  return args.length > count ? args : [undefined, ...args];
}

async function getDocument(table, id, isSystem) {
  if (typeof required(id, "get", "id") !== "string") {
    throw new Error(`db.get(): an id is a string, not ${typeof id}: ${id}`);
  }
  return await convexOperation("1.0/get", { id, isSystem, version: VERSION, table });
}

async function insertDocument(table, value) {
  required(table, "insert", "table");
  required(value, "insert", "value");
  if (table.startsWith("_"))
    throw new Error(`The table ${table} is the system's own: it can only be read`);
  return (await convexOperation("1.0/insert", { table, value: convexToJson(value) }))._id;
}

async function patchDocument(table, id, value) {
  required(id, "patch", "id");
  required(value, "patch", "value");
  await asyncOperation("1.0/shallowMerge", {
    id: convexToJson(id), value: patchToJson(value), table,
  });
}

async function replaceDocument(table, id, value) {
  required(id, "replace", "id");
  required(value, "replace", "value");
  await asyncOperation("1.0/replace", { id: convexToJson(id), value: convexToJson(value), table });
}

async function deleteDocument(table, id) {
  await asyncOperation("1.0/remove", { id: convexToJson(required(id, "delete", "id")), table });
}

/// Tables whose names begin with `_` are read through `db.system`, all others through `db`.
function checkTable(table, isSystem, method) {
  if (table.startsWith("_") !== isSystem) {
    throw new Error(`The table ${table} is read with db.${isSystem ? "" : "system."}${method}()`);
  }
}

function queryOf(table, isSystem) {
  checkTable(required(table, "query", "tableName"), isSystem, "query");
  return new QueryInitializer(table);
}

function readerOf(isSystem) {
  return {
    get: async (...args) => {
      const [table, id] = args[1] === undefined ? [undefined, args[0]] : args;
      return await getDocument(table, id, isSystem);
    },
    query: (table) => queryOf(table, isSystem),
    normalizeId: (table, id) => {
      checkTable(required(table, "normalizeId", "tableName"), isSystem, "normalizeId");
      required(id, "normalizeId", "id");
      return operation("1.0/db/normalizeId", { table, idString: id }).id;
    },
    table: (table) => ({
      get: (id) => getDocument(table, id, isSystem),
      query: () => queryOf(table, isSystem),
    }),
  };
}

function databaseReader() {
  return { ...readerOf(false), system: readerOf(true) };
}

function databaseWriter() {
  const reader = databaseReader();
  return {
    ...reader,
    insert: insertDocument,
    patch: (...args) => patchDocument(...tableFirst(2, args)),
    replace: (...args) => replaceDocument(...tableFirst(2, args)),
    delete: (...args) => deleteDocument(...tableFirst(1, args)),
    table: (table) => ({
      ...reader.table(table),
      insert: (value) => insertDocument(table, value),
      patch: (id, value) => patchDocument(table, id, value),
      replace: (id, value) => replaceDocument(table, id, value),
      delete: (id) => deleteDocument(table, id),
    }),
    vars: { commitTs: commitTsPlaceholder },
  };
}

// ---- what else a function is given --------------------------------------------------------------

function auth() {
  return { getUserIdentity: () => asyncOperation("1.0/getUserIdentity", { requestId: "" }) };
}

function mutationAuth() {
  return {
    ...auth(),
    signJwt: (options) =>
      asyncOperation("1.0/signJwt", { requestId: "", version: VERSION, ...options }),
  };
}

function scheduled(ts, reference, args) {
  return {
    ...getFunctionAddress(reference),
    ts, args: convexToJson(argsObject(args)), version: VERSION,
  };
}

function scheduler(schedule, cancel, more) {
  return {
    runAfter: async (delayMs, reference, args) => {
      if (typeof delayMs !== "number" || !Number.isFinite(delayMs) || delayMs < 0) {
        throw new Error(
          `runAfter(): \`delayMs\` must be a number that is not negative, not ${delayMs}`,
        );
      }
      return await asyncOperation(schedule, {
        ...more,
        ...scheduled((Date.now() + delayMs) / 1000, reference, args),
      });
    },
    runAt: async (time, reference, args) => {
      const ms = time instanceof Date ? time.getTime() : time;
      if (typeof ms !== "number")
        throw new Error("runAt(): the time must be a Date or milliseconds since the Unix epoch");
      return await asyncOperation(schedule, { ...more, ...scheduled(ms / 1000, reference, args) });
    },
    cancel: async (id) => {
      await asyncOperation(cancel, { ...more, id: convexToJson(required(id, "cancel", "id")) });
    },
  };
}

/// File storage, which the host does not support.
function storage(isAction) {
  const ask = (op) => (storageId) =>
    asyncOperation(op, { requestId: "", version: VERSION, storageId });
  const blob = (op) => async () => Convex.jsSyscall(op, {});
  return {
    getUrl: ask("1.0/storageGetUrl"),
    getMetadata: ask("1.0/storageGetMetadata"),
    generateUploadUrl: () =>
      asyncOperation("1.0/storageGenerateUploadUrl", { requestId: "", version: VERSION }),
    delete: ask("1.0/storageDelete"),
    ...(isAction ? { store: blob("storage/storeBlob"), get: blob("storage/getBlob") } : {}),
  };
}

function functionMeta(type, visibility) {
  return {
    getFunctionMetadata: async () => {
      const { name, componentPath } = await asyncOperation("1.0/getFunctionMetadata", {});
      return { name, componentPath, type, visibility };
    },
    getDeploymentMetadata: async () => {
      const {
        name, region, class: deploymentClass,
      } = await convexOperation("1.0/getDeploymentMetadata", {});
      return { name, region: region ?? null, class: deploymentClass };
    },
  };
}

async function getRequestMetadata() {
  const { ip, userAgent, requestId, scheduledFunctionId, authToken } = await asyncOperation(
    "1.0/getRequestMetadata",
    {},
  );
  return { ip, userAgent, requestId, scheduledFunctionId, authToken };
}

const transactionMeta = {
  getTransactionMetrics: () => convexOperation("1.0/getTransactionMetrics", {}),
  getSnapshotTs: () => jsonToConvex(operation("1.0/getSnapshotTs", {})),
};

function runUdf(udfType, reference, args, options) {
  const call = { udfType, args: convexToJson(argsObject(args)), ...getFunctionAddress(reference) };
  if (options?.transactionLimits) call.transactionLimits = options.transactionLimits;
  return convexOperation("1.0/runUdf", call);
}

// ---- functions ----------------------------------------------------------------------------------

function queryCtx(visibility) {
  return {
    db: databaseReader(),
    auth: auth(),
    storage: storage(false),
    meta: { ...functionMeta("query", visibility), ...transactionMeta },
    runQuery: async (reference, args, options) => {
      if (options?.useStaleSnapshot) throw new Error("`useStaleSnapshot` is for mutations only");
      return await runUdf("query", reference, args, options);
    },
  };
}

function mutationCtx(visibility) {
  return {
    db: databaseWriter(),
    auth: mutationAuth(),
    storage: storage(false),
    scheduler: scheduler("1.0/schedule", "1.0/cancel_job", {}),
    meta: { ...functionMeta("mutation", visibility), ...transactionMeta, getRequestMetadata },
    runQuery: async (reference, args, options) =>
      await runUdf(options?.useStaleSnapshot ? "snapshotQuery" : "query", reference, args, options),
    runMutation: async (reference, args, options) =>
      await runUdf("mutation", reference, args, options),
  };
}

function actionCtx(requestId, visibility) {
  const call = (op) => async (reference, args) =>
    await convexOperation(op, {
      ...getFunctionAddress(reference),
      args: convexToJson(argsObject(args)),
      version: VERSION,
      requestId,
    });
  return {
    runQuery: call("1.0/actions/query"),
    runMutation: call("1.0/actions/mutation"),
    runAction: call("1.0/actions/action"),
    auth: auth(),
    scheduler: scheduler("1.0/actions/schedule", "1.0/actions/cancel_job", { requestId }),
    storage: storage(true),
    vectorSearch: (table, index, query) =>
      asyncOperation("1.0/actions/vectorSearch", {
        requestId,
        version: VERSION,
        query: {
          indexName: `${table}.${index}`,
          limit: query?.limit, vector: query?.vector, expressions: null,
        },
      }),
    meta: { ...functionMeta("action", visibility), getRequestMetadata },
  };
}

async function invoke(handler, ctx, argsText) {
  const args = jsonToConvex(JSON.parse(argsText));
  let result;
  try {
    result = await handler(ctx, ...args);
  } catch (thrown) {
    if (typeof thrown === "object" && thrown !== null && Symbol.for("ConvexError") in thrown) {
      thrown.data = JSON.stringify(convexToJson(thrown.data === undefined ? null : thrown.data));
    }
    throw thrown;
  }
  if (result instanceof Query || result instanceof QueryInitializer) {
    throw new Error(
      "A query was returned where its results belong: call collect(), take(n), first() or unique() on it",
    );
  }
  return JSON.stringify(convexToJson(result === undefined ? null : result));
}

/// A validator as JSON text. It must be complete.
function validatorText(validator) {
  return JSON.stringify(validator.json, (field, value) => {
    if (value === undefined) {
      throw new Error(
        `The validator for field "${field}" is undefined. Do modules import each other in a circle?`,
      );
    }
    return value;
  });
}

/// Creates `query`, `internalMutation` and the like.
function maker(name, flags, methods) {
  return (definition) => {
    const handler = typeof definition === "function" ? definition : definition.handler;
    const fn = (ctx, args) => {
      console.warn(
        `A Convex function was called directly: call a helper function, or ctx.run…(), instead of ${name}()`,
      );
      return handler(ctx, args);
    };
    Object.assign(fn, flags, methods(handler));
    fn.exportArgs = () =>
      validatorText(definition.args === undefined ? v.any() : asObjectValidator(definition.args));
    fn.exportReturns = () =>
      definition.returns === undefined
        ? "null"
        : validatorText(asObjectValidator(definition.returns));
    fn._handler = handler;
    return fn;
  };
}

const isPublic = { isPublic: true };
const isInternal = { isInternal: true };

const queryMaker = (name, flags, visibility) =>
  maker(name, { isQuery: true, ...flags }, (handler) => ({
    invokeQuery: (args) => invoke(handler, queryCtx(visibility), args),
  }));
const mutationMaker = (name, flags, visibility) =>
  maker(name, { isMutation: true, ...flags }, (handler) => ({
    invokeMutation: (args) => invoke(handler, mutationCtx(visibility), args),
  }));
const actionMaker = (name, flags, visibility) =>
  maker(name, { isAction: true, ...flags }, (handler) => ({
    invokeAction: (requestId, args) => invoke(handler, actionCtx(requestId, visibility), args),
  }));

export const queryGeneric = queryMaker("query", isPublic, "public");
export const internalQueryGeneric = queryMaker("internalQuery", isInternal, "internal");
export const mutationGeneric = mutationMaker("mutation", isPublic, "public");
export const internalMutationGeneric = mutationMaker("internalMutation", isInternal, "internal");
export const actionGeneric = actionMaker("action", isPublic, "public");
export const internalActionGeneric = actionMaker("internalAction", isInternal, "internal");

export function httpActionGeneric(handler) {
  const fn = (ctx, request) => handler(ctx, request);
  fn.isHttp = true;
  fn._handler = handler;
  fn.invokeHttpAction = (request) => handler(actionCtx("", "public"), request);
  return fn;
}

// ---- HTTP routes --------------------------------------------------------------------------------

export const ROUTABLE_HTTP_METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

export class HttpRouter {
  isRouter = true;
  exactRoutes = new Map();
  prefixRoutes = new Map();

  route = ({ path, pathPrefix, method, handler }) => {
    if (!handler) throw new Error("A route needs a handler");
    if (!ROUTABLE_HTTP_METHODS.includes(method))
      throw new Error(`'${method}' is not an HTTP method that can be routed`);
    const place = path ?? pathPrefix;
    if ((path === undefined) === (pathPrefix === undefined))
      throw new Error("A route has either a path or a pathPrefix");
    if (!place.startsWith("/"))
      throw new Error(`The path of a route starts with a slash: '${place}' does not`);
    if (place === "/.files" || place.startsWith("/.files/"))
      throw new Error(`The path '${place}' is reserved`);
    if (pathPrefix !== undefined && !place.endsWith("/"))
      throw new Error(`The pathPrefix '${place}' must end with a slash`);
    const routes = path === undefined ? this.prefixRoutes : this.exactRoutes;
    const [outer, inner] = path === undefined ? [method, place] : [place, method];
    const known = routes.get(outer) ?? new Map();
    if (known.has(inner)) throw new Error(`There are two routes for ${method} of '${place}'`);
    routes.set(outer, known.set(inner, handler));
  };
  getRoutes = () => {
    const sorted = (map) => [...map.keys()].sort().map((key) => [key, map.get(key)]);
    const exact = sorted(this.exactRoutes).flatMap(([path, methods]) =>
      sorted(methods).map(([method, handler]) => [path, method, handler]),
    );
    const prefixes = sorted(this.prefixRoutes).flatMap(([method, paths]) =>
      sorted(paths).map(([path, handler]) => [`${path}*`, method, handler]),
    );
    return [...exact, ...prefixes];
  };
  /// The handler, method and path of the route for a request: the exact path, or else the longest
  /// prefix.
  lookup = (path, requested) => {
    const method = requested === "HEAD" ? "GET" : requested;
    const exact = this.exactRoutes.get(path)?.get(method);
    if (exact !== undefined) return [exact, method, path];
    const prefixes = [...(this.prefixRoutes.get(method) ?? [])].filter(([prefix]) =>
      path.startsWith(prefix),
    );
    const [longest] = prefixes.sort(([a], [b]) => b.length - a.length);
    return longest === undefined ? null : [longest[1], method, `${longest[0]}*`];
  };
}

export const httpRouter = () => new HttpRouter();

// ---- pagination ---------------------------------------------------------------------------------

export const paginationOptsValidator = v.object({
  numItems: v.number(),
  cursor: v.nullable(v.string()),
  endCursor: v.optional(v.nullable(v.string())),
  id: v.optional(v.number()),
  maximumRowsRead: v.optional(v.number()),
  maximumBytesRead: v.optional(v.number()),
});

export function paginationResultValidator(item) {
  return v.object({
    page: v.array(item),
    continueCursor: v.string(),
    isDone: v.boolean(),
    splitCursor: v.optional(v.nullable(v.string())),
    pageStatus: v.optional(
      v.union(v.literal("SplitRecommended"), v.literal("SplitRequired"), v.null()),
    ),
  });
}

// ---- definitions, loaded when a module has one --------------------------------------------------

const definition = (name) => (...args) => load("convex:definitions")[name](...args);

export const cronJobs = definition("cronJobs");
export const defineTable = definition("defineTable");
export const defineSchema = definition("defineSchema");
export const docValidator = definition("docValidator");
export const defineApp = definition("defineApp");
export const defineComponent = definition("defineComponent");
