//! The globals that functions written for Convex expect. Each exists and works, or fails with its
//! name when it is used.

use serde_json::{Value, json};

use super::*;

/// Evaluates each expression in an action, in one engine. A rejection becomes its message.
fn evaluated(kind: &str, expressions: &[(&str, &str)]) -> Vec<(String, Value)> {
    let members: String =
        expressions.iter().map(|(_, code)| format!("async () => {{ {code} }},\n")).collect();
    let module = format!(
        "const all: any[] = [{members}];
         export const run = {kind}(async () => {{
           const results = [];
           for (const each of all) {{
             try {{ results.push(JSON.stringify(await each())); }}
             catch (e: any) {{ results.push(JSON.stringify(`${{e?.name}}: ${{e?.message}}`)); }}
           }}
           return results;
         }});"
    );
    let results = fixture(&module).value("messages:run", "[{}]");
    let results: Vec<Option<String>> = serde_json::from_str(&results).unwrap();
    let parsed = |text: Option<String>| {
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    };
    let names = expressions.iter().map(|(name, _)| (*name).to_owned());
    names.zip(results.into_iter().map(parsed)).collect()
}

fn check(kind: &str, table: &[(&str, &str, Value)]) {
    let expressions: Vec<_> = table.iter().map(|(name, code, _)| (*name, *code)).collect();
    let found = evaluated(kind, &expressions);
    let wrong: Vec<_> = found
        .iter()
        .zip(table)
        .filter(|((_, found), (_, _, expected))| found != expected)
        .map(|((name, found), (_, _, expected))| format!("{name}: {found} instead of {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The names that a program can expect, by the result of `typeof`.
const THERE: [(&str, &str); 63] = [
    ("AbortController", "function"),
    ("AbortSignal", "function"),
    ("AsyncLocalStorage", "function"),
    ("AsyncResource", "function"),
    ("Blob", "function"),
    ("ByteLengthQueuingStrategy", "function"),
    ("CountQueuingStrategy", "function"),
    ("Crypto", "function"),
    ("CryptoKey", "function"),
    ("CustomEvent", "function"),
    ("DOMException", "function"),
    ("ErrorEvent", "function"),
    ("Event", "function"),
    ("EventTarget", "function"),
    ("File", "function"),
    ("FinalizationRegistry", "function"),
    ("FormData", "function"),
    ("Headers", "function"),
    ("MessageChannel", "function"),
    ("MessageEvent", "function"),
    ("ReadableByteStreamController", "function"),
    ("ReadableStream", "function"),
    ("ReadableStreamBYOBReader", "function"),
    ("ReadableStreamDefaultController", "function"),
    ("ReadableStreamDefaultReader", "function"),
    ("Request", "function"),
    ("Response", "function"),
    ("SubtleCrypto", "function"),
    ("TextDecoder", "function"),
    ("TextDecoderStream", "function"),
    ("TextEncoder", "function"),
    ("TextEncoderStream", "function"),
    ("TransformStream", "function"),
    ("TransformStreamDefaultController", "function"),
    ("URL", "function"),
    ("URLSearchParams", "function"),
    ("WeakRef", "function"),
    ("WebAssembly", "object"),
    ("WritableStream", "function"),
    ("WritableStreamDefaultController", "function"),
    ("WritableStreamDefaultWriter", "function"),
    ("atob", "function"),
    ("btoa", "function"),
    ("clearInterval", "function"),
    ("clearTimeout", "function"),
    ("console", "object"),
    ("crypto", "object"),
    ("fetch", "function"),
    ("global", "object"),
    ("globalThis", "object"),
    ("navigator", "object"),
    ("performance", "object"),
    ("process", "object"),
    ("queueMicrotask", "function"),
    ("self", "object"),
    ("setInterval", "function"),
    ("setTimeout", "function"),
    ("structuredClone", "function"),
    ("Intl", "object"),
    ("Buffer", "undefined"),
    ("window", "undefined"),
    ("document", "undefined"),
    ("require", "undefined"),
];

#[test]
fn globals_exist_in_every_kind_of_function() {
    let names: String = THERE.iter().map(|(name, _)| format!("typeof {name},")).collect();
    for kind in ["query", "mutation", "action"] {
        let module = format!("export const run = {kind}(async () => [{names}]);");
        let found = fixture(&module).value("messages:run", "[{}]");
        let found: Vec<String> = serde_json::from_str(&found).unwrap();
        let wrong: Vec<_> =
            THERE.iter().zip(&found).filter(|((_, expected), found)| expected != found).collect();
        assert!(wrong.is_empty(), "{kind}: {wrong:?}");
    }
}

/// Packages inspect globals, subclass them and read `crypto.subtle` when they are loaded.
#[test]
fn globals_can_be_used_while_modules_are_loaded() {
    let fixture = fixture(
        "class Own extends Response { own = 1; }
         const subtle = crypto.subtle, headers = new Headers({ a: 'b' }), stream = new TransformStream();
         const storage = new AsyncLocalStorage(), request = new Request('https://example.com/a');
         const [form, blob, event, controller] = [new FormData(), new Blob(['x']), new Event('x'), new AbortController()];
         export const run = query(async () => [typeof subtle.digest, headers.get('A'), new Own('x').own, request.url, blob.size]);",
    );
    let found = fixture.value("messages:run", "[{}]");
    assert_eq!(found, "[\"function\",\"b\",1,\"https://example.com/a\",1]");
}

#[test]
fn requests_and_responses_work() {
    let table = [
        ("text", "return await new Response('hé').text()", json!("hé")),
        (
            "type",
            "return new Response('x').headers.get('Content-Type')",
            json!("text/plain;charset=UTF-8"),
        ),
        (
            "empty",
            "const r = new Response(null, { status: 200 }); return [r.body, r.ok, await r.text()]",
            json!([null, true, ""]),
        ),
        (
            "json",
            "const r = Response.json({ a: [1] }, { status: 418 }); return [await r.json(), r.status, r.headers.get('content-type')]",
            json!([{ "a": [1] }, 418, "application/json"]),
        ),
        (
            "redirect",
            "const r = Response.redirect('https://a.example/b', 303); return [r.status, r.headers.get('location')]",
            json!([303, "https://a.example/b"]),
        ),
        (
            "clone",
            "const r = new Response('abc'); const c = r.clone(); return [await r.text(), await c.text(), r.bodyUsed]",
            json!(["abc", "abc", true]),
        ),
        (
            "twice",
            "const r = new Response('abc'); await r.text(); await r.text()",
            json!("TypeError: the body was read already"),
        ),
        (
            "no body",
            "new Response('x', { status: 204 })",
            json!("TypeError: Response: one with the status 204 has no body"),
        ),
        (
            "status",
            "new Response('x', { status: 42 })",
            json!("RangeError: Response: the status is a whole number from 200 to 599, not 42"),
        ),
        (
            "bytes",
            "return [...new Uint8Array(await new Response(new Uint8Array([0, 255, 128])).arrayBuffer())]",
            json!([0, 255, 128]),
        ),
        (
            "request",
            "const r = new Request('https://a.example/b?c=d', { method: 'post', body: JSON.stringify({ z: 1 }), headers: [['X-Y', 'z']] }); const q = r.clone(); return [r.method, r.url, r.headers.get('x-y'), await r.json(), await q.text()]",
            json!(["POST", "https://a.example/b?c=d", "z", { "z": 1 }, "{\"z\":1}"]),
        ),
        (
            "get with body",
            "new Request('https://a.example', { body: 'x' })",
            json!("TypeError: Request: one with GET has no body"),
        ),
        (
            "copy",
            "const r = new Request(new Request('https://a.example/', { method: 'PUT', body: 'k' }), { headers: { q: '1' } }); return [r.method, await r.text(), [...r.headers]]",
            json!(["PUT", "k", [["content-type", "text/plain;charset=UTF-8"], ["q", "1"]]]),
        ),
        (
            "headers",
            "const h = new Headers({ B: ' 2 ', a: '1' }); h.append('a', '3'); h.append('set-cookie', 'x=1'); h.append('Set-Cookie', 'y=2'); return [[...h], h.getSetCookie(), h.has('B'), h.get('none')]",
            json!([
                [["a", "1, 3"], ["b", "2"], ["set-cookie", "x=1"], ["set-cookie", "y=2"]],
                ["x=1", "y=2"],
                true,
                null
            ]),
        ),
        (
            "header name",
            "new Headers([['a b', 'c']])",
            json!("TypeError: Headers: \"a b\" is not the name of a header"),
        ),
        (
            "header value",
            "new Headers({ a: 'b\\r\\nc: d' })",
            json!("TypeError: Headers: a value has characters that it must not have"),
        ),
        (
            "form",
            "const f = new FormData(); f.append('a', '1'); f.append('f', new Blob(['abc'], { type: 'text/x' }), 'n.txt'); const g = await new Response(f).formData(); const file: any = g.get('f'); return [g.get('a'), file.name, file.type, await file.text(), file instanceof File]",
            json!(["1", "n.txt", "text/x", "abc", true]),
        ),
        (
            "urlencoded",
            "return [...await new Response(new URLSearchParams({ q: 'a b&c' })).formData()]",
            json!([["q", "a b&c"]]),
        ),
        (
            "no form",
            "await new Response('x').formData()",
            json!("TypeError: the body is no form: its type is \"text/plain;charset=UTF-8\""),
        ),
        (
            "blob",
            "const b = new Blob(['ab', new Uint8Array([99]), new Blob(['d'])], { type: 'A/B' }); return [b.size, b.type, await b.text(), await b.slice(1, 3).text()]",
            json!([4, "a/b", "abcd", "bc"]),
        ),
        (
            "stream",
            "return await new Response(ReadableStream.from(['a', 'b']).pipeThrough(new TextEncoderStream())).text()",
            json!("ab"),
        ),
        (
            "stream of text",
            "return await new Response(ReadableStream.from(['a'])).text()",
            json!(
                "TypeError: the stream of a body gives bytes: a TextEncoderStream makes them of text"
            ),
        ),
        (
            "shown",
            "return [new Response(), new Headers(), new Blob([]), new URL('https://a.example')].map((o) => Object.prototype.toString.call(o))",
            json!(["[object Response]", "[object Headers]", "[object Blob]", "[object URL]"]),
        ),
    ];
    check("query", &table);
}

#[test]
fn streams_and_events_work() {
    let table = [
        (
            "read",
            "const s = new ReadableStream({ start(c) { c.enqueue(1); c.enqueue(2); c.close(); } }); const got = []; for await (const v of s as any) got.push(v); return got",
            json!([1, 2]),
        ),
        (
            "pull",
            "let i = 0; const r = new ReadableStream({ pull(c) { if (i++ < 3) c.enqueue(i); else c.close(); } }).getReader(); const got = []; for (;;) { const { value, done } = await r.read(); if (done) return got; got.push(value); }",
            json!([1, 2, 3]),
        ),
        (
            "tee",
            "const all = async (s: any) => { const o = []; for await (const v of s) o.push(v); return o; }; const [x, y] = ReadableStream.from(['a', 'b']).tee(); return await Promise.all([all(x), all(y)])",
            json!([["a", "b"], ["a", "b"]]),
        ),
        (
            "transform",
            "let o = ''; for await (const v of ReadableStream.from(['a', 'b']).pipeThrough(new TransformStream({ transform(c, k) { k.enqueue(c.toUpperCase()); }, flush(k) { k.enqueue('!'); } })) as any) o += v; return o",
            json!("AB!"),
        ),
        (
            "backpressure",
            "const t = new TransformStream(); const w = t.writable.getWriter(); const p = (async () => { for (let i = 0; i < 50; i++) { await w.ready; await w.write(i); } await w.close(); })(); let n = 0; for await (const v of t.readable as any) n += v; await p; return n",
            json!(1225),
        ),
        (
            "error",
            "for await (const _ of ReadableStream.from([1]).pipeThrough(new TransformStream({ transform() { throw new Error('bad'); } })) as any);",
            json!("Error: bad"),
        ),
        (
            "pipe",
            "const got: any[] = []; await ReadableStream.from([1, 2]).pipeTo(new WritableStream({ write(c) { got.push(c); }, close() { got.push('end'); } })); return got",
            json!([1, 2, "end"]),
        ),
        (
            "locked",
            "const s = new ReadableStream(); s.getReader(); s.getReader()",
            json!("TypeError: the stream is locked: it has a reader already"),
        ),
        (
            "byob",
            "const r = new Blob(['hello']).stream().getReader({ mode: 'byob' }); const { value } = await r.read(new Uint8Array(3)); return [...value!]",
            json!([104, 101, 108]),
        ),
        (
            "text",
            "const bytes = [...new TextEncoder().encode('h€😀')]; let o = ''; for await (const c of ReadableStream.from(bytes.map((b) => new Uint8Array([b]))).pipeThrough(new TextDecoderStream()) as any) o += c; return o",
            json!("h€😀"),
        ),
        (
            "events",
            "const t = new EventTarget(); const got: any[] = []; t.addEventListener('x', (e) => got.push(e.type), { once: true }); t.dispatchEvent(new Event('x')); t.dispatchEvent(new CustomEvent('x', { detail: 1 })); return got",
            json!(["x"]),
        ),
        (
            "abort",
            "const c = new AbortController(); const any = AbortSignal.any([c.signal]); let n = 0; any.addEventListener('abort', () => n++); c.abort(); c.abort(); return [n, any.aborted, any.reason.name, AbortSignal.abort(5).reason]",
            json!([1, true, "AbortError", 5]),
        ),
        (
            "thrown",
            "const c = new AbortController(); c.abort(); c.signal.throwIfAborted()",
            json!("AbortError: This operation was aborted"),
        ),
        (
            "constructor",
            "new (AbortSignal as any)()",
            json!(
                "TypeError: Illegal constructor: a signal comes from AbortController or AbortSignal"
            ),
        ),
        (
            "timeout",
            "return await new Promise((resolve) => { const s = AbortSignal.timeout(1); s.onabort = () => resolve(s.reason.name); })",
            json!("TimeoutError"),
        ),
        (
            "storage",
            "const a = new AsyncLocalStorage(); return [a.getStore() ?? null, await a.run(1, async () => { const before = a.getStore(); await null; return [before, a.getStore()]; }), a.getStore() ?? null]",
            json!([null, [1, 1], null]),
        ),
        (
            "storages",
            "const a = new AsyncLocalStorage(); const [x] = await Promise.allSettled([a.run(1, async () => { await null; return a.getStore(); }), a.run(2, async () => { await null; })]); return (x as any).reason.message.split(',')[0]",
            json!("AsyncLocalStorage: several run() with different stores are under way at once"),
        ),
        (
            "messages",
            "const { port1, port2 } = new MessageChannel(); const heard = new Promise((r) => { port1.onmessage = (e) => r(e.data); }); port2.postMessage(3); return await heard",
            json!(3),
        ),
        ("weak", "return new WeakRef({ a: 1 }).deref()!.a", json!(1)),
        (
            "wasm",
            "return [WebAssembly.validate(new Uint8Array()), await WebAssembly.compile(new Uint8Array()).catch((e) => e.message)]",
            json!([false, "WebAssembly.compile is not supported by this host"]),
        ),
    ];
    check("action", &table);
}

#[test]
fn urls_and_text_work() {
    let table = [
        (
            "set",
            "const u = new URL('https://u:p@h.example:8080/a?x=1#f'); u.pathname = '/c d'; u.searchParams.append('y', '2 3'); u.host = 'e.example'; u.port = ''; u.hash = ''; u.protocol = 'http'; return u.href",
            json!("http://u:p@e.example/c%20d?x=1&y=2+3"),
        ),
        (
            "search",
            "const u = new URL('https://h.example/'); const p = u.searchParams; u.search = '?q=9'; const before = p.get('q'); p.delete('q'); return [before, u.href]",
            json!(["9", "https://h.example/"]),
        ),
        (
            "invalid",
            "new URL('h.example').href = 'x'",
            json!("TypeError: Invalid URL: 'h.example'"),
        ),
        (
            "set invalid",
            "new URL('https://h.example').href = 'x'",
            json!("TypeError: Invalid URL: 'x'"),
        ),
        (
            "parse",
            "return [URL.parse('x'), URL.parse('/y', 'https://h.example')!.href]",
            json!([null, "https://h.example/y"]),
        ),
        (
            "params",
            "const p = new URLSearchParams([['a', '1'], ['b', '2'], ['a', '3']]); p.set('a', 'x'); return [String(p), p.has('b', '2'), p.has('b', '3'), p.size]",
            json!(["a=x&b=2", true, false, 2]),
        ),
        (
            "bad escapes",
            "return [new URLSearchParams('a=%zz').get('a'), new URLSearchParams('a=%ff').get('a')]",
            json!(["%zz", "\u{fffd}"]),
        ),
        (
            "decoder",
            "const d = new TextDecoder(); return [d.decode(new Uint8Array([0xf0, 0x9f]), { stream: true }), d.decode(new Uint8Array([0x98, 0x80])), new TextDecoder('latin1').decode(new Uint8Array([0xe9]))]",
            json!(["", "😀", "é"]),
        ),
        (
            "label",
            "return [new TextDecoder('koi8-r').decode(new Uint8Array([0xf0])), new TextDecoder('koi9')]",
            json!("RangeError: TextDecoder: the encoding 'koi9' is not supported by this host"),
        ),
        ("base64", "return [btoa('a\\xff'), atob('Yf8=').charCodeAt(1)]", json!(["Yf8=", 255])),
        (
            "clone",
            "const o: any = { m: new Map([[1, { b: 2 }]]), e: new TypeError('t', { cause: 1 }) }; o.self = o; const c = structuredClone(o); return [c.self === c, c.m.get(1), c.e instanceof TypeError, c.e.cause]",
            json!([true, { "b": 2 }, true, 1]),
        ),
        (
            "clone symbol",
            "structuredClone({ f: Symbol('s') })",
            json!("DataCloneError: Symbol(s) cannot be cloned"),
        ),
        (
            "clone promise",
            "structuredClone([Promise.resolve(1)])",
            json!("DataCloneError: an object of Promise cannot be cloned"),
        ),
    ];
    check("query", &table);
}

#[test]
fn subtle_crypto_works_or_names_what_is_missing() {
    let keys = "const text = (t: string) => new TextEncoder().encode(t); const hex = (b: ArrayBuffer) => [...new Uint8Array(b)].map((n) => n.toString(16).padStart(2, '0')).join('');";
    let sign = |name: &str, import: &str| {
        format!(
            "{keys} const jwk = {import}; const {{ d: _, p, q, dp, dq, qi, ...pub }}: any = jwk; const name: any = {name};
             const own = await crypto.subtle.importKey('jwk', jwk, name, true, ['sign']);
             const other = await crypto.subtle.importKey('jwk', pub, name, true, ['verify']);
             const signature = await crypto.subtle.sign(name, own, text('x'));
             const pkcs8 = await crypto.subtle.importKey('pkcs8', await crypto.subtle.exportKey('pkcs8', own), name, true, ['sign']);
             const spki = await crypto.subtle.importKey('spki', await crypto.subtle.exportKey('spki', other), name, true, ['verify']);
             return [await crypto.subtle.verify(name, other, signature, text('x')), await crypto.subtle.verify(name, other, signature, text('y')),
               await crypto.subtle.verify(name, spki, await crypto.subtle.sign(name, pkcs8, text('z')), text('z')),
               (await crypto.subtle.exportKey('jwk', pkcs8)).d === jwk.d]"
        )
    };
    let rsa = include_str!("keys/rsa.json").trim();
    let ec = "{ kty: 'EC', crv: 'P-256', x: 'f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU', y: 'x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0', d: 'jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI' }";
    let ed = "{ kty: 'OKP', crv: 'Ed25519', x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo', d: 'nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A' }";
    let (rs, es, ps, eds) = (
        sign("{ name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }", rsa),
        sign("{ name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }", ec),
        sign("{ name: 'RSA-PSS', hash: 'SHA-256', saltLength: 32 }", rsa),
        sign("'Ed25519'", ed),
    );
    let signed = json!([true, false, true, true]);
    let digest = format!("{keys} return hex(await crypto.subtle.digest('SHA-256', text('abc')))");
    let hmac = format!(
        "{keys} const k = await crypto.subtle.importKey('raw', text('key'), {{ name: 'HMAC', hash: 'SHA-256' }}, false, ['sign', 'verify']); const s = await crypto.subtle.sign('HMAC', k, text('The quick brown fox jumps over the lazy dog')); return [hex(s), await crypto.subtle.verify('HMAC', k, s, text('The quick brown fox jumps over the lazy dog')), await crypto.subtle.verify('HMAC', k, s, text('x')), k.algorithm]"
    );
    let hidden = format!(
        "{keys} const k = await crypto.subtle.importKey('raw', text('key'), {{ name: 'HMAC', hash: 'SHA-256' }}, false, ['sign']); await crypto.subtle.exportKey('raw', k)"
    );
    let aes = format!(
        "{keys} const k = await crypto.subtle.generateKey({{ name: 'AES-GCM', length: 256 }}, true, ['encrypt', 'decrypt']) as any; const iv = crypto.getRandomValues(new Uint8Array(12)); const c = await crypto.subtle.encrypt({{ name: 'AES-GCM', iv }}, k, text('secret')); const p = await crypto.subtle.decrypt({{ name: 'AES-GCM', iv }}, k, c); new Uint8Array(c)[0] ^= 1; return [c.byteLength, new TextDecoder().decode(p), await crypto.subtle.decrypt({{ name: 'AES-GCM', iv }}, k, c).catch((e) => e.name)]"
    );
    let pbkdf2 = format!(
        "{keys} const k = await crypto.subtle.importKey('raw', text('password'), 'PBKDF2', false, ['deriveBits']); return hex(await crypto.subtle.deriveBits({{ name: 'PBKDF2', hash: 'SHA-256', salt: text('salt'), iterations: 2 }}, k, 256))"
    );
    let costly = format!(
        "{keys} const k = await crypto.subtle.importKey('raw', text('password'), 'PBKDF2', false, ['deriveBits']); await crypto.subtle.deriveBits({{ name: 'PBKDF2', hash: 'SHA-256', salt: text('salt'), iterations: 4e9 }}, k, 256)"
    );
    let hkdf = format!(
        "{keys} const k = await crypto.subtle.importKey('raw', new Uint8Array(22).fill(11), 'HKDF', false, ['deriveBits']); return hex(await crypto.subtle.deriveBits({{ name: 'HKDF', hash: 'SHA-256', salt: Uint8Array.from({{ length: 13 }}, (_, i) => i), info: Uint8Array.from({{ length: 10 }}, (_, i) => 0xf0 + i) }}, k, 336))"
    );
    let table = [
        (
            "digest",
            &*digest,
            json!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ),
        (
            "hmac",
            &hmac,
            json!(["f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8", true, false, { "name": "HMAC", "hash": { "name": "SHA-256" }, "length": 24 }]),
        ),
        (
            "hidden",
            &hidden,
            json!("InvalidAccessError: crypto.subtle: the key cannot be extracted"),
        ),
        ("aes", &aes, json!([22, "secret", "OperationError"])),
        (
            "pbkdf2",
            &pbkdf2,
            json!("ae4d0c95af6b46d32d0adff928f06dd02a303f8ef3c251dfd6e2d85a95474c43"),
        ),
        (
            "costly",
            &costly,
            json!(
                "NotSupportedError: crypto.subtle: PBKDF2 with 4000000000 iterations for 256 bits, more than 2000000 for 256, is not supported by this host"
            ),
        ),
        // RFC 5869, A.1.
        (
            "hkdf",
            &hkdf,
            json!(
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
            ),
        ),
        ("rsa", &rs, signed.clone()),
        ("rsa-pss", &ps, signed.clone()),
        ("ecdsa", &es, signed.clone()),
        ("ed25519", &eds, signed.clone()),
        (
            "md5",
            "await crypto.subtle.digest('MD5', new Uint8Array())",
            json!(
                "NotSupportedError: crypto.subtle: the algorithm MD5 is not supported by this host"
            ),
        ),
        (
            "ecdh",
            "await crypto.subtle.generateKey({ name: 'ECDH', namedCurve: 'P-256' }, true, [])",
            json!(
                "NotSupportedError: crypto.subtle: the algorithm ECDH is not supported by this host"
            ),
        ),
        (
            "wrap",
            "await (crypto.subtle as any).wrapKey()",
            json!("NotSupportedError: crypto.subtle: wrapKey() is not supported by this host"),
        ),
        (
            "no key",
            "await crypto.subtle.importKey('pkcs8', new Uint8Array([48, 3, 2, 1, 0]), { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }, false, ['sign'])",
            json!("DataError: crypto.subtle: the key is not one of RSASSA-PKCS1-v1_5"),
        ),
        (
            "uuid",
            "return /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID())",
            json!(true),
        ),
    ];
    check("action", &table);
    let query = [
        (
            "ecdsa",
            &*es,
            json!(
                "NotSupportedError: crypto.subtle: signing with ECDSA, which is not the same each time, in queries and mutations is not supported by this host"
            ),
        ),
        ("rsa", &*rs, signed),
    ];
    check("query", &query);
}

#[test]
fn the_console_shows_tables_and_counts() {
    let fixture = fixture(
        "export const run = query(async () => { console.table([{ a: 1 }, { a: 'x', b: true }]); console.assert(true, 'no'); console.assert(false, 'yes');
           console.count(); console.count('other'); console.count(); console.time('t'); console.timeEnd('t'); console.timeEnd('none'); console.dir({ a: 1 });
           console.groupCollapsed('g'); });",
    );
    let ran = fixture.ran("messages:run", "[{}]");
    let table = "[LOG] '\n┌─────────┬─────┬──────┐\n│ (index) │ a   │ b    │\n├─────────┼─────┼──────┤\n\
                 │ 0       │ 1   │      │\n│ 1       │ 'x' │ true │\n└─────────┴─────┴──────┘'";
    let expected = [
        table,
        "[ERROR] 'Assertion failed' 'yes'",
        "[LOG] 'default: 1'",
        "[LOG] 'other: 1'",
        "[LOG] 'default: 2'",
        "[LOG] 't: 0ms'",
        "[WARN] 'Timer 'none' does not exist'",
        "[LOG] { a: 1 }",
        "[LOG] 'g'",
    ];
    assert_eq!(ran.log_lines, expected);
}

/// The result must equal V8's in English and UTC, or be an error that names the function.
#[test]
fn locale_dependent_calls_match_v8_or_fail() {
    let refused = |what: &str, instead: &str| {
        json!(format!("NotSupportedError: {what} is not supported by this host: {instead}"))
    };
    let sorting = "compare with < and >, or by a key of your own";
    let numbers = "format it by hand, as with toFixed()";
    let dates = "use toISOString(), or the getUTC methods";
    let table = [
        (
            "sort",
            "return ['b', 'a', 'B', 'A', '\u{e9}', 'e', 'f', 'Z', '_', '10', '9'].sort((a, b) => a.localeCompare(b)).join('')",
            json!("_109aAbBe\u{e9}fZ"),
        ),
        (
            "base",
            "return 'R\u{e9}sum\u{e9}'.localeCompare('resume', undefined, { sensitivity: 'base' })",
            json!(0),
        ),
        (
            "numeric",
            "return ['a10', 'a9', 'a1'].sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).join()",
            json!("a1,a9,a10"),
        ),
        (
            "emoji",
            "return ['x \u{1f600}', 'a \u{1f389}'].sort(new Intl.Collator().compare).join()",
            json!("a \u{1f389},x \u{1f600}"),
        ),
        (
            "swedish",
            "return 'a'.localeCompare('b', 'sv')",
            refused("String.prototype.localeCompare with the locale sv", sorting),
        ),
        (
            "kana",
            "return '\u{3042}'.localeCompare('\u{3044}')",
            refused(
                "String.prototype.localeCompare with the character U+3042, whose order depends on it",
                sorting,
            ),
        ),
        (
            "number",
            "return [(1234567.8915).toLocaleString(), (0.5).toLocaleString('en-US', { style: 'percent' }), (-1.005).toLocaleString('en-US', { style: 'currency', currency: 'USD' }), 12345n.toLocaleString()]",
            json!(["1,234,567.892", "50%", "-$1.01", "12,345"]),
        ),
        (
            "german",
            "return [(1234.5).toLocaleString('de-DE'), (1234.5).toLocaleString('fr', { style: 'currency', currency: 'EUR' }), (1e7).toLocaleString('en-IN')]",
            json!(["1.234,5", "1\u{202f}234,50\u{a0}€", "1,00,00,000"]),
        ),
        (
            "slovenian",
            "return (1.5).toLocaleString('sl-SI')",
            refused("Number.prototype.toLocaleString with the locale sl-si", numbers),
        ),
        (
            "compact",
            "return (1500).toLocaleString('en', { notation: 'compact' })",
            refused("Number.prototype.toLocaleString with the notation compact", numbers),
        ),
        (
            "array",
            "const own: any[] = [1234.5, null, new Date(0)]; own.push(own); return own.toLocaleString()",
            json!("1,234.5,,1/1/1970, 12:00:00 AM,"),
        ),
        ("typed", "return new Float64Array([1000, 0.25]).toLocaleString()", json!("1,000,0.25")),
        (
            "date",
            "const d = new Date(Date.UTC(2026, 10, 6, 15, 5, 7)); return [d.toLocaleString(), d.toLocaleDateString('en-US'), d.toLocaleTimeString([], { timeZone: 'UTC' })]",
            json!(["11/6/2026, 3:05:07 PM", "11/6/2026", "3:05:07 PM"]),
        ),
        (
            "zone",
            "return [new Date(0).toLocaleString('en-US', { timeZone: 'europe/berlin' }), new Date(0).toLocaleString('en-US', { timeZone: 'Europe/Atlantis' })]",
            json!("RangeError: Invalid time zone specified: Europe/Atlantis"),
        ),
        (
            "zones",
            "return ['Europe/Berlin', 'America/New_York', 'Asia/Kolkata'].map((timeZone) => new Date(1.72e12).toLocaleTimeString('en-US', { timeZone }))",
            json!(["11:46:40 AM", "5:46:40 AM", "3:16:40 PM"]),
        ),
        (
            "zones after the year 9999",
            "return [Date.UTC(10000, 6, 15), 8.64e15].flatMap((time) => ['Asia/Tokyo', 'America/New_York'].map((timeZone) => [new Date(time).toLocaleString('en-US', { timeZone }), new Date(time).toLocaleDateString('de', { timeZone }), new Date(time).toLocaleDateString('en-US', { timeZone, weekday: 'long' })].join('; ')))",
            json!([
                "7/15/10000, 9:00:00 AM; 15.7.10000; Saturday",
                "7/14/10000, 8:00:00 PM; 14.7.10000; Friday",
                "9/13/275760, 9:00:00 AM; 13.9.275760; Saturday",
                "9/12/275760, 8:00:00 PM; 12.9.275760; Friday",
            ]),
        ),
        (
            "the first time",
            "return new Date(-8.64e15).toLocaleString('en-US', { timeZone: 'America/New_York' })",
            refused("Date.prototype.toLocaleString of a year before 1", dates),
        ),
        (
            "month",
            "return [new Date(0).toLocaleDateString('default', { month: 'long' }), new Date(0).toLocaleString('en', { dateStyle: 'full', timeStyle: 'short' })]",
            json!(["January", "Thursday, January 1, 1970 at 12:00 AM"]),
        ),
        (
            "dates in digits",
            "const d = new Date(Date.UTC(2026, 10, 6, 5, 4, 7)), timeZone = 'America/New_York', day = { year: 'numeric', month: '2-digit', day: '2-digit' } as const;
             return [['en-CA', 'sv-SE', 'en-GB', 'de-DE', 'fr', 'es-CL', 'ja-JP', 'cs'].map((tag) => d.toLocaleDateString(tag, { timeZone })), ['sv', 'en-GB', 'de', 'es', 'pt-BR'].map((tag) => d.toLocaleString(tag)), d.toLocaleDateString('nl', day), d.toLocaleTimeString('es', { hour: '2-digit', minute: '2-digit' }), new Intl.DateTimeFormat('en-CA', { timeZone, ...day }).formatToParts(d).map(({ type, value }) => type + value).join()]",
            json!([
                ["2026-11-06", "2026-11-06", "06/11/2026", "6.11.2026", "06/11/2026", "06-11-2026", "2026/11/6", "6. 11. 2026"],
                ["2026-11-06 05:04:07", "06/11/2026, 05:04:07", "6.11.2026, 05:04:07", "6/11/2026, 5:04:07", "06/11/2026, 05:04:07"],
                "06-11-2026",
                "05:04",
                "year2026,literal-,month11,literal-,day06"
            ]),
        ),
        (
            "dates with names",
            "const d = new Date(Date.UTC(2026, 8, 3, 15, 5, 7)), timeZone = 'Europe/Paris', time = { hour: 'numeric', minute: '2-digit' } as const;
             const long = { timeZone, day: 'numeric', month: 'long', year: 'numeric' } as const, short = { timeZone, weekday: 'short', day: '2-digit', month: 'short' } as const;
             return [['en-GB', 'en-CA', 'es-ES', 'fr', 'de', 'it', 'pt-BR', 'nl'].map((tag) => d.toLocaleDateString(tag, long)), ['en-GB', 'en-AU', 'fr', 'de', 'nl'].map((tag) => d.toLocaleDateString(tag, short)), ['en-GB', 'es', 'fr'].map((tag) => d.toLocaleDateString(tag, { month: 'long' })), d.toLocaleString('en-GB', { ...long, ...time, hour: '2-digit' }), d.toLocaleString('en-AU', { ...long, month: 'short', ...time }), d.toLocaleDateString('es-CL', { month: 'short', year: '2-digit' }), d.toLocaleString('en-IN', { timeZone }), d.toLocaleDateString('vi-VN')]",
            json!([
                ["3 September 2026", "September 3, 2026", "3 de septiembre de 2026", "3 septembre 2026", "3. September 2026", "3 settembre 2026", "3 de setembro de 2026", "3 september 2026"],
                ["Thu 03 Sept", "Thu, 03 Sept", "jeu. 03 sept.", "Do., 03. Sept.", "do 03 sep"],
                ["September", "septiembre", "septembre"],
                "3 September 2026 at 17:05",
                "3 Sept 2026, 5:05 pm",
                "sept 26",
                "3/9/2026, 5:05:07 pm",
                "3/9/2026"
            ]),
        ),
        (
            "times of digits with 12 and 24 hours",
            "const digits = { hour: '2-digit', minute: '2-digit', second: '2-digit', timeZone: 'UTC' } as const, whole = { ...digits, year: 'numeric', month: '2-digit', day: '2-digit' } as const, night = new Date(Date.UTC(2024, 0, 5, 0, 4, 9));
             const shown = (tag: string, options: any) => night.toLocaleString(tag, options);
             return [shown('en-CA', whole), shown('en-CA', { ...whole, hour12: false }), shown('en-CA', { ...whole, hourCycle: 'h23' }), shown('es-MX', {}), shown('es-CL', { hour12: true }), shown('en-GB', { ...whole, hour12: false }), shown('sv-SE', { ...whole, hourCycle: 'h23' }), shown('en-AU', { hour: 'numeric', minute: '2-digit', hour12: false }), shown('de', { year: 'numeric', month: 'numeric', day: 'numeric', hour12: true }), new Intl.DateTimeFormat('es-CL', digits).formatToParts(night).at(-1)]",
            json!([
                "2024-01-05, 12:04:09 a.m.",
                "2024-01-05, 24:04:09",
                "2024-01-05, 00:04:09",
                "5/1/2024, 12:04:09 a.m.",
                "05-01-2024, 12:04:09 a. m.",
                "05/01/2024, 00:04:09",
                "2024-01-05 00:04:09",
                "24:04",
                "5.1.2024",
                { "type": "dayPeriod", "value": "a.\u{202f}m." }
            ]),
        ),
        (
            "german time with 12 hours",
            "return new Date(0).toLocaleTimeString('de', { hour: '2-digit', minute: '2-digit', hour12: true })",
            refused("Date.prototype.toLocaleTimeString with these options and the locale de", dates),
        ),
        (
            "german date",
            "return new Date(0).toLocaleDateString('de-DE', { dateStyle: 'long' })",
            refused("Date.prototype.toLocaleDateString with these options and the locale de-de", dates),
        ),
        (
            "colombian time",
            "return new Date(0).toLocaleString('es-CO')",
            refused("Date.prototype.toLocaleString with these options and the locale es-co", dates),
        ),
        (
            "greek date",
            "return new Date(0).toLocaleDateString('el')",
            refused("Date.prototype.toLocaleDateString with the locale el", dates),
        ),
        (
            "era",
            "return new Date(0).toLocaleDateString('en', { era: 'short', year: 'numeric' })",
            refused("Date.prototype.toLocaleDateString with only era, year", dates),
        ),
        (
            "names of zones",
            "const name = (zone: string, kind: any, time: number) => new Intl.DateTimeFormat('en-US', { timeZone: zone, timeZoneName: kind }).formatToParts(time).at(-1)!.value;
             return ['America/New_York', 'America/Phoenix', 'America/Havana', 'Asia/Shanghai', 'Europe/London', 'Asia/Kolkata', 'Atlantic/Azores', 'UTC'].map((zone) => [-1e12, 1704067200000, 1719792000000].map((time) => ['short', 'shortOffset', 'longOffset'].map((kind) => name(zone, kind, time)).join(' ')))",
            json!([
                ["GMT-4 GMT-4 GMT-04:00", "EST GMT-5 GMT-05:00", "EDT GMT-4 GMT-04:00"],
                ["GMT-7 GMT-7 GMT-07:00", "MST GMT-7 GMT-07:00", "MST GMT-7 GMT-07:00"],
                ["GMT-5 GMT-5 GMT-05:00", "GMT-5 GMT-5 GMT-05:00", "GMT-4 GMT-4 GMT-04:00"],
                ["GMT+8 GMT+8 GMT+08:00", "GMT+8 GMT+8 GMT+08:00", "GMT+8 GMT+8 GMT+08:00"],
                ["GMT+1 GMT+1 GMT+01:00", "GMT GMT+0 GMT+00:00", "GMT+1 GMT+1 GMT+01:00"],
                ["GMT+5:30 GMT+5:30 GMT+05:30", "GMT+5:30 GMT+5:30 GMT+05:30", "GMT+5:30 GMT+5:30 GMT+05:30"],
                ["GMT-1 GMT-1 GMT-01:00", "GMT-1 GMT-1 GMT-01:00", "GMT+0 GMT+0 GMT+00:00"],
                ["UTC GMT+0 GMT+00:00", "UTC GMT+0 GMT+00:00", "UTC GMT+0 GMT+00:00"]
            ]),
        ),
        (
            "a zone with names of its own",
            "return new Date(0).toLocaleString('en', { timeZone: 'America/Mazatlan', timeZoneName: 'short' })",
            refused("Date.prototype.toLocaleString with the timeZoneName short in America/Mazatlan", dates),
        ),
        (
            // As Day.js, Luxon and date-fns ask for them.
            "parts in a zone",
            "const d = new Date(Date.UTC(2026, 10, 6, 15, 5, 7)), timeZone = 'America/Denver', digits: any = { year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit' };
             return [d.toLocaleString('en-US', { timeZone, timeStyle: 'long', dateStyle: 'full' }), new Intl.DateTimeFormat('en-US', { timeZone, hour12: false, ...digits, timeZoneName: 'short' }).format(d), new Intl.DateTimeFormat('en-US', { timeZone, hour12: false, ...digits, era: 'short' }).formatToParts(d).map((part) => part.value).join(''), new Intl.DateTimeFormat('en-US', { timeZone, hour: 'numeric', timeZoneName: 'longOffset' }).format(d), d.toLocaleDateString('en-US', { era: 'long' })]",
            json!([
                "Friday, November 6, 2026 at 8:05:07 AM MST",
                "11/06/2026, 08:05:07 MST",
                "11/06/2026 AD, 08:05:07",
                "8 AM GMT-07:00",
                "11/6/2026 Anno Domini"
            ]),
        ),
        (
            "texts as dates",
            "return ['Jan 5, 2024', '1/5/24 10:00 PM', '2024-01-05T10:00:00-08', 'Jan 32 2024', 'Fri, 5 Jan 2024 10:00:00 EST', '1/5 10:00:00:00.5 10:00'].map(Date.parse)",
            json!([
                1_704_412_800_000_u64,
                1_704_492_000_000_u64,
                null,
                null,
                1_704_466_800_000_u64,
                null
            ]),
        ),
        (
            "no such date",
            "return [new Date(0).setFullYear(NaN), new Date(5).setHours(undefined as any), (() => { const d = new Date(5); d.setMonth(NaN); return d.getTime(); })()]",
            json!([null, null, null]),
        ),
        (
            "case",
            "return ['i'.toLocaleUpperCase(), 'I'.toLocaleLowerCase('de'), 'x'.toLocaleUpperCase('tr')]",
            refused("String.prototype.toLocaleUpperCase with the locale tr", "use toUpperCase()"),
        ),
        ("resolved", "return Intl.DateTimeFormat().resolvedOptions().timeZone", json!("UTC")),
        (
            "plural",
            "const ordinal = new Intl.PluralRules('en', { type: 'ordinal' }); return [new Intl.PluralRules().select(1), ...[1, 2, 3, 4, 11, 22].map((n) => ordinal.select(n))]",
            json!(["one", "one", "two", "few", "other", "other", "two"]),
        ),
        (
            "list",
            "return new Intl.ListFormat('en').format(['a'])",
            refused(
                "Intl.ListFormat",
                "format by hand, or with a package that brings its own data",
            ),
        ),
        (
            "tag",
            "return 'a'.localeCompare('b', 'not a tag')",
            json!("RangeError: Incorrect locale information provided"),
        ),
        (
            "normal",
            "return ['\u{e9}\u{327}'.normalize('NFD') === 'e\u{327}\u{301}', '\u{1e9b}\u{323}'.normalize('NFKC'), '\u{ac01}'.normalize('NFD').length]",
            json!([true, "\u{1e69}", 3]),
        ),
    ];
    for kind in ["query", "action"] {
        check(kind, &table);
    }
}

/// Apps keep formats in variables of modules: what this host does not support must not stop them
/// from being loaded.
#[test]
fn formats_fail_when_they_are_used() {
    let fixture = fixture(
        "const money = new Intl.NumberFormat('sl-SI'), when = new Intl.DateTimeFormat('fr-FR', { era: 'long' });
         const [list, order] = [new Intl.ListFormat('en'), new Intl.Collator('sv')];
         export const run = query(async () => [
           () => money.format(1), () => when.format(0), () => list.format([]), () => order.compare('a', 'b'),
         ].map((use) => { try { return use(); } catch (error) { return (error as Error).name; } }));",
    );
    let found = fixture.value("messages:run", "[{}]");
    assert_eq!(found, serde_json::to_string(&["NotSupportedError"; 4]).unwrap());
}

#[test]
fn using_buffer_fails_with_an_alternative() {
    let failure =
        fixture("export const run = query(async () => (globalThis as any, Buffer.from('x')));")
            .failure("messages:run");
    let expected = "Uncaught ReferenceError: Buffer is not defined (this host has no Buffer: use Uint8Array, TextEncoder, atob and btoa)";
    assert!(failure.message.starts_with(expected), "{}", failure.message);
}
