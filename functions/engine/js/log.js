// Replaces the module of Convex's package that exports `log`. With the host's own, changes that a
// function or package makes to built-ins do not affect bodies, and a body that is refused fails its
// function.

export { log } from "convex:prelude";
