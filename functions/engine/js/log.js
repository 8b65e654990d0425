// Stands for the module of Convex's package that has `log`: with this host's own, nothing that a function or a package does to
// the language reaches a body, and a body that is refused fails its function.

export { log } from "convex:prelude";
