import type { FunctionReference, FunctionReturnType, OptionalRestArgs, UserIdentity } from "convex/server";

export interface RecorderOptions {
  /** The directory of the functions. Default: `convex`. */
  functions?: string;
  /** The program `functions-host`. Default: the environment variable `FUNCTIONS_HOST`, or `functions-host` of the `PATH`. */
  host?: string;
  /** The variables of `process.env` in functions. */
  env?: Record<string, string>;
  /** Other settings of the host, with `_` for `-`: `{ function_timeout_ms: 5000 }`. */
  settings?: Record<string, string | number | boolean>;
}

/** A record as it reached the destination. */
export interface AuditRecord {
  /** The body that was logged, with values in place of variables. Empty if it was refused. */
  body: Record<string, unknown>;
  /** Why the body was refused, if it was. */
  refused: string | null;
  /** The function that was called. */
  function: string | null;
  kind: "query" | "mutation" | null;
  /** The same for all logs of one execution and its retries. */
  execution: string | null;
  /** Counts from 1; more if a write conflict made a mutation run again. */
  attempt: number | null;
  /** Whether the result of a query came from the cache. */
  replay: boolean;
  stream: string;
  sequence: number;
}

export interface Recorder {
  /** The URL for other clients, such as `new ConvexClient(recorder.url)`. */
  readonly url: string;
  query<F extends FunctionReference<"query">>(name: F, ...args: OptionalRestArgs<F>): Promise<FunctionReturnType<F>>;
  mutation<F extends FunctionReference<"mutation">>(name: F, ...args: OptionalRestArgs<F>): Promise<FunctionReturnType<F>>;
  action<F extends FunctionReference<"action">>(name: F, ...args: OptionalRestArgs<F>): Promise<FunctionReturnType<F>>;
  /** Calls an HTTP action by its path. */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** The same recorder, for calls by this user. The issuer is the recorder's. */
  withIdentity(identity: Partial<Omit<UserIdentity, "issuer" | "tokenIdentifier">>): Recorder;
  /** The same recorder, for calls from this address with this User-Agent. */
  withRequest(request: { ip?: string; userAgent?: string }): Recorder;
  /** The bodies logged since the last `clear`, in the order in which the host wrote them. */
  logs(): Record<string, unknown>[];
  /** The same logs with their metadata, including refused bodies. */
  records(): AuditRecord[];
  clear(): void;
  /** Waits for the first log that `isWanted` accepts. Rejects after `ms`, by default 4,000. */
  until(isWanted: (log: Record<string, any>) => boolean, options?: { ms?: number }): Promise<Record<string, any>>;
  /** Stops the host and removes its data. */
  close(): Promise<void>;
}

/** Starts the host on functions, with an empty store. */
export function record(options?: RecorderOptions): Promise<Recorder>;
