//! Changes that a function makes to built-in objects do not affect audit log bodies.

use super::*;

/// Changes every object reachable from the global object and from syntax, one at a time, in each
/// way, and then logs a body with all kinds of values.
const MODULE: &str = r#"
class Own { a = 1; toJSON() { return { own: this.a }; } }
const body = () => ({
  plain: { a: 1, b: [true, null, -0, 1.5, 1e21] }, text: "x", list: [1, , [2]], vars: [log.vars.ip, { now: log.vars.now }],
  date: new RealDate(0), boxed: [Object(1), Object("s"), Object(true)], own: new Own(), made: { toJSON: () => "made" },
  map: new RealMap([[1, 2]]), set: new RealSet([1]), bytes: bytes, regex: /x/g, error: error, url: url, params: params,
  proxy: new RealProxy({ a: [1] }, {}), proxied: new RealProxy([1, , 2], {}), nothing: undefined, called() {},
  derived: new (class extends RealDate {})(0), bare: { __proto__: null, a: 1 }, generator: (function* () {})(), promise: promise,
  partial: new RealProxy({ a: [1] }, { __proto__: null, has: () => true }),
  answering: new RealProxy({ a: 1 }, { __proto__: null, get: (t, k) => t[k] }),
});
const RealDate = Date, RealMap = Map, RealSet = Set, RealProxy = Proxy, bytes = new Uint8Array([1, 2]), error = new Error("m"),
  url = new URL("https://example.com/"), params = new URLSearchParams("a=1"), promise = Promise.resolve(1);
const { ownKeys, getPrototypeOf, getOwnPropertyDescriptor, defineProperty, setPrototypeOf, deleteProperty, apply } = Reflect;
const { create } = Object;

function reachable() {
  const found = [];
  const seen = new Set();
  const visit = (value, path) => {
    if ((typeof value !== "object" && typeof value !== "function") || value === null || seen.has(value)) return;
    seen.add(value);
    found.push([path, value]);
    for (const key of ownKeys(value)) {
      const { get, set, value: held } = getOwnPropertyDescriptor(value, key);
      for (const next of [get, set, held]) visit(next, `${path}.${String(key)}`);
    }
    visit(getPrototypeOf(value), `${path}.__proto__`);
  };
  for (const name of ownKeys(globalThis)) void globalThis[name]; // some are made when they are first used
  visit(globalThis, "globalThis");
  const syntax = [function* () {}, (function* () {})(), async () => {}, async function* () {}, (async function* () {})(),
    [].values(), new Map().keys(), new Set().keys(), ""[Symbol.iterator](), "".matchAll(/a/g), [].values().map((x) => x), log, log.vars];
  syntax.forEach((value, i) => visit(value, `syntax ${i}`));
  return found;
}

const forged = function () { return { forged: true }; };
const attempt = (change) => { try { change(); } catch {} };
const set = (object, key, descriptor) =>
  attempt(() => defineProperty(object, key, { __proto__: null, configurable: true, enumerable: false, ...descriptor }));
const added = ["toJSON", "$var", "forged", "0", "1", "2", "get", "set", "value", "length", "then", "a", "date", "toISOString", "ip", "ownKeys",
  "description", "constructor", "valueOf", "toString", Symbol.iterator, Symbol.toPrimitive, Symbol.toStringTag, Symbol.species];
// Iterators are changed too, so this code uses none.
const each = (keys, change) => { for (let i = 0; i < keys.length; i++) if (keys[i] !== "prototype") change(keys[i]); };
const ways = {
  functions(object) {
    each(ownKeys(object), (key) => set(object, key, { value: forged, writable: true }));
    each(added, (key) => set(object, key, { value: forged, writable: true }));
  },
  getters(object) {
    each(ownKeys(object), (key) => set(object, key, { get: forged, set: forged }));
    each(added, (key) => set(object, key, { get: () => forged, set: forged }));
  },
  values(object) {
    each(ownKeys(object), (key) => attempt(() => deleteProperty(object, key)));
    each(added, (key) => set(object, key, { value: "forged", writable: true, enumerable: true }));
    const prototype = create(null);
    each(added, (key) => { prototype[key] = forged; });
    attempt(() => setPrototypeOf(object, prototype));
  },
};
const all = reachable();
// Properties of single methods are changed together with everything else.
const objects = all.filter(([, value]) => typeof value === "object" || ownKeys(value).length > 3);
export const count = query(async () => [objects.length, all.length]);
export const honest = query(async () => { await log.audit(body()); });
export const change = query({ args: { i: v.number(), way: v.string() }, handler: (_ctx, { i, way }) => {
  const [path, object] = objects[i];
  const logs = log.audit;
  const logged = body();
  console.log(path);
  ways[way](object);
  logs(logged);
} });
export const late = query({ args: { way: v.string() }, handler: (_ctx, { way }) => {
  const logs = log.audit;
  const logged = body();
  for (let i = 0; i < all.length; i++) if (all[i][1] !== globalThis) ways[way](all[i][1]);
  logs(logged);
} });
"#;

const WAYS: [&str; 3] = ["functions", "getters", "values"];

fn logged(asked: &[(String, String)]) -> Vec<&str> {
    asked.iter().filter(|(op, _)| op != "op").map(|(_, args)| args.as_str()).collect()
}

#[test]
fn changed_built_ins_do_not_affect_bodies() {
    let fixture = fixture(MODULE);
    let (asked, result) = fixture.asked("messages:honest", "[{}]");
    result.unwrap();
    let expected = logged(&asked);
    let body = "{\"body\":{\"plain\":{\"a\":1,\"b\":[true,null,0,1.5,1e+21]},\"text\":\"x\",\"list\":[1,null,[2]],\
                \"vars\":[{\"$var\":\"ip\"},{\"now\":{\"$var\":\"now\"}}],\"date\":\"1970-01-01T00:00:00.000Z\",\
                \"boxed\":[1,\"s\",true],\"own\":{\"own\":1},\"made\":\"made\",";
    assert!(expected[0].starts_with(body), "{}", expected[0]);
    let count = fixture.value("messages:count", "[{}]");
    let [objects, all]: [usize; 2] = serde_json::from_str(&count).unwrap();
    assert!(objects > 100 && all > 500, "{count}");
    for way in WAYS {
        for i in 0..objects {
            let args = format!("[{{\"i\":{i},\"way\":\"{way}\"}}]");
            let mut host =
                Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
            let ran = fixture.run_with("messages:change", &args, &SEED, &ample(), &mut host);
            assert_eq!(logged(&host.asked), expected, "{way} of {:?}", ran.log_lines.first());
        }
        let (asked, _) = fixture.asked("messages:late", &format!("[{{\"way\":\"{way}\"}}]"));
        assert_eq!(logged(&asked), expected, "{way} of everything");
    }
}
