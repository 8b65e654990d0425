// `fetch`, which this host does not have yet. Read when a function first uses it.

import { kindOf } from "convex:prelude";

export async function fetch() {
  const kind = kindOf();
  throw new Error(
    kind === "action"
      ? "fetch() is not supported by this host"
      : kind === undefined
        ? "fetch() cannot be used while modules are loaded"
        : "fetch() is for actions only: a query or mutation cannot reach outside, and this host's actions cannot either",
  );
}
