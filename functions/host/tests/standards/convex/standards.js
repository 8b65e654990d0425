import { action } from "./_generated/server";
import { outcome } from "../shown.mjs";
import { snippets } from "../snippets.mjs";

export const names = action(async () => Object.keys(snippets));

export const run = action(async (_ctx, { name }) => await outcome(snippets[name]));
