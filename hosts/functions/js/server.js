// `convex/server`.

async function invoke(handler, ctx, argsText) {
  const result = await handler(ctx, ...JSON.parse(argsText));
  return JSON.stringify(result ?? null);
}

function register(flag, visibility, method) {
  return (definition) => {
    const handler = typeof definition === "function" ? definition : definition.handler;
    const fn = (ctx, args) => handler(ctx, args);
    fn[flag] = true;
    fn[visibility] = true;
    fn[method] = (...args) => invoke(handler, {}, args[args.length - 1]);
    fn.exportArgs = () => '{"type":"any"}';
    fn.exportReturns = () => "null";
    fn._handler = handler;
    return fn;
  };
}

export const queryGeneric = register("isQuery", "isPublic", "invokeQuery");
export const mutationGeneric = register("isMutation", "isPublic", "invokeMutation");
export const actionGeneric = register("isAction", "isPublic", "invokeAction");
export const internalQueryGeneric = register("isQuery", "isInternal", "invokeQuery");
export const internalMutationGeneric = register("isMutation", "isInternal", "invokeMutation");
export const internalActionGeneric = register("isAction", "isInternal", "invokeAction");
export const httpActionGeneric = () => { throw new Error("x"); };
export const anyApi = {};
export const componentsGeneric = () => ({});
