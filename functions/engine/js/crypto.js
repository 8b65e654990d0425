// `crypto`: random values, and the part of Web Crypto that the host supports. Loaded when a
// function first uses it.

import { isDeterministic, load, native } from "convex:prelude";
const { choice, expose } = load("convex:interfaces");
const { bytesOf: bytesIn, fromBase64Url, raw, toBase64Url } = load("convex:text");

const bytesOf = (source) => {
  if (source === undefined) throw new TypeError("crypto.subtle: bytes are missing");
  return bytesIn(source);
};

const HASHES = { "SHA-1": 20, "SHA-256": 32, "SHA-384": 48, "SHA-512": 64 };
/// The block size of each hash, which is the default length of an HMAC key.
const BLOCKS = { "SHA-1": 64, "SHA-256": 64, "SHA-384": 128, "SHA-512": 128 };
const CURVES = { "P-256": 32, "P-384": 48, "P-521": 66 };
const OIDS = {
  rsa: [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01],
  ec: [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01],
  "P-256": [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
  "P-384": [0x2b, 0x81, 0x04, 0x00, 0x22],
  "P-521": [0x2b, 0x81, 0x04, 0x00, 0x23],
  ed25519: [0x2b, 0x65, 0x70],
};

/// Calls the host, to which bytes are passed as text.
const host = (name, ...args) =>
  native[name](...args.map((arg) => (arg instanceof Uint8Array ? raw(arg) : arg)));

const fails = (name, message) => new DOMException(message, name);
const unsupported = (what) =>
  fails("NotSupportedError", `crypto.subtle: ${what} is not supported by this host`);
const badKey = (message) => fails("DataError", `crypto.subtle: ${message}`);
const badUse = (message) => fails("InvalidAccessError", `crypto.subtle: ${message}`);

// ---- keys ---------------------------------------------------------------------------------------

let keyOf;
const making = {};

export class CryptoKey {
  #key;

  constructor(token, key) {
    if (token !== making)
      throw new TypeError("Illegal constructor: keys are imported or generated");
    this.#key = key;
  }
  static {
    keyOf = (key) => key.#key;
    for (const name of ["type", "extractable", "algorithm", "usages"]) {
      Object.defineProperty(this.prototype, name, {
        get() {
          return this.#key[name];
        },
        configurable: true,
        enumerable: true,
      });
    }
  }
}

/// The usages of each algorithm's keys. The two keys of a pair divide them.
const USES = {
  HMAC: ["sign", "verify"],
  "AES-GCM": ["encrypt", "decrypt", "wrapKey", "unwrapKey"],
  PBKDF2: ["deriveKey", "deriveBits"],
  HKDF: ["deriveKey", "deriveBits"],
  public: ["verify"],
  private: ["sign"],
};
const ALL_USES = [
  "encrypt", "decrypt", "sign", "verify", "deriveKey", "deriveBits", "wrapKey", "unwrapKey",
];

/// `bytes` is a secret, a private key in PKCS#8, or the inner part of a public key's
/// SubjectPublicKeyInfo.
function makeKey(type, algorithm, extractable, given, bytes) {
  const usages = Array.from(given, (usage) => choice("a usage", usage, ALL_USES));
  const uses = USES[type] ?? USES[algorithm.name];
  const wrong = usages.find((usage) => !uses.includes(usage));
  if (wrong !== undefined)
    throw fails(
      "SyntaxError",
      `crypto.subtle: a ${type} key of ${algorithm.name} is not for ${wrong}`,
    );
  if (usages.length === 0 && type !== "public")
    throw fails("SyntaxError", `crypto.subtle: a ${type} key needs a usage`);
  return new CryptoKey(making, {
    type,
    extractable: Boolean(extractable) || type === "public",
    algorithm,
    usages: ALL_USES.filter((usage) => usages.includes(usage)),
    bytes,
  });
}

/// The canonical name of an algorithm, and its parameters.
function algorithmOf(given) {
  const parameters = typeof given === "string" ? { name: given } : given ?? {};
  const wanted = String(parameters.name).toLowerCase();
  const known = Object.keys(ALGORITHMS).find((name) => name.toLowerCase() === wanted);
  if (known === undefined) throw unsupported(`the algorithm ${parameters.name}`);
  return { ...parameters, name: known };
}

function hashOf(given) {
  if (given === undefined || given === null)
    throw new TypeError("crypto.subtle: the hash is missing");
  const name = String(
    typeof given === "object" && given !== null ? given.name : given,
  ).toUpperCase();
  if (!Object.hasOwn(HASHES, name)) throw unsupported(`the hash ${name}`);
  return name;
}

function curveOf({ namedCurve }) {
  if (!Object.hasOwn(CURVES, String(namedCurve))) throw unsupported(`the curve ${namedCurve}`);
  return String(namedCurve);
}

function checkUse(key, algorithm, usage) {
  const { algorithm: own, usages } = keyOf(key);
  if (own.name !== algorithm.name)
    throw badUse(`a key of ${own.name} is not for ${algorithm.name}`);
  if (!usages.includes(usage)) throw badUse(`the key is not for ${usage}`);
  return keyOf(key);
}

// ---- DER, the encoding of keys ------------------------------------------------------------------

const join = (...parts) => Uint8Array.from(parts.flatMap((part) => [...part]));

function der(tag, ...parts) {
  const content = join(...parts);
  const length = content.length;
  const head =
    length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return join([tag, ...head], content);
}

const unsigned = (bytes) => {
  let from = 0;
  while (from < bytes.length - 1 && bytes[from] === 0) from++;
  return bytes.subarray(from);
};
const integer = (bytes) => {
  const short = unsigned(bytes);
  return der(2, short[0] >= 128 ? [0] : [], short);
};

/// Parses a sequence of elements, each with its tag.
function elements(bytes) {
  const found = [];
  let at = 0;
  while (at < bytes.length) {
    const tag = bytes[at];
    let length = bytes[at + 1];
    let start = at + 2;
    if (length >= 128) {
      const count = length & 127;
      if (count === 0 || count > 3) throw badKey("the key is not DER");
      length = 0;
      for (let i = 0; i < count; i++) length = length * 256 + bytes[start + i];
      start += count;
    }
    if (!(start + length <= bytes.length)) throw badKey("the key is not DER");
    found.push({ tag, content: bytes.subarray(start, start + length) });
    at = start + length;
  }
  return found;
}

const inside = (bytes, tag = 0x30) => {
  const [outer] = elements(bytes);
  if (outer?.tag !== tag) throw badKey("the key is not DER");
  return elements(outer.content);
};

const isOid = (element, oid) =>
  element?.tag === 6 &&
  element.content.length === oid.length &&
  oid.every((byte, i) => element.content[i] === byte);

/// The AlgorithmIdentifier of a key.
function identifier(algorithm) {
  if (algorithm.name === "Ed25519") return der(0x30, der(6, OIDS.ed25519));
  if (algorithm.name === "ECDSA")
    return der(0x30, der(6, OIDS.ec), der(6, OIDS[algorithm.namedCurve]));
  return der(0x30, der(6, OIDS.rsa), [5, 0]);
}

function checkIdentifier(element, algorithm) {
  const [kind, curve] = elements(element?.content ?? new Uint8Array(0));
  const own =
    algorithm.name === "Ed25519" ? OIDS.ed25519 : algorithm.name === "ECDSA" ? OIDS.ec : OIDS.rsa;
  const isOwn =
    isOid(kind, own) && (algorithm.name !== "ECDSA" || isOid(curve, OIDS[algorithm.namedCurve]));
  if (!isOwn)
    throw badKey(
      `the key is not one of ${algorithm.name}${algorithm.namedCurve ? ` on ${algorithm.namedCurve}` : ""}`,
    );
}

const toSpki = (algorithm, bytes) => der(0x30, identifier(algorithm), der(3, [0], bytes));

function fromSpki(algorithm, bytes) {
  const [kind, key] = inside(bytes);
  checkIdentifier(kind, algorithm);
  if (key?.tag !== 3) throw badKey("the public key is missing");
  return key.content.slice(1);
}

/// The inner part of a private key's PKCS#8.
function fromPkcs8(algorithm, bytes) {
  const [, kind, key] = inside(bytes);
  checkIdentifier(kind, algorithm);
  if (key?.tag !== 4) throw badKey("the private key is missing");
  return key.content;
}

// ---- JSON Web Keys ------------------------------------------------------------------------------

const RSA_PARTS = ["n", "e", "d", "p", "q", "dp", "dq", "qi"];

function part(jwk, name) {
  if (typeof jwk[name] !== "string") throw badKey(`the JSON Web Key has no "${name}"`);
  return fromBase64Url(jwk[name]);
}

const padded = (bytes, length) => join(new Uint8Array(Math.max(0, length - bytes.length)), bytes);

/// Checks what a JSON Web Key says about its use.
function checkJwk(algorithm, jwk, extractable, usages) {
  if (typeof jwk !== "object" || jwk === null)
    throw new TypeError("crypto.subtle: a JSON Web Key is an object");
  if (jwk.ext === false && extractable) throw badKey("the JSON Web Key must not be extracted");
  if (jwk.key_ops !== undefined && [...usages].some((usage) => !jwk.key_ops.includes(usage))) {
    throw badKey(`the JSON Web Key is for ${[...jwk.key_ops].join(", ")} only`);
  }
  if (
    jwk.use !== undefined &&
    usages.length > 0 &&
    jwk.use !== (algorithm.name === "AES-GCM" ? "enc" : "sig")
  ) {
    throw badKey(`the JSON Web Key is for "${jwk.use}"`);
  }
  const hash = algorithm.hash === undefined ? undefined : hashOf(algorithm.hash).slice(4);
  const named = { HMAC: `HS${hash}`, "RSASSA-PKCS1-v1_5": `RS${hash}`, "RSA-PSS": `PS${hash}` }[
    algorithm.name
  ];
  if (named !== undefined && jwk.alg !== undefined && jwk.alg !== named)
    throw badKey(`the JSON Web Key is for ${jwk.alg}, not ${named}`);
}

/// The type and bytes of a key.
function fromJwk(algorithm, jwk) {
  const kind =
    { RSASSA: "RSA", "RSA-PS": "RSA", ECDSA: "EC", Ed2551: "OKP" }[algorithm.name.slice(0, 6)] ??
    "oct";
  if (jwk?.kty !== kind)
    throw badKey(
      `the JSON Web Key is of the type ${jwk?.kty}, and ${algorithm.name} needs ${kind}`,
    );
  if (kind === "oct") return ["secret", part(jwk, "k")];
  const isPrivate = jwk.d !== undefined;
  const wrap = (inner) => der(0x30, der(2, [0]), identifier(algorithm), der(4, inner));
  if (kind === "RSA") {
    if (!isPrivate) return ["public", der(0x30, integer(part(jwk, "n")), integer(part(jwk, "e")))];
    return [
      "private",
      wrap(der(0x30, der(2, [0]), ...RSA_PARTS.map((name) => integer(part(jwk, name))))),
    ];
  }
  if (kind === "OKP") {
    if (jwk.crv !== "Ed25519") throw unsupported(`the curve ${jwk.crv}`);
    return isPrivate ? ["private", wrap(der(4, part(jwk, "d")))] : ["public", part(jwk, "x")];
  }
  if (jwk.crv !== algorithm.namedCurve)
    throw badKey(`the JSON Web Key is on ${jwk.crv}, and not on ${algorithm.namedCurve}`);
  const size = CURVES[algorithm.namedCurve];
  const point = join([4], padded(part(jwk, "x"), size), padded(part(jwk, "y"), size));
  if (!isPrivate) return ["public", point];
  return [
    "private",
    wrap(
      der(0x30, der(2, [1]), der(4, padded(part(jwk, "d"), size)), der(0xa1, der(3, [0], point))),
    ),
  ];
}

function toJwk({ type, algorithm, extractable, usages, bytes }) {
  const common = { key_ops: [...usages], ext: extractable };
  const text = toBase64Url;
  if (type === "secret")
    return { kty: "oct", k: text(bytes), alg: secretName(algorithm, bytes), ...common };
  if (algorithm.name === "Ed25519") {
    if (type === "public") return { kty: "OKP", crv: "Ed25519", x: text(bytes), ...common };
    const seed = elements(fromPkcs8(algorithm, bytes))[0].content;
    return {
      kty: "OKP", crv: "Ed25519", x: text(host("publicKey", "Ed25519", bytes)), d: text(seed),
      ...common,
    };
  }
  if (algorithm.name === "ECDSA") {
    const size = CURVES[algorithm.namedCurve];
    const of = (point) => ({
      kty: "EC", crv: algorithm.namedCurve, x: text(point.subarray(1, 1 + size)),
      y: text(point.subarray(1 + size)),
    });
    if (type === "public") return { ...of(bytes), ...common };
    const [, d] = inside(fromPkcs8(algorithm, bytes));
    return {
      ...of(host("publicKey", `ECDSA ${algorithm.namedCurve}`, bytes)),
      d: text(padded(d.content, size)),
      ...common,
    };
  }
  const alg = `${algorithm.name === "RSA-PSS" ? "PS" : "RS"}${algorithm.hash.name.slice(4).replace(/^1$/, "1")}`;
  const integers = inside(type === "public" ? bytes : fromPkcs8(algorithm, bytes)).map(
    ({ content }) => text(unsigned(content)),
  );
  const parts = type === "public" ? integers : integers.slice(1);
  return {
    kty: "RSA",
    alg,
    ...Object.fromEntries(parts.map((value, i) => [RSA_PARTS[i], value])),
    ...common,
  };
}

const secretName = ({ name, hash }, bytes) =>
  name === "HMAC" ? `HS${hash.name.slice(4)}` : `A${bytes.length * 8}${name.slice(4)}`;

// ---- algorithms ---------------------------------------------------------------------------------

/// The algorithm of a secret key, after checking that the bytes suit it.
const secrets = {
  HMAC({ hash }, bytes) {
    if (bytes.length === 0) throw badKey("the key of HMAC is empty");
    return { name: "HMAC", hash: { name: hashOf(hash) }, length: bytes.length * 8 };
  },
  "AES-GCM"(_, bytes) {
    if (![16, 32].includes(bytes.length))
      throw badKey(`a key of AES-GCM has 128 or 256 bits here, not ${bytes.length * 8}`);
    return { name: "AES-GCM", length: bytes.length * 8 };
  },
  PBKDF2: () => ({ name: "PBKDF2" }),
  HKDF: () => ({ name: "HKDF" }),
};

/// The host's name for a signature scheme.
const schemes = {
  "RSASSA-PKCS1-v1_5": ({ hash }) => `RSASSA ${hash.name}`,
  "RSA-PSS": ({ hash }) => `RSA-PSS ${hash.name}`,
  ECDSA: ({ namedCurve }, { hash }) => `ECDSA ${namedCurve} ${hashOf(hash)}`,
  Ed25519: () => "Ed25519",
};

const ALGORITHMS = { ...HASHES, ...secrets, ...schemes };

/// The algorithm of a signature key.
function signingAlgorithm(given) {
  if (given.name === "Ed25519") return { name: "Ed25519" };
  if (given.name === "ECDSA") return { name: "ECDSA", namedCurve: curveOf(given) };
  return { name: given.name, hash: { name: hashOf(given.hash) } };
}

/// Adds the parameters that are part of the key itself, and refuses bytes that are not a key.
function withLength(algorithm, type, bytes) {
  const kind =
    algorithm.name === "ECDSA"
      ? `ECDSA ${algorithm.namedCurve}`
      : algorithm.name === "Ed25519"
        ? "Ed25519"
        : "RSA";
  if (!host("isKey", kind, type === "private", bytes))
    throw badKey(`the ${type} key is not one of ${algorithm.name} that this host can use`);
  if (kind !== "RSA") return algorithm;
  const integers = type === "public" ? inside(bytes) : inside(fromPkcs8(algorithm, bytes)).slice(1);
  const [modulus, exponent] = integers.map(({ content }) => unsigned(content));
  return {
    ...algorithm,
    modulusLength: modulus.length * 8 - Math.clz32(modulus[0]) + 24,
    publicExponent: exponent.slice(),
  };
}

/// The limit of PBKDF2 iterations, which take some seconds and cannot be interrupted.
const MAX_ITERATIONS = 2_000_000;

function derive(given, key, bits) {
  const { bytes } = key;
  const hash = hashOf(given.hash);
  if (!Number.isInteger(bits) || bits <= 0 || bits % 8 !== 0)
    throw fails("OperationError", `the length must be a multiple of 8 bits, not ${bits}`);
  const salt = bytesOf(given.salt);
  if (given.name === "HKDF") {
    const derived = host("hkdf", hash, bytes, salt, bytesOf(given.info), bits / 8);
    if (derived === undefined)
      throw fails(
        "OperationError",
        `HKDF gives at most 255 times the length of its hash, not ${bits} bits`,
      );
    return derived;
  }
  const iterations = Number(given.iterations);
  const blocks = Math.ceil(bits / 8 / HASHES[hash]);
  if (!Number.isInteger(iterations) || iterations < 1)
    throw fails("OperationError", `the iterations must be a whole number, not ${given.iterations}`);
  if (iterations * blocks > MAX_ITERATIONS) {
    throw unsupported(
      `PBKDF2 with ${iterations} iterations for ${bits} bits, more than ${MAX_ITERATIONS} for ${HASHES[hash] * 8},`,
    );
  }
  return host("pbkdf2", hash, bytes, salt, iterations, bits / 8);
}

function cipher(isSeal, given, key, data) {
  const iv = bytesOf(given.iv);
  if (iv.length === 0) throw fails("OperationError", "crypto.subtle: the iv is empty");
  if (iv.length !== 12) throw unsupported(`AES-GCM with an iv of ${iv.length} bytes instead of 12`);
  if ((given.tagLength ?? 128) !== 128)
    throw unsupported(`AES-GCM with a tag of ${given.tagLength} bits instead of 128`);
  const made = host("aesGcm", isSeal, key.bytes, iv, bytesIn(given.additionalData), bytesOf(data));
  if (made === undefined)
    throw fails("OperationError", "crypto.subtle: the data is not what the key sealed");
  return made.buffer;
}

export class SubtleCrypto {
  constructor(token) {
    if (token !== making) throw new TypeError("Illegal constructor");
  }
  async digest(algorithm, data) {
    const { name } = algorithmOf(algorithm);
    return host("digest", hashOf(name), bytesOf(data)).buffer;
  }
  async importKey(format, data, algorithm, extractable, usages) {
    choice("the format of a key", format, ["raw", "spki", "pkcs8", "jwk"]);
    const given = algorithmOf(algorithm);
    if (format === "jwk") checkJwk(given, data, extractable, usages);
    if (Object.hasOwn(secrets, given.name)) {
      if (format !== "raw" && format !== "jwk")
        throw unsupported(`a key of ${given.name} as ${format}`);
      const bytes = format === "raw" ? bytesOf(data).slice() : fromJwk(given, data)[1];
      return makeKey("secret", secrets[given.name](given, bytes), extractable, usages, bytes);
    }
    if (!Object.hasOwn(schemes, given.name)) throw unsupported(`a key of ${given.name}`);
    const own = signingAlgorithm(given);
    let type = "public";
    let bytes;
    if (format === "jwk") [type, bytes] = fromJwk(own, data);
    else if (format === "spki") bytes = fromSpki(own, bytesOf(data));
    else if (format === "raw" && own.hash === undefined) bytes = bytesOf(data).slice();
    else if (format === "pkcs8") {
      [type, bytes] = ["private", bytesOf(data).slice()];
      fromPkcs8(own, bytes);
    } else throw unsupported(`a key of ${own.name} as ${format}`);
    return makeKey(type, withLength(own, type, bytes), extractable, usages, bytes);
  }
  async exportKey(format, key) {
    const own = keyOf(key);
    const { type, algorithm, extractable, bytes } = own;
    if (!extractable) throw badUse("the key cannot be extracted");
    if (format === "jwk") return toJwk(own);
    if (
      format === "raw" &&
      (type === "secret" || (type === "public" && algorithm.hash === undefined))
    )
      return bytes.slice().buffer;
    if (format === "spki" && type === "public") return toSpki(algorithm, bytes).buffer;
    if (format === "pkcs8" && type === "private") return bytes.slice().buffer;
    throw unsupported(`a ${type} key of ${algorithm.name} as ${format}`);
  }
  async generateKey(algorithm, extractable, usages) {
    const given = algorithmOf(algorithm);
    if (given.name === "HMAC" || given.name === "AES-GCM") {
      const bits =
        given.length ?? (given.name === "HMAC" ? BLOCKS[hashOf(given.hash)] * 8 : undefined);
      if (!Number.isInteger(bits) || bits <= 0 || bits % 8 !== 0 || bits > 8192)
        throw fails("OperationError", `the length of a key cannot be ${bits} bits`);
      const bytes = crypto.getRandomValues(new Uint8Array(bits / 8));
      return makeKey("secret", secrets[given.name](given, bytes), extractable, usages, bytes);
    }
    const pair = { ECDSA: () => `ECDSA ${curveOf(given)}`, Ed25519: () => "Ed25519" }[
      given.name
    ]?.();
    if (pair === undefined || isDeterministic())
      throw unsupported(
        `generating a key of ${given.name}${pair ? " in queries and mutations" : ""}`,
      );
    const own = signingAlgorithm(given);
    const bytes = host("generateKey", pair);
    const uses = [...usages];
    return {
      publicKey: makeKey(
        "public", own, true,
        uses.filter((usage) => usage !== "sign"),
        host("publicKey", pair, bytes),
      ),
      privateKey: makeKey(
        "private", own, extractable,
        uses.filter((usage) => usage !== "verify"),
        bytes,
      ),
    };
  }
  async sign(algorithm, key, data) {
    const given = algorithmOf(algorithm);
    const own = checkUse(key, given, "sign");
    if (given.name === "HMAC")
      return host("hmac", own.algorithm.hash.name, own.bytes, bytesOf(data)).buffer;
    if (own.type !== "private") throw badUse("only a private key signs");
    if (isDeterministic() && (given.name === "ECDSA" || given.name === "RSA-PSS")) {
      throw unsupported(
        `signing with ${given.name}, which is not the same each time, in queries and mutations`,
      );
    }
    checkSalt(given, own);
    const signature = host(
      "sign", schemes[given.name](own.algorithm, given), own.bytes, bytesOf(data),
    );
    if (signature === undefined)
      throw unsupported(`signing with ${schemes[given.name](own.algorithm, given)}`);
    return signature.buffer;
  }
  async verify(algorithm, key, signature, data) {
    const given = algorithmOf(algorithm);
    const own = checkUse(key, given, "verify");
    if (given.name === "HMAC")
      return host(
        "hmacVerify", own.algorithm.hash.name, own.bytes, bytesOf(data), bytesOf(signature),
      );
    if (own.type !== "public") throw badUse("only a public key verifies");
    checkSalt(given, own);
    const is = host(
      "verify", schemes[given.name](own.algorithm, given), own.bytes, bytesOf(signature),
      bytesOf(data),
    );
    if (is === undefined)
      throw unsupported(`verifying ${schemes[given.name](own.algorithm, given)}`);
    return is;
  }
  async encrypt(algorithm, key, data) {
    const given = algorithmOf(algorithm);
    if (given.name !== "AES-GCM") throw unsupported(`encrypting with ${given.name}`);
    return cipher(true, given, checkUse(key, given, "encrypt"), data);
  }
  async decrypt(algorithm, key, data) {
    const given = algorithmOf(algorithm);
    if (given.name !== "AES-GCM") throw unsupported(`decrypting with ${given.name}`);
    return cipher(false, given, checkUse(key, given, "decrypt"), data);
  }
  async deriveBits(algorithm, key, length) {
    const given = algorithmOf(algorithm);
    if (given.name !== "PBKDF2" && given.name !== "HKDF")
      throw unsupported(`deriving bits with ${given.name}`);
    return derive(given, checkUse(key, given, "deriveBits"), length).buffer;
  }
  async deriveKey(algorithm, key, wanted, extractable, usages) {
    const given = algorithmOf(algorithm);
    const target = algorithmOf(wanted);
    if (given.name !== "PBKDF2" && given.name !== "HKDF")
      throw unsupported(`deriving a key with ${given.name}`);
    if (target.name !== "HMAC" && target.name !== "AES-GCM")
      throw unsupported(`deriving a key of ${target.name}`);
    const bits =
      target.length ?? (target.name === "HMAC" ? BLOCKS[hashOf(target.hash)] * 8 : undefined);
    const bytes = derive(given, checkUse(key, given, "deriveKey"), bits);
    return makeKey("secret", secrets[target.name](target, bytes), extractable, usages, bytes);
  }
  async wrapKey() {
    throw unsupported("wrapKey()");
  }
  async unwrapKey() {
    throw unsupported("unwrapKey()");
  }
}

function checkSalt({ name, saltLength }, { algorithm }) {
  if (name === "RSA-PSS" && saltLength !== HASHES[algorithm.hash.name]) {
    throw unsupported(
      `RSA-PSS with a salt of ${saltLength} bytes instead of ${HASHES[algorithm.hash.name]}`,
    );
  }
}

export class Crypto {
  #subtle = new SubtleCrypto(making);

  constructor(token) {
    if (token !== making) throw new TypeError("Illegal constructor");
  }
  get subtle() {
    return this.#subtle;
  }
  getRandomValues(target) {
    if (
      !ArrayBuffer.isView(target) ||
      target instanceof DataView ||
      target instanceof Float32Array ||
      target instanceof Float64Array
    ) {
      throw new DOMException(
        "getRandomValues() takes a typed array of whole numbers",
        "TypeMismatchError",
      );
    }
    const bytes = bytesOf(target);
    if (bytes.length > 65536)
      throw new DOMException("getRandomValues() gives 65536 bytes at most", "QuotaExceededError");
    for (let i = 0; i < bytes.length; i++) bytes[i] = native.random() * 256;
    return target;
  }
  randomUUID() {
    const bytes = this.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return [
      hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20),
    ].join("-");
  }
}

export const crypto = new Crypto(making);

expose(CryptoKey, SubtleCrypto, Crypto);
