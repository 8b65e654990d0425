// Uses of the web's and the language's interfaces whose results the standards fix. compare.mjs runs them in Node.js and on the host.

/// What `use` returns or throws for each value.
const each = (values, use) => values.map((value) => {
  try {
    return use(value);
  } catch (error) {
    return error;
  }
});
const eachLater = async (values, use) => {
  const results = [];
  for (const value of values) {
    try {
      results.push(await use(value));
    } catch (error) {
      results.push(error);
    }
  }
  return results;
};
const bytes = (...all) => new Uint8Array(all);
const tick = (ms = 0) => new Promise((resolve) => setTimeout(resolve, ms));
const URL_PARTS = ["href", "origin", "protocol", "username", "password", "host", "hostname", "port", "pathname", "search", "hash"];
const parts = (url) => URL_PARTS.map((part) => url[part]);

export const snippets = { __proto__: null };

// ---- URLs ----------------------------------------------------------------------------------------------------------

snippets["URL parses"] = () => each([
  "http://example.com", "HTTP://EXAMPLE.com:80/a/./b/../c?q=1#f", "https://user:p%40ss@host:444/", "http://[::1]:3000/x", "http://[1::0:0:2]/",
  "http://192.168.257/", "http://0x7f.1/", "http://0300.0250.0.1", "http://256.256.256.256/", "http://1.2.3.4.5/", "file:///C|/a/../b",
  "file://host/share/f", "mailto:a@b.c", "data:text/plain,hi there#f", "javascript:alert(1)", "blob:https://a.com/uuid", "about:blank",
  "http://ex ample.com", "http://a<b", "http://a%00b", "http://münchen.de/ü?ü#ü", "http://xn--mnchen-3ya.de/", "http://☃.net/", "http://a_b.c/",
  "http://EXAMPLE.COM./", "http://a..b/", "http:///a", "http:a", "//x", "", " http://a ", "\thttp://a\n/b\r", "http://a:65536/", "http://a:0/",
  "http://a:/", "http://a:b@c:d@e/", "ws://a:80/", "wss://a:443/x", "ftp://a:21/", "foo://a:80/x y?z'#`", "http://a/ %7e%7E\"<>`{}|\\^[]", "http://a?'\"<>#'\"<>`",
  "http://a/%", "http://a/%zz", "non-special:a/../b", "a:", "1:", "http://a/\\b", "http:\\\\a\\b", "http://user@/", "http://@a", "http://:@a/", "http://a@b@c/",
  "web+demo:/.//not-a-host/", "http://ho%20st/", "http://ho%41st/", "http://\u00ad/", "http://ab\u200dc/", "http://faß.de", "http://1e3/", "http://[::1%25]/", "http://[1.2.3.4]/",
  "http://a/b?c=d&e=f%20g+h", "http://a#\u{1f600}", "http://a/\ud800", "http://.../", "http://a/..%2f", "http://a/%2e%2e/b", "http://a/.%2E/b",
], (href) => parts(new URL(href)));
snippets["URL resolves"] = () => each([
  ["b", "http://a/c/d?e#f"], ["../b", "http://a/c/d/e"], ["/b", "http://a/c"], ["//b/c", "https://a"], ["?x", "http://a/b?c#d"], ["#x", "http://a/b?c#d"],
  ["", "http://a/b?c#d"], [".", "http://a/b/c"], ["..", "http://a/b/c/d"], ["http:b", "http://a/c"], ["http:b", "https://a/c"], ["x:y", "http://a"],
  ["b", "mailto:x"], ["#b", "mailto:x"], ["b", "data:text/plain,x"], ["b", "nope"], ["\\b", "http://a/c"], ["/..//b", "file:///C:/x"], ["C|/b", "file:///d:/x"],
  ["//server/b", "file:///c:/x"], ["http://b", "nope"], ["b", ""], ["b", undefined], [undefined, "http://a/"], [null, "http://a/"], [1, "http://a/"],
], ([href, base]) => parts(new URL(href, base)));
snippets["URL setters"] = () => ["http://u:p@a.com:81/p/q?r=1#s", "mailto:x@y", "file:///a/b", "foo://h/p"].flatMap((href) =>
  each([
    ["protocol", "https"], ["protocol", "https:x"], ["protocol", "foo"], ["protocol", "1"], ["protocol", ""], ["username", "ü@:"], ["username", ""], ["password", "a b"], ["password", ""],
    ["host", "b.com:90"], ["host", "b.com:"], ["host", ""], ["host", "b/c"], ["host", "b?c"], ["host", "[::1]:9"], ["host", "b@c"], ["host", "b:x"], ["hostname", "b.com:90"], ["hostname", "c"], ["hostname", ""],
    ["port", "90"], ["port", "80"], ["port", ""], ["port", "9x"], ["port", "65536"], ["port", 8080], ["port", " 9"], ["pathname", "x y"], ["pathname", "/a/../b"], ["pathname", ""],
    ["pathname", "?#"], ["search", "x=1&y=ü"], ["search", "?"], ["search", ""], ["search", "a'b"], ["hash", "z"], ["hash", "#"], ["hash", ""], ["hash", "a b`"], ["href", "http://other/"],
    ["href", "nope"], ["origin", "http://x"],
  ], ([part, value]) => {
    const url = new URL(href);
    url[part] = value;
    return url.href;
  }));
snippets["URL statics and members"] = () => [
  URL.canParse("http://a"), URL.canParse("a"), URL.canParse("a", "http://b"), new URL("http://a/b").toString(), JSON.stringify(new URL("http://a/b")), `${new URL("http://a/b")}`,
  Object.prototype.toString.call(new URL("http://a")), Object.keys(new URL("http://a")), new URL(new URL("http://a/x")).href, new URL("x", new URL("http://a/b/")).href,
  ...each([() => URL("http://a"), () => new URL(), () => URL.canParse()], (use) => use()),
];
snippets["URL and its parameters follow each other"] = () => {
  const url = new URL("http://a/?x=1&y=%20#h");
  const { searchParams } = url;
  const seen = [searchParams === url.searchParams, searchParams.get("y")];
  searchParams.append("z", "ü&=");
  seen.push(url.href);
  url.search = "?q=1";
  seen.push([...searchParams]);
  searchParams.delete("q");
  seen.push(url.href, url.search);
  url.href = "http://b/?k=v";
  seen.push(searchParams.get("k"), searchParams.size);
  searchParams.sort();
  searchParams.set("k", "'~*-._ \u00e9");
  return [...seen, url.href];
};
snippets["URLSearchParams are made"] = () => each([
  "a=1&b=2&a=3", "?a=1", "??a", "a", "=", "&&", "a=b=c", "a+b=c+d", "%20=%2B", "a=%zz", "a=%C3%28", "\u{1f600}=\ud800", "a=b&", "+", undefined, 1,
  [["a", "1"], ["b", "2"]], [["a"]], [["a", "b", "c"]], ["ab"], ["a"], [1], { a: 1, b: [2, 3], c: null }, { "\ud800": "x", "\ufffd": "y" }, new URLSearchParams("x=1"), new Map([["m", 1]]), new Set(["ab"]), [], {}, true, Symbol.iterator,
  () => 1, new Date(0), [new Set(["p", "q"])], "a=\u0000", "a;b", "%EF%BB%BFtest=x", "a=1\n2",
], (init) => {
  const params = new URLSearchParams(init);
  return [[...params], params.toString(), params.size];
});
snippets["URLSearchParams change"] = () => {
  const params = new URLSearchParams("a=1&b=2&a=3&c=&z=\u00e9&\ud83d\ude00=1&\ufffd=2");
  const seen = [params.getAll("a"), params.get("none"), params.has("a", "3"), params.has("a", "9"), params.has("a", undefined)];
  params.append("a", undefined);
  params.set("b", null);
  params.delete("a", "3");
  seen.push(params.toString());
  params.set("a", "only");
  params.set("new", {});
  params.sort();
  seen.push(params.toString(), [...params.keys()], [...params.values()], params.size);
  const walked = [];
  for (const [name] of params) {
    walked.push(name);
    if (walked.length < 4) params.delete(name);
  }
  params.forEach(function (value, name, all) { walked.push([value, name, all === params, this.self]); }, { self: 1 });
  return [...seen, walked, Object.prototype.toString.call(params), Object.prototype.toString.call(params.entries()), params.entries()[Symbol.iterator] !== undefined];
};
snippets["URLSearchParams check their arguments"] = () => {
  const params = new URLSearchParams();
  return each([
    () => params.append("a"), () => params.get(), () => params.has(), () => params.set("a"), () => params.delete(), () => params.getAll(), () => params.forEach(), () => params.forEach(1),
    () => params.append(Symbol("a"), 1), () => URLSearchParams.prototype.get.call({}, "a"), () => URLSearchParams(),
  ], (use) => use());
};

// ---- text ----------------------------------------------------------------------------------------------------------

