// `convex/values`.

export const v = {};