const LABELS = [
  "utf-8", "UTF8", " utf-8\n", "unicode-1-1-utf-8", "x-unicode20utf8", "unicode11utf8", "ibm866", "cp866", "csibm866", "iso-8859-2", "latin2", "iso-8859-3", "iso-8859-4", "iso-8859-5", "cyrillic", "iso-8859-6", "arabic",
  "iso-8859-7", "greek", "iso-8859-8", "iso-8859-8-i", "logical", "iso-8859-10", "iso-8859-13", "iso-8859-14", "iso-8859-15", "koi8-r", "koi8-u", "macintosh", "x-mac-roman", "windows-874", "windows-1250", "windows-1251", "cp1251",
  "windows-1252", "ascii", "latin1", "iso-8859-1", "windows-1253", "windows-1254", "iso-8859-9", "windows-1255", "windows-1256", "windows-1257", "windows-1258", "x-mac-cyrillic", "gbk", "gb2312", "chinese", "gb18030", "big5", "big5-hkscs", "euc-jp",
  "iso-2022-jp", "shift_jis", "sjis", "ms932", "euc-kr", "ks_c_5601-1987", "windows-949", "utf-16be", "utf-16le", "utf-16", "ucs-2", "unicodefffe", "csunicode", "iso-10646-ucs-2", "utf-7", "utf-32", "", "nonsense", "utf_8", "\u00a0utf-8", "iso-8859-12",
];
snippets["TextDecoder labels"] = () => each(LABELS, (label) => new TextDecoder(label).encoding);
// For the encodings that are not listed here, Node.js maps some bytes differently than the
// standard.
snippets["TextDecoder legacy encodings"] = () => each(
  ["ibm866", ...[2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15].map((n) => `iso-8859-${n}`), "koi8-r", "macintosh", "windows-1250", "windows-1251", "windows-1254", "windows-1256", "windows-1257", "windows-1258", "x-mac-cyrillic", "gb18030"],
  (label) => new TextDecoder(label).decode(Uint8Array.from({ length: 128 }, (_, i) => i + 128)),
);
snippets["TextDecoder of several bytes"] = () => [
  ["shift_jis", [0x93, 0xfa, 0x96, 0x7b, 0x8c, 0xea, 0xb1]], ["euc-jp", [0xc6, 0xfc, 0xcb, 0xdc]], ["iso-2022-jp", [0x1b, 0x24, 0x42, 0x46, 0x7c, 0x1b, 0x28, 0x42, 0x41]], ["euc-kr", [0xc7, 0xd1, 0xb1, 0xdb]], ["gbk", [0xd6, 0xd0, 0xce, 0xc4, 0x80]],
  ["gb18030", [0x84, 0x31, 0xa4, 0x37, 0xd6, 0xd0]], ["big5", [0xa4, 0xa4, 0xa4, 0xe5]],
].map(([label, of]) => new TextDecoder(label).decode(Uint8Array.from(of)));
snippets["TextDecoder of UTF-8"] = () => [
  [0xc3, 0xa9], [0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf0, 0x9f, 0x98, 0x80], [0xf0, 0x9f, 0x98], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82], [0x61, 0xe2, 0x82, 0x62], [0xef, 0xbb, 0xbf, 0x61], [0xef, 0xbb, 0xbf], [0xef, 0xbb], [0xef, 0xbb, 0xbf, 0xef, 0xbb, 0xbf], [0xf8, 0x88], [0x80, 0x80], [],
].map((of) => [
  new TextDecoder().decode(Uint8Array.from(of)), ...each([() => new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(of)), () => new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(of))], (use) => use()),
]);
snippets["TextDecoder of UTF-16"] = () => [
  [0x61, 0x00], [0x3d, 0xd8, 0x00, 0xde], [0x3d, 0xd8], [0x00, 0xde], [0x61], [0xff, 0xfe, 0x61, 0x00], [0xfe, 0xff, 0x00, 0x61], [0x3d, 0xd8, 0x61, 0x00], [0x3d, 0xd8, 0x00], [],
].map((of) => each([
  () => new TextDecoder("utf-16le").decode(Uint8Array.from(of)), () => new TextDecoder("utf-16be").decode(Uint8Array.from(of)), () => new TextDecoder("utf-16le", { fatal: true }).decode(Uint8Array.from(of)), () => new TextDecoder("utf-16le", { ignoreBOM: true }).decode(Uint8Array.from(of)),
], (use) => use()));
snippets["TextDecoder of streams"] = () => [["utf-8", "a\u00e9\u20ac\u{1f600}\ufeffz"], ["utf-8", "\ufeffb"]].flatMap(([label, text]) => {
  const all = new TextEncoder().encode(text);
  return [1, 2, 3, 5].map((size) => {
    const decoder = new TextDecoder(label);
    const pieces = [];
    for (let at = 0; at < all.length; at += size) pieces.push(decoder.decode(all.subarray(at, at + size), { stream: true }));
    return [...pieces, decoder.decode(), decoder.decode(bytes(0xef, 0xbb, 0xbf, 0x61))];
  });
});
snippets["TextDecoder of streams in other encodings"] = () => [["utf-16le", [0xff, 0xfe, 0x3d, 0xd8, 0x00, 0xde, 0x61, 0x00, 0x62]], ["utf-16be", [0xd8, 0x3d, 0xde, 0x00, 0x00, 0x61]], ["shift_jis", [0x93, 0xfa, 0x96, 0x7b, 0x41, 0x93]]].map(([label, of]) => {
  const decoder = new TextDecoder(label);
  return [...of.map((byte) => decoder.decode(bytes(byte), { stream: true })), decoder.decode()];
});
snippets["TextDecoder of streams that break off"] = () => {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  return each([
    () => decoder.decode(bytes(0xe2, 0x82), { stream: true }), () => decoder.decode(), () => decoder.decode(bytes(0x61)), () => decoder.decode(bytes(0xe2), { stream: true }), () => decoder.decode(bytes(0x61), { stream: true }), () => decoder.decode(bytes(0x62)),
  ], (use) => use());
};
snippets["TextDecoder takes"] = () => each([
  undefined, new ArrayBuffer(2), new DataView(new ArrayBuffer(3), 1), new Uint16Array([0x6161]), new Float32Array(1), new Uint8Array([97, 98, 99]).subarray(1), null, "a", 1, {}, [97],
], (source) => new TextDecoder().decode(source));
snippets["TextDecoder members"] = () => {
  const decoder = new TextDecoder("utf-16", { fatal: 1, ignoreBOM: "x" });
  return [decoder.encoding, decoder.fatal, decoder.ignoreBOM, Object.prototype.toString.call(decoder), ...each([() => TextDecoder(), () => new TextDecoder(null), () => new TextDecoder(undefined, null).fatal, () => new TextDecoder("utf-8", 1)], (use) => use())];
};
snippets["TextEncoder"] = () => {
  const encoder = new TextEncoder();
  const into = (text, size) => {
    const target = new Uint8Array(size);
    return [encoder.encodeInto(text, target), target];
  };
  return [
    encoder.encode("a\u00e9\u20ac\u{1f600}\ud800\udc00\ud800"), encoder.encode(), encoder.encode(undefined), encoder.encode(null), encoder.encode(1), encoder.encoding, into("a\u00e9\u20ac", 3), into("a\u00e9\u20ac", 2), into("\u{1f600}", 3), into("\ud800x", 5), into("", 0),
    ...each([() => encoder.encodeInto("a"), () => encoder.encodeInto("a", [1]), () => TextEncoder()], (use) => use()),
  ];
};
snippets["base64"] = () => [
  each(["", "a", "ab", "abc", "\u00ff\u0000", "\u0100", 1, null, undefined], (text) => btoa(text)), each(["", "YQ==", "YQ", "YWI=", " Y W\nI = ", "YQ=", "Y", "YWJj=", "====", "YQ==YQ==", "YR==", "a-b_", "\u00a0YQ==", null, undefined, 12], (text) => atob(text)), ...each([() => atob(), () => btoa()], (use) => use()),
];

// ---- structuredClone -----------------------------------------------------------------------------------------------

snippets["structuredClone copies"] = () => {
  const cycle = { name: "c" };
  cycle.self = cycle;
  const shared = { x: 1 };
  const buffer = new ArrayBuffer(8);
  const views = structuredClone([new Uint8Array(buffer, 2, 3), new Uint16Array(buffer)]);
  const pattern = /a(?<n>b)/giu;
  pattern.lastIndex = 3;
  const found = structuredClone([shared, shared]);
  class Point { x = 1; #y = 2; get z() { return 3; } }
  return [
    ...each([1, -0, NaN, 1n, "a", null, undefined, true, [1, , 3], { a: [{}] }, new Date(5), new Date(NaN), pattern, new Map([[{ k: 1 }, new Set([1])]]), new Error("m"), new TypeError("t", { cause: { c: 1 } }), Object(1), Object("s"), Object(false), Object(1n), buffer, new DataView(buffer, 1, 2), cycle, new Point(), Object.create({ inherited: 1 }, { own: { value: 1, enumerable: true }, hidden: { value: 2 } }), { get g() { return 7; } }, Object.freeze({ f: 1 }), Object.assign([1, 2], { extra: 1 }), new Float64Array([0.5, -0]), new BigInt64Array([5n]), { [Symbol("s")]: 1, a: 2 }, new Array(3), Object.create(null), new (class extends Array {})(1, 2), new (class extends Map {})([[1, 2]]), new (class Own extends Error { name = "Own"; code = 7; })("o"), new RangeError("r"), new AggregateError([1], "agg"), arguments0(1, 2)], (value) => structuredClone(value)),
    found[0] === found[1], views[0].buffer === views[1].buffer, views[0].byteOffset, structuredClone(new Point()) instanceof Point, Object.isFrozen(structuredClone(Object.freeze({}))), Object.getOwnPropertyDescriptor(structuredClone({ get g() { return 7; } }), "g"),
  ];
};
function arguments0() { return arguments; }
snippets["structuredClone of errors"] = () => [new Error("m"), new TypeError("t"), Object.assign(new Error("x"), { name: "RangeError", extra: 1 }), Object.assign(new Error("x"), { name: "Custom" }), new Error("m", { cause: new Error("inner") })].map((error) => {
  const copy = structuredClone(error);
  return [copy.constructor.name, copy.name, copy.message, Object.keys(copy), "cause" in copy, typeof copy.stack];
});
snippets["structuredClone refuses"] = () => each([
  () => 1, Symbol("s"), { f() {} }, new WeakMap(), new WeakSet(), Promise.resolve(), new WeakRef({}), [class {}], function* () {}(), new Proxy({ a: 1 }, {}), { get bad() { throw new RangeError("own"); } }, [][Symbol.iterator](), Object(Symbol("s")),
], (value) => structuredClone(value));
snippets["structuredClone transfers"] = () => {
  const buffer = new ArrayBuffer(4);
  const view = new Uint8Array(buffer).fill(7);
  const copy = structuredClone({ buffer, view }, { transfer: [buffer] });
  return [copy, copy.buffer === copy.view.buffer, buffer.byteLength, view.length, ...each([() => structuredClone(), () => structuredClone(1, { transfer: [new ArrayBuffer(1)] }), () => { const one = new ArrayBuffer(1); return structuredClone(1, { transfer: [one, one] }); }], (use) => use())];
};

// ---- headers, bodies, forms ----------------------------------------------------------------------------------------

snippets["Headers are made"] = () => each([
  undefined, {}, { b: 1, A: "x" }, [["a", "1"], ["A", "2"], ["set-cookie", "x"], ["Set-Cookie", "y"]], new Headers({ a: "1" }), new Map([["m", "1"]]), [["a"]], [["a", "b", "c"]], ["ab"], null, 1, "ab", true, [["a b", "x"]], [["", "x"]], { a: "x\ny" }, { a: " x\t" }, { a: "\u00e9" }, { a: "\u0100" }, { "\u00e9": "x" }, { a: undefined, b: null, c: [1, 2] }, { a: "\0" }, { a: "x\r\n" }, { "a:": "x" }, { [Symbol("s")]: "x" }, { a: "" },
], (init) => [...new Headers(init)]);
snippets["Headers change"] = () => {
  const headers = new Headers({ "X-B": "1", "x-a": "2" });
  headers.append("X-b", "3");
  headers.set("Z", "9");
  headers.append("set-cookie", "a=1");
  headers.append("set-cookie", "b=2");
  const seen = [headers.get("x-B"), headers.get("none"), headers.has("X-A"), headers.getSetCookie(), headers.get("set-cookie"), [...headers.keys()], [...headers.values()], [...headers]];
  headers.delete("x-A");
  headers.set("set-cookie", "only");
  const walked = [];
  headers.forEach(function (value, name, all) { walked.push([value, name, all === headers, this.self]); }, { self: 1 });
  return [...seen, walked, Object.prototype.toString.call(headers), ...each([() => headers.get(), () => headers.get("a b"), () => headers.append("a"), () => headers.set("a", "\n x \r"), () => headers.get("a"), () => headers.has(""), () => headers.delete("a b"), () => headers.forEach(1), () => Headers()], (use) => use())];
};
snippets["Headers combine what is appended while they are walked"] = () => {
  const headers = new Headers({ a: "1", c: "3" });
  const walked = [];
  for (const [name] of headers) {
    walked.push(name);
    if (name === "a") headers.append("b", "2");
  }
  return walked;
};
const requestParts = (request) => [request.method, request.url, [...request.headers], request.redirect, request.credentials, request.mode, request.cache, request.referrer, request.referrerPolicy, request.integrity, request.keepalive, request.destination, request.bodyUsed, request.body === null, request.signal.aborted];
snippets["Request is made"] = () => each([
  ["http://a"], ["http://a/?x#f"], [new URL("http://a/b")], ["nope"], ["/x"], ["http://u:p@a/"], ["http://a", { method: "post" }], ["http://a", { method: "PaTcH" }], ["http://a", { method: "foo" }], ["http://a", { method: "TRACE" }], ["http://a", { method: "a b" }],
  ["http://a", { body: "x" }], ["http://a", { method: "HEAD", body: "x" }], ["http://a", { method: "POST", body: "x" }], ["http://a", { method: "POST", body: "x", headers: { "content-type": "a/b" } }], ["http://a", { method: "POST", body: new URLSearchParams("a=1") }], ["http://a", { method: "POST", body: new Blob(["x"], { type: "T/U" }) }], ["http://a", { method: "POST", body: bytes(1) }],
  ["http://a", { method: "POST", body: null }], ["http://a", { method: "POST", body: 5 }], ["http://a", { redirect: "manual" }], ["http://a", { redirect: "x" }], ["http://a", { headers: [["a", "1"]] }], ["http://a", null], ["http://a", { signal: null }], ["http://a", { signal: {} }], ["http://a", { credentials: "x" }], ["http://a", { cache: "no-store", credentials: "omit" }], [new Request("http://a", { method: "POST", body: "x" })], [new Request("http://a", { headers: { a: "1" } }), { headers: { b: "2" } }],
], ([input, init]) => requestParts(new Request(input, init)));
snippets["Request and its bodies"] = () => eachLater([
  () => new Request("http://a", { method: "POST", body: "\ufeffh\u00e9" }).text(), () => new Request("http://a").text(), () => new Request("http://a", { method: "POST", body: '{"a":1}' }).json(), () => new Request("http://a", { method: "POST", body: "{" }).json(), () => new Request("http://a").json(), () => new Request("http://a", { method: "POST", body: bytes(1, 2) }).arrayBuffer(),
  async () => { const blob = await new Request("http://a", { method: "POST", body: "x", headers: { "content-type": "Text/Plain; Charset=X" } }).blob(); return [blob.type, blob.size]; },
  async () => { const request = new Request("http://a", { method: "POST", body: "x" }); await request.text(); return [request.bodyUsed, await request.text()]; },
  async () => { const request = new Request("http://a", { method: "POST", body: "x" }); const copy = request.clone(); return [await request.text(), copy.bodyUsed, await copy.text()]; },
  async () => { const request = new Request("http://a", { method: "POST", body: "x" }); await request.text(); return request.clone(); }, async () => { const request = new Request("http://a", { method: "POST", body: "x" }); const other = new Request(request); return [request.bodyUsed, await other.text()]; },
  async () => { const request = new Request("http://a", { method: "POST", body: "x" }); const other = new Request(request, { body: "y" }); return [request.bodyUsed, await other.text()]; }, async () => { const request = new Request("http://a", { method: "POST", body: "x" }); await request.text(); return new Request(request); },
  async () => { const request = new Request("http://a", { method: "POST", body: "x" }); request.body.getReader(); return await request.text(); }, async () => { const request = new Request("http://a"); await request.text(); return [request.bodyUsed, await request.text()]; },
  async () => { const controller = new AbortController(); const request = new Request("http://a", { signal: controller.signal }); controller.abort(new RangeError("r")); return [request.signal.aborted, request.signal.reason, request.signal === controller.signal]; }, async () => { const request = new Request("http://a", { method: "POST", body: "x" }); return [request.body === request.body, request.body.locked, (await request.body.getReader().read()).value]; },
], (use) => use());
const responseParts = (response) => [response.status, response.statusText, response.ok, response.type, response.url, response.redirected, [...response.headers], response.body === null];
snippets["Response is made"] = () => each([
  () => new Response(), () => new Response("x", { status: 201, statusText: "Made", headers: { a: "1" } }), () => new Response("x", { status: 204 }), () => new Response(null, { status: 204 }), () => new Response("", { status: 304 }), () => new Response("x", { status: 199 }), () => new Response("x", { status: 600 }), () => new Response("x", { status: "201" }), () => new Response("x", { status: 200.9 }), () => new Response("x", { statusText: "\u0100" }), () => new Response("x", { statusText: "a\nb" }),
  () => new Response(null, null), () => new Response(undefined), () => new Response(1), () => new Response({}), () => new Response(new FormData()).headers.get("content-type").startsWith("multipart/form-data; boundary="), () => Response.json({ a: 1 }), () => Response.json(undefined), () => Response.json({ a: 1 }, { status: 201, headers: { "content-type": "x/y" } }), () => Response.json(1n), () => Response.json(null, { status: 204 }), () => Response.redirect("http://a/b"), () => Response.redirect("http://a/b", 308), () => Response.redirect("http://a/b", 200), () => Response.redirect("nope"), () => Response.error(),
  () => Response.redirect("http://a").headers.append("a", "b"), () => Response.error().headers.set("a", "b"), () => new Response("x", { headers: null }), () => new Response("x", { headers: [["a", "1"], ["a", "2"]] }), () => Response("x"), () => new Response(Symbol("x")),
], (make) => { const made = make(); return made instanceof Response ? responseParts(made) : made; });
snippets["Response and its bodies"] = () => eachLater([
  () => new Response("x").text(), () => new Response(bytes(0xff)).text(), () => new Response("[1]").json(), () => new Response("").json(), () => new Response(new Blob(["a", "b"])).text(), () => new Response(new URLSearchParams("a=1 2")).text(), () => new Response(new URLSearchParams("a=1+2&b=%C3%A9")).formData().then((form) => [...form]), () => new Response("a=1").formData(), () => new Response("x", { headers: { "content-type": "multipart/form-data" } }).formData(),
  () => new Response("x", { headers: { "content-type": "multipart/form-data; boundary=b" } }).formData(), () => new Response('--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b\r\ncontent-disposition: form-data; name="f"; filename="x.txt"\r\nContent-Type: text/x\r\n\r\nfile\r\n--b--\r\n', { headers: { "content-type": 'multipart/form-data; boundary="b"' } }).formData().then(async (form) => [form.get("a"), form.get("f").name, form.get("f").type, await form.get("f").text()]),
  async () => { const form = new FormData(); form.append('n"\r\na', "l1\nl2"); form.append("f", new File(["c"], 'q"\n.t', { type: "a/b" })); form.append("g", new Blob(["d"])); const back = await new Response(form).formData(); return [...back].map(([name, value]) => [name, typeof value === "string" ? value : [value.name, value.type, value.size]]); },
  async () => { const response = new Response("x"); await response.text(); return response.text(); }, async () => { const response = new Response("x"); await response.text(); return response.clone(); }, async () => { const response = new Response("xy", { status: 201, headers: { a: "1" } }); const copy = response.clone(); return [...responseParts(copy), await copy.text(), await response.text()]; }, async () => { const response = new Response("x"); const reader = response.body.getReader(); const first = await reader.read(); reader.releaseLock(); return [first.value, response.bodyUsed, await response.text()]; },
  async () => { const stream = new ReadableStream({ start(controller) { controller.enqueue(bytes(97)); controller.enqueue(bytes(98)); controller.close(); } }); const response = new Response(stream); return [response.headers.get("content-type"), await response.text(), stream.locked]; }, async () => await new Response(new ReadableStream({ start(controller) { controller.enqueue("text"); controller.close(); } })).text(), async () => { const stream = new ReadableStream(); stream.getReader(); return new Response(stream); }, async () => await new Response(new ReadableStream({ pull(controller) { controller.error(new RangeError("own")); } })).text(),
  async () => { const response = new Response("abc"); const [a, b] = response.body.tee(); return [await new Response(a).text(), await new Response(b).text(), response.bodyUsed]; }, async () => { const response = new Response("x"); response.body.cancel(); return [response.bodyUsed, await response.text()]; }, async () => { const chunks = []; for await (const chunk of new Response("abc").body) chunks.push(chunk); return chunks; }, async () => { const response = new Response(null); return [await response.text(), response.bodyUsed, await response.text()]; }, async () => await new Response("x".repeat(70_000)).arrayBuffer().then((buffer) => buffer.byteLength),
], (use) => use());
snippets["FormData"] = () => {
  const form = new FormData();
  form.append("a", 1);
  form.append("a", "2");
  form.append("b", new Blob(["x"], { type: "t/u" }));
  form.append("b", new Blob(["y"]), "named");
  form.append("c", new File(["z"], "own"));
  form.append("c", new File(["z"], "own"), "other");
  const seen = [form.get("a"), form.getAll("a"), form.get("none"), form.has("b"), form.getAll("b").map((file) => [file.name, file.type, file.size, file instanceof File]), form.getAll("c").map((file) => file.name), [...form.keys()]];
  form.set("a", null);
  form.delete("b");
  form.set("new", undefined);
  const walked = [];
  form.forEach(function (value, name, all) { walked.push([typeof value, name, all === form, this.self]); }, { self: 1 });
  return [...seen, walked, Object.prototype.toString.call(form), ...each([() => form.append("a"), () => form.append("a", "b", "c"), () => form.get(), () => new FormData({}), () => new FormData(null), () => form.set("a", new Blob([]), undefined), () => FormData(), () => form.append("\ud800", "\ud800")], (use) => use()), [...form.entries()].at(-1)];
};
snippets["Blob"] = async () => {
  const blob = new Blob(["a\r\nb", bytes(0xff), new ArrayBuffer(1), new Blob(["c"]), 1, {}, "\ud800"], { type: "Text/Plain" });
  return [
    blob.size, blob.type, await blob.slice(0, 4).text(), blob.slice(1, 2, "X/Y").type, blob.slice(-3).size, blob.slice(2, 1).size, blob.slice(0, -2).size, blob.slice(100).size, await blob.slice(4, 5).arrayBuffer(), (await blob.text()).length, Object.prototype.toString.call(blob), blob.slice().type,
    ...each([() => new Blob().size, () => new Blob(null), () => new Blob("a"), () => new Blob({}), () => new Blob([], { type: "a\u0000b" }).type, () => new Blob([], { type: "\u00e9" }).type, () => new Blob([], null).type, () => new Blob([], { endings: "x" }), () => new Blob(["a\r\nb\rc\n"], { endings: "native" }).size, () => new Blob(new Set(["ab", "c"])).size, () => Blob(), () => new Blob([Symbol("x")]), () => new Blob(bytes(1, 2, 3)).size], (use) => use()),
    await new Response(new Blob(["x"]).stream()).text(),
  ];
};
snippets["File"] = () => {
  const file = new File(["ab"], "n.txt", { type: "T/X", lastModified: 5 });
  return [file.name, file.type, file.size, file.lastModified, file instanceof Blob, file.slice(0, 1) instanceof File, Object.prototype.toString.call(file), ...each([() => new File(["a"]), () => new File(), () => new File([], "\ud800").name, () => new File([], 1).name, () => typeof new File([], "x").lastModified, () => new File([], "x", { lastModified: new Date(7) }).lastModified, () => File([], "x")], (use) => use())];
};

// ---- streams -------------------------------------------------------------------------------------------------------

const drained = async (stream) => {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
};
snippets["ReadableStream calls its source"] = async () => {
  const calls = [];
  const stream = new ReadableStream({
    start(controller) { calls.push(["start", controller.desiredSize]); },
    pull(controller) {
      calls.push(["pull", controller.desiredSize]);
      controller.enqueue(calls.length);
      if (calls.length > 5) controller.close();
    },
    cancel(reason) { calls.push(["cancel", reason]); },
  }, { highWaterMark: 2 });
  await tick();
  calls.push("ticked");
  const reader = stream.getReader();
  const first = await reader.read();
  reader.releaseLock();
  return [first, await drained(stream), calls, stream.locked];
};
snippets["ReadableStream ends"] = () => eachLater([
  async () => { const log = []; const stream = new ReadableStream({ cancel(reason) { log.push(reason); return "ignored"; } }); return [await stream.cancel("why"), log, (await stream.getReader().read())]; },
  async () => { const stream = new ReadableStream({ start(c) { c.error(new RangeError("r")); } }); return await stream.getReader().read(); }, async () => { const stream = new ReadableStream({ start() { throw new RangeError("r"); } }); return stream; }, async () => { const stream = new ReadableStream({ start: async () => { throw new RangeError("r"); } }); return await stream.getReader().closed; }, async () => { const stream = new ReadableStream({ pull() { throw new RangeError("r"); } }); return await stream.getReader().read(); },
  async () => { const stream = new ReadableStream({ start(c) { c.enqueue(1); c.close(); } }); const reader = stream.getReader(); return [await reader.read(), await reader.read(), await reader.closed]; }, async () => { let c; new ReadableStream({ start(given) { c = given; } }); c.close(); return each([() => c.close(), () => c.enqueue(1), () => c.error(1), () => c.desiredSize], (use) => use()); }, async () => { const stream = new ReadableStream(); stream.getReader(); return each([() => stream.getReader(), () => stream.tee(), () => stream[Symbol.asyncIterator]()], (use) => use()); },
  async () => { const stream = new ReadableStream(); stream.getReader(); return await stream.cancel(); }, async () => { const reader = new ReadableStream().getReader(); reader.releaseLock(); return await eachLater([() => reader.read(), () => reader.cancel(), () => reader.closed, () => reader.releaseLock()], (use) => use()); }, async () => { const stream = new ReadableStream(); const reader = stream.getReader(); const read = reader.read(); reader.releaseLock(); return [stream.locked, await read.catch((e) => e)]; }, async () => { const stream = new ReadableStream({ cancel() { throw new RangeError("c"); } }); return await stream.cancel(); },
  async () => { const log = []; const stream = new ReadableStream({ pull(c) { c.enqueue(1); }, cancel(r) { log.push(["cancel", r]); } }); for await (const chunk of stream) { log.push(chunk); break; } return [log, stream.locked]; }, async () => { const stream = new ReadableStream({ pull(c) { c.enqueue(1); } }); for await (const chunk of stream.values({ preventCancel: true })) { if (chunk) break; } return [stream.locked, await stream.getReader().read()]; }, async () => drained(ReadableStream.from([1, Promise.resolve(2)])), async () => drained(ReadableStream.from((async function* () { yield 1; yield 2; })())), async () => ReadableStream.from(1), async () => drained(ReadableStream.from("ab")),
], (use) => use());
snippets["ReadableStream checks its arguments"] = () => each([
  () => new ReadableStream({ type: "x" }), () => new ReadableStream({ type: null }), () => new ReadableStream({}, { highWaterMark: -1 }), () => new ReadableStream({}, { highWaterMark: NaN }), () => new ReadableStream({}, { size: 1 }), () => new ReadableStream({ pull: 1 }), () => new ReadableStream({ type: "bytes" }, { size() {} }), () => new ReadableStream().getReader({ mode: "x" }), () => new ReadableStream().getReader({ mode: "byob" }), () => new ReadableStreamDefaultReader({}), () => new ReadableStreamDefaultController(), () => ReadableStream(), () => new ReadableStream(null), () => new ReadableStream().pipeThrough({}), () => new CountQueuingStrategy({ highWaterMark: 3 }).highWaterMark, () => new CountQueuingStrategy({ highWaterMark: 3 }).size(), () => new ByteLengthQueuingStrategy({ highWaterMark: 3 }).size(bytes(1, 2)), () => new CountQueuingStrategy(), () => new CountQueuingStrategy({}),
], (use) => { const made = use(); return typeof made === "object" ? "made" : made; });
snippets["ReadableStream of bytes"] = () => eachLater([
  async () => { const stream = new ReadableStream({ type: "bytes", start(c) { c.enqueue(bytes(1, 2, 3)); c.close(); } }); const reader = stream.getReader({ mode: "byob" }); const first = await reader.read(new Uint8Array(2)); const second = await reader.read(new Uint8Array(2)); return [first, second, await reader.read(new Uint8Array(2))]; },
  async () => { const stream = new ReadableStream({ type: "bytes", start(c) { c.enqueue(bytes(1, 2)); } }); const view = new Uint8Array(4); const { value } = await stream.getReader({ mode: "byob" }).read(view); return [value, view.byteLength]; }, async () => { const calls = []; const stream = new ReadableStream({ type: "bytes", autoAllocateChunkSize: 4, pull(c) { calls.push(c.byobRequest?.view.byteLength); c.byobRequest.view[0] = 9; c.byobRequest.respond(1); } }); return [await stream.getReader().read(), calls]; }, async () => { const stream = new ReadableStream({ type: "bytes", pull(c) { const { view } = c.byobRequest; view[0] = 5; view[1] = 6; c.byobRequest.respond(2); } }); return await stream.getReader({ mode: "byob" }).read(new Uint8Array(3)); },
  async () => { let c; new ReadableStream({ type: "bytes", start(given) { c = given; } }); return each([() => c.enqueue("x"), () => c.enqueue(bytes()), () => c.desiredSize, () => c.byobRequest], (use) => use()); }, async () => { const stream = new ReadableStream({ type: "bytes", start(c) { c.enqueue(new Uint16Array([513])); c.close(); } }); return await drained(stream); }, async () => { const buffer = bytes(1, 2); const stream = new ReadableStream({ type: "bytes", start(c) { c.enqueue(buffer); } }); await stream.getReader().read(); return buffer.byteLength; }, async () => { const reader = new ReadableStream({ type: "bytes" }).getReader({ mode: "byob" }); return await eachLater([() => reader.read(new Uint8Array(0)), () => reader.read(), () => reader.read([])], (use) => use()); }, async () => { const stream = new ReadableStream({ type: "bytes", start(c) { c.enqueue(bytes(1, 2, 3, 4)); } }); const reader = stream.getReader({ mode: "byob" }); return [await reader.read(new Uint16Array(1)), await reader.read(new DataView(new ArrayBuffer(2)))]; },
], (use) => use());
snippets["ReadableStream is teed"] = async () => {
  const log = [];
  const source = () => new ReadableStream({ start(c) { c.enqueue(1); c.enqueue(2); c.close(); }, cancel(reason) { log.push(reason); } });
  const [a, b] = source().tee();
  const [c, d] = new ReadableStream({ cancel(reason) { log.push(reason); } }).tee();
  const cancelled = Promise.all([c.cancel("c"), d.cancel("d")]);
  const [e, f] = new ReadableStream({ start(given) { given.error(new RangeError("r")); } }).tee();
  return [await drained(a), await drained(b), await cancelled, log, await eachLater([() => e.getReader().read(), () => f.getReader().read()], (use) => use())];
};
snippets["WritableStream calls its sink"] = async () => {
  const calls = [];
  const stream = new WritableStream({ start(c) { calls.push(["start", c.signal.aborted]); }, async write(chunk) { calls.push(["write", chunk]); await tick(); calls.push(["wrote", chunk]); }, close() { calls.push("close"); }, abort(reason) { calls.push(["abort", reason]); } }, { highWaterMark: 2 });
  const writer = stream.getWriter();
  calls.push(writer.desiredSize);
  const first = writer.write(1);
  const second = writer.write(2);
  calls.push(writer.desiredSize);
  await writer.ready;
  calls.push("ready");
  await Promise.all([first, second]);
  await writer.close();
  return [calls, await writer.closed, writer.desiredSize, await eachLater([() => writer.close(), () => writer.abort()], (use) => use())];
};
snippets["WritableStream ends"] = () => eachLater([
  async () => { const calls = []; const stream = new WritableStream({ write() { throw new RangeError("w"); }, abort(r) { calls.push(r); } }); const writer = stream.getWriter(); return [await writer.write(1).catch((e) => e), await writer.write(2).catch((e) => e), await writer.closed.catch((e) => e), writer.desiredSize, calls]; }, async () => { const calls = []; const stream = new WritableStream({ abort(r) { calls.push(r); } }); await stream.abort("why"); return [calls, await stream.getWriter().closed.catch((e) => e)]; }, async () => { const stream = new WritableStream({ start(c) { c.error(new RangeError("s")); } }); return await stream.getWriter().write(1); }, async () => { const stream = new WritableStream({ close() { throw new RangeError("c"); } }); return await stream.close(); }, async () => { const stream = new WritableStream(); await stream.close(); return await eachLater([() => stream.close(), () => stream.abort()], (use) => use()); },
  async () => { const stream = new WritableStream(); const writer = stream.getWriter(); writer.releaseLock(); return await eachLater([() => writer.write(1), () => writer.close(), () => writer.closed, () => writer.ready, () => writer.desiredSize], (use) => use()); }, async () => { const stream = new WritableStream(); stream.getWriter(); return await eachLater([() => stream.getWriter(), () => stream.close(), () => stream.abort()], (use) => use()); }, async () => { let signal; const stream = new WritableStream({ start(c) { signal = c.signal; }, write: () => new Promise(() => {}) }); const writer = stream.getWriter(); writer.write(1).catch(() => {}); writer.closed.catch(() => {}); await tick(); writer.abort("a").catch(() => {}); return [signal.aborted, signal.reason]; }, async () => each([() => new WritableStream({ type: "x" }), () => new WritableStream({ write: 1 }), () => new WritableStream({}, { highWaterMark: -1 }), () => WritableStream()], (use) => use()),
], (use) => use());
snippets["pipes"] = () => eachLater([
  async () => { const got = []; await ReadableStream.from([1, 2]).pipeTo(new WritableStream({ write(c) { got.push(c); }, close() { got.push("close"); } })); return got; }, async () => { const got = []; const sink = new WritableStream({ write(c) { got.push(c); }, close() { got.push("close"); } }); await ReadableStream.from([1]).pipeTo(sink, { preventClose: true }); return [got, sink.locked]; }, async () => { const got = []; const source = new ReadableStream({ pull(c) { c.enqueue(1); }, cancel(r) { got.push(["cancel", r]); } }); return [await source.pipeTo(new WritableStream({ write() { throw new RangeError("w"); } })).catch((e) => e), got]; }, async () => { const got = []; const source = new ReadableStream({ start(c) { c.error(new RangeError("s")); } }); return [await source.pipeTo(new WritableStream({ abort(r) { got.push(["abort", r]); } })).catch((e) => e), got]; },
  async () => { const got = []; const controller = new AbortController(); const source = new ReadableStream({ cancel(r) { got.push(["cancel", r]); } }); const piped = source.pipeTo(new WritableStream({ abort(r) { got.push(["abort", r]); } }), { signal: controller.signal }); controller.abort("stop"); return [await piped.catch((e) => e), got.sort()]; }, async () => { const source = new ReadableStream(); source.getReader(); return await source.pipeTo(new WritableStream()); }, async () => await new ReadableStream().pipeTo({}), async () => drained(ReadableStream.from(["a", "b"]).pipeThrough(new TransformStream({ transform(chunk, c) { c.enqueue(chunk + chunk); }, flush(c) { c.enqueue("end"); } }))), async () => drained(ReadableStream.from(["h\u00e9", "\ud83d", "\ude00"]).pipeThrough(new TextEncoderStream())), async () => drained(ReadableStream.from([bytes(0xe2), bytes(0x82, 0xac), bytes(0xff)]).pipeThrough(new TextDecoderStream())), async () => drained(ReadableStream.from([1]).pipeThrough(new TransformStream({ transform() { throw new RangeError("t"); } }))), async () => drained(ReadableStream.from([bytes(0xff)]).pipeThrough(new TextDecoderStream("utf-8", { fatal: true }))),
  async () => { const transform = new TransformStream(); const writer = transform.writable.getWriter(); writer.write("a"); writer.close(); return drained(transform.readable); }, async () => { const transform = new TransformStream({ start(c) { c.enqueue("first"); c.terminate(); } }); return drained(transform.readable); }, async () => { const transform = new TransformStream({ transform(_, c) { c.error(new RangeError("e")); } }); const writer = transform.writable.getWriter(); writer.write(1).catch(() => {}); writer.closed.catch(() => {}); return await transform.readable.getReader().read(); }, async () => { const log = []; const transform = new TransformStream({ cancel(r) { log.push(r); } }); await transform.readable.cancel("c"); return [log, await transform.writable.getWriter().closed.catch((e) => e)]; },
], (use) => use());

// ---- events and signals --------------------------------------------------------------------------------------------

snippets["events are dispatched"] = () => {
  const target = new EventTarget();
  const log = [];
  const handler = { handleEvent(event) { log.push(["object", event.type, this === handler]); } };
  const twice = () => log.push("twice");
  target.addEventListener("x", twice);
  target.addEventListener("x", twice);
  target.addEventListener("x", handler);
  target.addEventListener("x", () => log.push("once"), { once: true });
  target.addEventListener("x", (event) => { event.preventDefault(); log.push([event.defaultPrevented, event.cancelable, event.target === target]); });
  target.addEventListener("x", () => target.addEventListener("x", () => log.push("added later")), { once: true });
  const event = new Event("x", { cancelable: true });
  const results = [target.dispatchEvent(event), target.dispatchEvent(new Event("x"))];
  target.removeEventListener("x", twice);
  target.addEventListener("x", (e) => e.stopImmediatePropagation(), { capture: true });
  target.dispatchEvent(new Event("x"));
  return [results, log, event.defaultPrevented, event.eventPhase, event.currentTarget, event.target === target];
};
snippets["events check their arguments"] = () => {
  const target = new EventTarget();
  return [
    ...each([() => new Event(), () => new Event("a", 1), () => new Event("a", null).type, () => new Event(undefined).type, () => target.dispatchEvent({}), () => target.dispatchEvent(), () => target.addEventListener("a"), () => Event("a"), () => EventTarget()], (use) => use()),
    new CustomEvent("c", { detail: 5 }).detail, new CustomEvent("c").detail, new MessageEvent("m", { data: 1 }).data, new Event("e", { bubbles: true, composed: 1 }).bubbles, new Event("e").composedPath(), Object.prototype.toString.call(new Event("e")), new Event("e").isTrusted, Event.AT_TARGET,
  ];
};
snippets["AbortController"] = () => {
  const controller = new AbortController();
  const { signal } = controller;
  const log = [signal.aborted, signal.reason];
  signal.onabort = (event) => log.push(["on", event.type, event.target === signal]);
  signal.addEventListener("abort", () => log.push("listened"));
  signal.throwIfAborted();
  controller.abort();
  controller.abort("again");
  return [log, signal.aborted, signal.reason, signal.reason instanceof DOMException, signal.reason.code, ...each([() => signal.throwIfAborted(), () => new AbortSignal(), () => AbortController(), () => AbortSignal.abort("r").reason, () => AbortSignal.abort().reason.name, () => AbortSignal.timeout(), () => AbortSignal.any(), () => AbortSignal.any([1]), () => AbortSignal.any([]).aborted], (use) => use())];
};
snippets["AbortSignal.any"] = () => {
  const [a, b] = [new AbortController(), new AbortController()];
  const log = [];
  const any = AbortSignal.any([a.signal, b.signal, a.signal]);
  const nested = AbortSignal.any([any]);
  nested.addEventListener("abort", () => log.push("nested"));
  any.addEventListener("abort", () => log.push("any"));
  a.signal.addEventListener("abort", () => log.push(["a", any.aborted, nested.aborted]));
  b.abort("b first");
  a.abort("a then");
  return [log, any.reason, nested.reason, nested.aborted, AbortSignal.any([AbortSignal.abort("x"), AbortSignal.abort("y")]).reason];
};
snippets["AbortSignal.timeout"] = async () => {
  const signal = AbortSignal.timeout(5);
  const log = [signal.aborted];
  const fired = new Promise((resolve) => signal.addEventListener("abort", () => resolve("fired")));
  log.push(await fired, signal.aborted, signal.reason, signal.reason.code, signal.reason instanceof DOMException);
  return [...log, await eachLater([() => AbortSignal.any([signal]).throwIfAborted()], (use) => use())];
};
snippets["listeners end with a signal"] = () => {
  const [target, controller, log] = [new EventTarget(), new AbortController(), []];
  target.addEventListener("x", () => log.push("heard"), { signal: controller.signal });
  target.dispatchEvent(new Event("x"));
  controller.abort();
  target.dispatchEvent(new Event("x"));
  target.addEventListener("x", () => log.push("never"), { signal: controller.signal });
  target.dispatchEvent(new Event("x"));
  return log;
};
snippets["DOMException"] = () => [
  ...["AbortError", "NotSupportedError", "DataCloneError", "QuotaExceededError", "Own"].map((name) => { const e = new DOMException("m", name); return [e.name, e.message, e.code, e instanceof Error, Object.prototype.toString.call(e), String(e)]; }), new DOMException().name, new DOMException().message, DOMException.ABORT_ERR, ...each([() => DOMException("m"), () => { throw new DOMException("x", "TimeoutError"); }], (use) => use()),
];

// ---- timers and the order of things --------------------------------------------------------------------------------

snippets["timers and microtasks"] = async () => {
  const log = [];
  const done = new Promise((resolve) => setTimeout(resolve, 30));
  setTimeout((...args) => log.push(["arguments", ...args]), 2, 1, 2);
  setTimeout(() => { log.push("a"); queueMicrotask(() => log.push("a's microtask")); }, 4);
  setTimeout(() => log.push("b"), 4);
  const stopped = setTimeout(() => log.push("never"), 3);
  clearTimeout(stopped);
  clearTimeout(undefined);
  clearTimeout(12345);
  Promise.resolve().then(() => log.push("promise"));
  queueMicrotask(() => log.push("microtask"));
  (async () => { log.push("async"); await null; log.push("after await"); })();
  let count = 0;
  const every = setInterval(() => { if (++count === 3) clearInterval(every); }, 1);
  await done;
  return [log, count, ...each([() => queueMicrotask(1)], (use) => use())];
};

// ---- the language --------------------------------------------------------------------------------------------------

snippets["numbers as text"] = () => [0, -0, 1, -1.5, 0.1, 1e21, 1e-7, 123456789.123, 5e-324, 1.7976931348623157e308, NaN, Infinity, 2 ** 53, 0.000001, 1.005, 25, 1.45, 4.35].map((n) => [
  String(n), ...each([0, 1, 2, 5, 20, 100, 101], (digits) => n.toFixed(digits)), ...each([1, 3, 17, 100], (digits) => n.toPrecision(digits)), ...each([undefined, 0, 3, 20], (digits) => n.toExponential(digits)), ...each(Number.isSafeInteger(n) ? [2, 8, 16, 36, 37] : [10], (radix) => n.toString(radix)),
]);
snippets["text as numbers"] = () => ["", " ", "1", "1.5e3", "0x1f", "0b11", "0o7", "1_000", "Infinity", "-0", "1n", "1e1000", ".5", "5.", "+1", "--1", "\u00a01", "1 2", "abc", "12px", "\u0661"].map((text) => [Number(text), parseInt(text), parseInt(text, 16), parseFloat(text), ...each([text], BigInt)]);
snippets["BigInt"] = () => each([() => 5n / 2n, () => -5n % 3n, () => 2n ** 100n, () => 1n / 0n, () => BigInt(1.5), () => BigInt("0x10"), () => BigInt.asIntN(8, 255n), () => BigInt.asUintN(8, -1n), () => 1n + 1, () => +1n, () => Number(2n ** 64n), () => (-255n).toString(16), () => JSON.stringify(1n), () => 1n < 2, () => 2n == 2, () => [3n, 1, 2n].sort().join(), () => BigInt(Number.MAX_SAFE_INTEGER) + 2n, () => BigInt("a"), () => BigInt(undefined), () => -(2n ** 63n) >> 3n], (use) => use());
snippets["dates are parsed"] = () => [
  "2024-01-05", "2024-01-05T10:00", "2024-01-05T10:00:00", "2024-01-05T10:00:00Z", "2024-01-05T10:00:00.123456Z", "2024-01-05T10:00:00+05:30", "2024-01-05T10:00:00+0530", "2024-01-05T10:00:00-08", "2024-01", "2024", "+012024-01-01T00:00:00Z", "-000001-01-01T00:00:00Z", "-000000-01-01T00:00:00Z", "2024-1-5", "2024-01-05 10:00", "2024-01-05 10:00:00", "2024-01-05 10:00:00Z", "2024-01-05 10:00:00 UTC", "2024-01-05 10:00:00+02:00", "2024/01/05", "2024/1/5 10:00", "01/05/2024", "1/5/2024", "1/5/24", "1/5/49", "1/5/50", "1-5-2024", "Jan 5, 2024", "January 5, 2024", "5 Jan 2024", "5 January 2024 10:00 PM", "Jan 5 2024 10:00 AM", "Jan 2024", "Fri Jan 05 2024", "Fri, 05 Jan 2024 10:00:00 GMT",
  "Fri Jan 05 2024 10:00:00 GMT+0100 (Central European Standard Time)", "Fri Jan 05 2024 10:00:00 GMT+0100", "Fri, 5 Jan 2024 10:00:00 +0200", "Fri, 5 Jan 2024 10:00:00 EST", "Fri, 5 Jan 2024 10:00:00 PDT", "05-Jan-2024", "Jan-05-2024", "20240105", "2024-02-30", "2024-02-30T00:00:00Z", "2024-13-01", "2024-00-01", "2024-01-32", "2024-01-05T24:00:00Z", "2024-01-05T25:00:00Z", "2024-01-05T10:60:00Z", "2024-01-05T10:00:60Z", "2024-01-05T10:00:00.1Z", "2024-01-05T10Z", "2024-01-05t10:00:00z", " 2024-01-05 ", "2024-01-05T10:00:00 Z", "12:00", "noon", "", "Invalid", "1704448800000", "1704448800", "0", "1", "32", "99", "100", "13", "2024-01-05T", "Mon", "Jan", "Jan 32 2024", "2/30/2024", "12/31/1999 23:59:59", "2024-01-05T10:00:00,5Z", "2024-W01", "Sat Mar 01 2025 08:00 pm", "2025-03-01 8:05 pm", "03.04.2025", "2024年1月5日", "Sept 5 2024", "September 5 2024", "5 Sep 2024 (a comment)", "2024-01-05T10:00:00.000+00:00", "2024-01-05T10:00:00.000Z ", "Thu Jan 01 1970 00:00:00 GMT+0000 (Coordinated Universal Time)", "1 2 3", "2024 5 6", "2024-01-05T1:00:00Z", "24-01-05", "2024-001", "10000-01-01", "+10000-01-01", "12/25", "Dec 25", "25 Dec", "Dec 25, 1995 13:30 PST", "Tue, 25 Dec 1995 13:30:00 +0430", "2024-01-05T10:00:00+24:00", "2024-01-05T10:00:00+5:30",
].map((text) => [text, Date.parse(text), new Date(text).getTime() === Date.parse(text) || Number.isNaN(Date.parse(text))]);
snippets["dates are made"] = () => each([
  () => new Date(2024, 0), () => new Date(2024, 0, 31, 25, 61), () => new Date(99, 0), () => new Date(100, 0), () => new Date(2024, 1, 30), () => new Date(2024, -1, 0), () => new Date(NaN), () => new Date(8.64e15), () => new Date(8.64e15 + 1), () => new Date(1.9), () => new Date(-1.9), () => new Date(null), () => new Date(undefined), () => new Date(true), () => new Date("5"), () => new Date(new Date(7)), () => new Date([2024, 1]), () => new Date({}), () => Date.UTC(2024), () => Date.UTC(), () => Date.UTC(99, 1), () => new Date(5n), () => new Date(Symbol("x")), () => new Date(2024, 0, undefined), () => new Date(NaN).toISOString(), () => new Date(NaN).toJSON(), () => new Date(0).toJSON(), () => new Date(-62198755200000).toISOString(), () => new Date(253402300800000).toISOString(),
], (use) => use());
snippets["dates are shown"] = () => [0, 1704448800123, -1, 951782400000, 8.64e15, -62198755200000, NaN].flatMap((time) => { const date = new Date(time); return [String(date), date.toDateString(), date.toTimeString(), date.toUTCString(), date.toGMTString(), `${date}`, date + 1, date - 1, date[Symbol.toPrimitive]("number"), date.getYear(), date.getTimezoneOffset(), date.getDay(), date.getHours()]; });
snippets["dates are set"] = () => [["setMonth", 13], ["setMonth", 1, 31], ["setDate", 0], ["setDate", -1], ["setHours", 25], ["setHours", 1, 2, 3, 4], ["setMinutes", -1], ["setSeconds", 90], ["setMilliseconds", 1500], ["setFullYear", 2020, 1, 29], ["setFullYear", NaN], ["setTime", 5.5], ["setUTCDate", 32], ["setYear", 99], ["setMonth"], ["setHours", undefined]].map(([method, ...args]) => { const date = new Date(1704448800123); return [date[method](...args), date.getTime()]; });
snippets["regular expressions"] = () => each([
  () => "2024-01-05".match(/(?<y>\d{4})-(?<m>\d\d)/).groups, () => "aBc".replace(/(?<x>b)/i, "[$<x>$1$&$`$']"), () => [..."a1b2".matchAll(/[a-z](\d)/g)].map((m) => [m[0], m[1], m.index]), () => "\u{1f600}x".match(/./gu), () => "caf\u00e9".match(/\p{L}+/u)[0], () => "price: $5".match(/(?<=\$)\d/)[0], () => "ab".match(/(?<!a)b/), () => "a\nb".match(/a.b/s)[0], () => /a/y.exec("ba"), () => "abc".replace(/b/d, "x"), () => /(?<a>.)/d.exec("x").indices.groups.a, () => "\u0130".toLowerCase().length, () => /\u0130/i.test("i"), () => /[\p{Lu}--[A-M]]/v.test("Z"), () => /^\p{RGI_Emoji}$/v.test("\u{1f1e9}\u{1f1ea}"), () => new RegExp("["), () => "x".replaceAll(/x/, "y"), () => "aXbX".split(/(x)/i), () => "abc".split(/(?:)/u), () => "test".search(/s/), () => /\w/iu.test("\u017f"), () => /(a)|b/.exec("b"), () => "aaa".lastIndexOf("a", 1), () => RegExp.prototype.toString.call(/a\/b/g), () => new RegExp("/").source, () => new RegExp("\n").source, () => new RegExp("a{2,1}"),
], (use) => use());
snippets["text"] = () => each([
  () => "\u0041\u030a".normalize("NFC") === "\u00c5", () => "\ufb01".normalize("NFKD"), () => "a".normalize("x"), () => "abc".at(-1), () => "a".padStart(5, "xy"), () => "\ud800".isWellFormed(), () => "\ud800a".toWellFormed(), () => "ß".toUpperCase(), () => "ΑΣ".toLowerCase(), () => "İ".toLowerCase(), () => "x".repeat(-1), () => "abc".substring(2, 0), () => "abc".substr(-2, 1), () => "  \u00a0\ufeffa ".trim(), () => String.raw`a\n${1}`, () => "\u{1f600}".codePointAt(0), () => String.fromCodePoint(0x110000), () => encodeURIComponent("\ud800"), () => encodeURI("http://a/b c?d=\u00e9#[]"), () => decodeURIComponent("%C3%A9%zz"), () => escape("\u00e9 \u0100"), () => unescape("%u0100%E9"), () => "a-b_c".split("-", 1), () => "abc".localeCompare("abd"), () => ["b", "a", "C", "\u00e4"].sort(), () => "x".concat(null, 1), () => "a,b".replace(",", "$$"), () => "aa".replaceAll("a", (m, at) => at), () => "\u1e9e".toLowerCase(), () => "ŉ".toUpperCase(),
], (use) => use());
snippets["arrays and iterators"] = () => each([
  () => [3, 1, 2].toSorted(), () => [1, 2, 3].with(5, 1), () => [1, [2, [3, [4]]]].flat(Infinity), () => [1, 10, 2, undefined, , null].sort(), () => [5, 1, 4].sort((a, b) => a - b), () => Array.from({ length: 2 }, (_, i) => i), () => [1, 2, 3].findLast((x) => x < 3), () => [1, 2, 3].toSpliced(1, 1, 9, 9), () => [..."ab"].entries().next(), () => new Set([1, 2]).union?.(new Set([3])) ?? new Set([1, 2, 3]), () => [1, 2, 3].copyWithin(0, 1), () => Array(3).fill().map((_, i) => i), () => [1, , 3].map((x) => x * 2), () => [NaN].includes(NaN), () => [NaN].indexOf(NaN), () => [].reduce((a, b) => a), () => new Array(-1), () => [1, 2, 3].at(-4), () => Array.from(new Map([[1, 2]])), () => [3, 2, 1].toString(), () => [[1, 2], [3]].join(";"), () => Array.of(7).length, () => [1, 2, 3, 4].lastIndexOf(3, -3), () => Array.isArray(new Proxy([], {})), () => structuredClone([1, 2]).length,
  () => Array.from({ length: 600 }, (_, i) => ({ key: i % 3, i })).sort((a, b) => a.key - b.key).every((x, i, all) => i === 0 || all[i - 1].key < x.key || all[i - 1].i < x.i),
], (use) => use());
snippets["objects"] = () => each([
  () => Object.keys({ b: 1, 2: 1, a: 1, 1: 1, "-1": 1 }), () => Object.entries("ab"), () => Object.fromEntries(new Map([["a", 1]])), () => Object.assign({}, null, "ab", [9]), () => JSON.stringify({ u: undefined, f() {}, n: NaN, d: new Date(0), s: Symbol("x"), i: -0, nested: [undefined, () => 1] }), () => JSON.stringify({ a: 1, b: [2] }, null, 2), () => JSON.stringify({ a: 1, b: 2 }, ["b"]), () => JSON.stringify("\u2028\ud800\""), () => JSON.parse('{"__proto__":1,"a":[1,{"b":null}]}', (k, v) => (v === null ? "was null" : v)), () => JSON.parse("{a:1}"), () => JSON.parse(""), () => JSON.parse("01"), () => JSON.parse('"\\u0041\\n"'), () => JSON.parse("[1,]"), () => JSON.parse(" 1 "), () => JSON.stringify(undefined), () => { const a = {}; a.a = a; return JSON.stringify(a); }, () => Object.getOwnPropertyDescriptor(class { static x = 1; }, "x"), () => { "use strict"; Object.freeze([1]).push(2); }, () => null.x, () => undefined.x(), () => nothingOfThisName, () => { const x = 1; x = 2; }, () => new (class { #p = 1; has(o) { return #p in o; } })().has({}), () => Reflect.ownKeys({ [Symbol.iterator]: 1, a: 1 }).length, () => typeof globalThis, () => Object.is(-0, 0), () => new Proxy({}, { get: (_, name) => name }).hello, () => Object.prototype.toString.call(null), () => Symbol("d").description, () => Symbol.for("k") === Symbol.for("k"), () => new WeakRef({ a: 1 }).deref(), () => [..."ab"].map(Number), () => `${[1, 2]}`, () => ({}) + "", () => [] + {},
], (use) => use());
snippets["errors"] = () => {
  class Own extends Error { constructor(message) { super(message); this.name = "Own"; this.code = 5; } }
  const own = new Own("m");
  const error = new Error("a", { cause: "b" });
  return [
    own instanceof Own, own instanceof Error, String(own), Object.keys(own), error.cause, Object.keys(error), String(new Error()), new AggregateError([1, 2], "m").errors, typeof error.stack, error.stack.includes("a") || error.stack.length > 0, typeof Error.captureStackTrace, (() => { const target = {}; Error.captureStackTrace?.(target); return typeof target.stack; })(), Object.prototype.toString.call(error), Object.prototype.hasOwnProperty.call(error, "message"), Object.prototype.hasOwnProperty.call(new Error(), "message"), new Error("x", {}).hasOwnProperty("cause"), String(Object.assign(new Error("m"), { name: "" })),
  ];
};
snippets["promises"] = async () => [
  await Promise.allSettled([1, Promise.reject(new RangeError("r"))]), await eachLater([() => Promise.any([Promise.reject(1), Promise.reject(2)]), () => Promise.race([new Promise(() => {}), 1]), () => Promise.all([1, Promise.reject("x")])], (use) => use()), await { then(resolve) { resolve("thenable"); } }, await Promise.resolve(1).finally(() => 2), await (async () => { try { return await Promise.reject(new RangeError("r")); } catch (e) { return e; } finally { /* nothing */ } })(),
];

// ---- cryptography --------------------------------------------------------------------------------------------------

const { subtle } = crypto;
const sorted = (object) => Object.fromEntries(Object.entries(object).sort(([a], [b]) => (a < b ? -1 : 1)));
const utf8 = (text) => new TextEncoder().encode(text);
snippets["crypto digests"] = () => eachLater(["SHA-1", "sha-256", { name: "SHA-384" }, "SHA-512", "MD5", "", null, undefined], (name) => subtle.digest(name, utf8("abc")));
snippets["crypto takes"] = () => eachLater([new ArrayBuffer(1), new DataView(new ArrayBuffer(2)), new Uint16Array(1), "text", [1], null, undefined], (data) => subtle.digest("SHA-256", data));
snippets["crypto HMAC"] = async () => {
  const made = async (hash, length, format = "raw") => {
    const key = await subtle.importKey(format, new Uint8Array(length).fill(3), { name: "HMAC", hash }, true, ["sign", "verify"]);
    const signature = await subtle.sign("HMAC", key, utf8("x"));
    return [key.type, key.extractable, key.algorithm, key.usages, signature, await subtle.verify("HMAC", key, signature, utf8("x")), await subtle.verify("HMAC", key, signature, utf8("y")), sorted(await subtle.exportKey("jwk", key)), await subtle.exportKey("raw", key)];
  };
  return eachLater([["SHA-1", 5], ["SHA-256", 32], ["SHA-384", 200], [{ name: "SHA-512" }, 64], ["SHA-256", 0], ["MD5", 5]], (args) => made(...args));
};
snippets["crypto checks uses of keys"] = async () => {
  const key = await subtle.importKey("raw", new Uint8Array(16), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return eachLater([() => subtle.verify("HMAC", key, new ArrayBuffer(32), utf8("x")), () => subtle.importKey("raw", new Uint8Array(16), { name: "HMAC", hash: "SHA-256" }, false, []), () => subtle.importKey("raw", new Uint8Array(16), { name: "HMAC", hash: "SHA-256" }, false, ["encrypt"]), () => subtle.importKey("raw", new Uint8Array(16), "HMAC", false, ["sign"]), () => subtle.importKey("raw", new Uint8Array(15), "AES-GCM", false, ["encrypt"]), () => subtle.importKey("nope", new Uint8Array(16), "AES-GCM", false, ["encrypt"]), () => subtle.sign("HMAC", {}, utf8("x")), () => subtle.importKey("jwk", { kty: "oct", k: "AAAA", alg: "HS512" }, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]), () => subtle.importKey("jwk", { kty: "oct", k: "AAAA", ext: false }, { name: "HMAC", hash: "SHA-256" }, true, ["sign"]), () => subtle.importKey("jwk", { kty: "RSA" }, { name: "HMAC", hash: "SHA-256" }, true, ["sign"]), () => subtle.importKey("jwk", { kty: "oct", k: "AAAA", key_ops: ["verify"] }, { name: "HMAC", hash: "SHA-256" }, true, ["sign"])], (use) => use());
};
snippets["crypto AES-GCM"] = async () => {
  const seal = async (size, more = {}) => {
    const key = await subtle.importKey("raw", new Uint8Array(size).fill(1), "AES-GCM", true, ["encrypt", "decrypt"]);
    const algorithm = { name: "AES-GCM", iv: new Uint8Array(12), ...more };
    const sealed = await subtle.encrypt(algorithm, key, utf8("secret"));
    return [key.algorithm, sealed, await subtle.decrypt(algorithm, key, sealed), sorted(await subtle.exportKey("jwk", key))];
  };
  const key = await subtle.importKey("raw", new Uint8Array(32), "AES-GCM", false, ["encrypt", "decrypt"]);
  return eachLater([() => seal(16), () => seal(32, { additionalData: utf8("aad") }), () => subtle.decrypt({ name: "AES-GCM", iv: new Uint8Array(12) }, key, new Uint8Array(20)), () => subtle.decrypt({ name: "AES-GCM", iv: new Uint8Array(12) }, key, new Uint8Array(2)), () => subtle.encrypt({ name: "AES-GCM" }, key, utf8("x"))], (use) => use());
};
snippets["crypto derives"] = async () => {
  const key = await subtle.importKey("raw", utf8("password"), "PBKDF2", false, ["deriveBits", "deriveKey"]);
  const hkdf = await subtle.importKey("raw", utf8("secret"), "HKDF", false, ["deriveBits", "deriveKey"]);
  return eachLater([() => subtle.deriveBits({ name: "PBKDF2", hash: "SHA-256", salt: utf8("salt"), iterations: 1000 }, key, 256), () => subtle.deriveBits({ name: "PBKDF2", hash: "SHA-512", salt: utf8("salt"), iterations: 1 }, key, 128), () => subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt: utf8("s"), info: utf8("i") }, hkdf, 320), async () => subtle.exportKey("raw", await subtle.deriveKey({ name: "HKDF", hash: "SHA-256", salt: utf8("s"), info: utf8("i") }, hkdf, { name: "AES-GCM", length: 256 }, true, ["encrypt"])), async () => subtle.exportKey("raw", await subtle.deriveKey({ name: "PBKDF2", hash: "SHA-256", salt: utf8("s"), iterations: 1 }, key, { name: "HMAC", hash: "SHA-256" }, true, ["sign"])), () => subtle.deriveBits({ name: "PBKDF2", hash: "SHA-256", salt: utf8("s"), iterations: 0 }, key, 256), () => subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt: utf8("s"), info: utf8("i") }, hkdf, 7), () => subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt: utf8("s"), info: utf8("i") }, hkdf, 256 * 256 * 8)], (use) => use());
};
snippets["crypto random values"] = () => [crypto.randomUUID().length, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()), crypto.getRandomValues(new Uint8Array(3)).length, ...each([() => crypto.getRandomValues(new Float32Array(1)), () => crypto.getRandomValues([1]), () => crypto.getRandomValues(new Uint8Array(65537)), () => crypto.getRandomValues(new DataView(new ArrayBuffer(1))), () => crypto.getRandomValues(new BigInt64Array(1)).length, () => crypto.getRandomValues()], (use) => use())];
snippets["crypto key pairs"] = async () => {
  const pair = async (algorithm, sign = algorithm) => {
    const { publicKey, privateKey } = await subtle.generateKey(algorithm, true, ["sign", "verify"]);
    const signature = await subtle.sign(sign, privateKey, utf8("x"));
    const publicJwk = await subtle.exportKey("jwk", publicKey);
    const back = await subtle.importKey("jwk", publicJwk, algorithm, true, ["verify"]);
    const spki = await subtle.importKey("spki", await subtle.exportKey("spki", publicKey), algorithm, true, ["verify"]);
    const pkcs8 = await subtle.importKey("pkcs8", await subtle.exportKey("pkcs8", privateKey), algorithm, true, ["sign"]);
    const { n, e, x, y, alg, ...plain } = publicJwk;
    return [publicKey.type, publicKey.usages, privateKey.type, privateKey.usages, signature.byteLength, await subtle.verify(sign, back, signature, utf8("x")), await subtle.verify(sign, spki, await subtle.sign(sign, pkcs8, utf8("y")), utf8("y")), sorted(plain), Object.keys(await subtle.exportKey("jwk", privateKey)).filter((name) => name !== "alg").sort()];
  };
  return eachLater([[{ name: "ECDSA", namedCurve: "P-256" }, { name: "ECDSA", hash: "SHA-256" }], ["Ed25519"], [{ name: "ECDSA", namedCurve: "P-384" }, { name: "ECDSA", hash: "SHA-384" }]], (args) => pair(...args));
};
