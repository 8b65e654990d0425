//! The environment of a function, and the results and errors its caller receives.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

#[test]
fn typescript_errors_have_source_positions() {
    let fixture = fixture(
        "export const list = query({ handler: async (ctx: any, args: { n: number }): Promise<number> => args.n + Date.now() });
export const fails = query({ handler: async () => {
  throw new Error('boom');
} });
interface Shape { side: number }
export const deep = query(async () => { const shape = {} as Shape; return area(shape); });
function area(shape: Shape): number {
  return (shape as any).missing.side;
}",
    );
    assert_eq!(fixture.value("messages:list", "[{\"n\":1}]"), "1700000000001");
    assert_eq!(
        fixture.failure("messages.js:fails").message,
        "Uncaught Error: boom\n    at handler (../convex/messages.ts:4:13)"
    );
    let message = fixture.failure("messages:deep").message;
    assert!(message.starts_with("Uncaught TypeError: cannot read property 'side' of undefined\n    at area (../convex/messages.ts:9:"), "{message}");
    assert_eq!(message.lines().count(), 3, "{message}");
}

/// Text between ‹ and › is part of the TypeScript only.
#[test]
fn typescript_stack_traces_match_javascript() {
    let text = "
‹interface Shape { side: number }›
‹enum Unused { A, B }› class Base { ‹private› text = 'ünï';
  ‹declare other: string;› method‹<T>›(value‹: T›)‹: void› { fail‹<T>›(value‹ as any›); } }
function fail‹<T>›(value‹?: T›, ...rest‹: any[]›)‹: never› {
  const text = `a ${value} b
    c`; throw new TypeError‹<string>›(text);
}
class Thing { constructor(how‹: any›) { how(); } }
export const run = query(async (ctx‹: any›, { how }‹: { how: string }›)‹: Promise<number>› => {
  if (how === 'call') return ‹<any>›fail‹<string>›();
  if (how === 'statement') fail‹<string>›();
  if (how === 'chain') 'x'.trim().concat(('y' ‹as any›)).at‹<A>›(0).repeat‹<T>›(-1).trim();
  if (how === 'in arguments') [1].map‹<any>›(‹<T>›(one‹: T›) => String(fail‹<T>›( one )));
  if (how === 'method') new Base‹<T>›().method‹<string>›(how‹ satisfies string›);
  if (how === 'arrow') [1].map‹<any>›((one‹: number›)‹: any› => { return one.x‹!›.y‹!›; });
  if (how === 'async') await (async ‹<T>›(one‹: T›) => { null‹!›.x; })(1);
  if (how === 'new') new Thing‹<any>›(fail‹<T>›);
  return (
    // Above the code that it refers to.
    undefined‹ as any›
  ).x;
});";
    let marks = |char| matches!(char, '‹' | '›');
    let typescript = text.replace(marks, "");
    let mut is_type = false;
    let blank = |char| {
        is_type = (is_type || char == '‹') && char != '›';
        match char {
            _ if marks(char) => None,
            _ if is_type => Some(' '),
            _ => Some(char),
        }
    };
    let javascript: String = text.chars().filter_map(blank).collect();
    let fixture = fixture_of(&[
        ("typed.ts", &format!("{HEADER}{typescript}")),
        ("plain.js", &format!("{HEADER}{javascript}")),
    ]);
    for how in
        ["call", "statement", "chain", "in arguments", "method", "arrow", "async", "new", "else"]
    {
        let args = format!("[{{\"how\":\"{how}\"}}]");
        let trace = |module: &str| {
            let failure = fixture.ran(&format!("{module}:run"), &args).result.unwrap_err();
            failure.message.replace(".ts:", ".js:").replace("typed", "plain")
        };
        assert_eq!(trace("typed"), trace("plain"), "{how}");
    }
}

#[test]
fn parenthesized_statements_end_after_the_parentheses() {
    let fixture = fixture(
        "export const run = query(async (): Promise<any> => {
           const double = async (
             n: number
           ) => (
             n * 2
           );
           function* all() { yield (
             1
           ); return (
             2 as number
           ); }
           try { throw (
             // why
             new Error('thrown')
           ); } catch (error: any) { return (
             [...all(), await double(2), error.message, `a
b ${ 1 as any }
c`]
           ); }
         });",
    );
    assert_eq!(fixture.value("messages:run", "[{}]"), "[1,4,\"thrown\",\"a\\nb 1\\nc\"]");
}

#[test]
fn convex_errors_keep_their_data() {
    let fixture = fixture(
        "export const data = query(async () => { throw new ConvexError({ code: 7n, why: 'x' }); });
         export const text = mutation(async () => { throw new ConvexError('nope'); });
         export const nothing = query(async () => { throw undefined; });
         export const object = query(async () => { throw { a: 1 }; });
         class Mine extends ConvexError { name = 'Mine'; }
         export const derived = query(async () => { throw new Mine([1]); });",
    );
    let failure = fixture.failure("messages:data");
    assert_eq!(
        failure.data.as_deref(),
        Some("{\"code\":{\"$integer\":\"BwAAAAAAAAA=\"},\"why\":\"x\"}")
    );
    assert!(
        failure.message.starts_with("Uncaught ConvexError: {\"code\":\"7n\",\"why\":\"x\"}\n"),
        "{}",
        failure.message
    );
    assert_eq!(failure.kind, FailureKind::Thrown);
    let failure = fixture.failure("messages:text");
    assert_eq!(failure.data.as_deref(), Some("\"nope\""));
    assert!(failure.message.starts_with("Uncaught ConvexError: nope\n"), "{}", failure.message);
    assert_eq!(fixture.failure("messages:derived").data.as_deref(), Some("[1]"));
    let nothing = fixture.failure("messages:nothing");
    assert_eq!((nothing.message.as_str(), nothing.data), ("Uncaught undefined", None));
    assert_eq!(fixture.failure("messages:object").message, "Uncaught [object Object]");
}

#[test]
fn failed_operations_throw_catchable_errors() {
    let fixture = fixture(
        "export const caught = mutation(async (ctx) => {
           try { await ctx.db.insert('t', {}); } catch (e) { return [e instanceof ConvexError, e.message, (e as any).data ?? null]; }
         });
         export const sync = query(async (ctx) => {
           try { ctx.db.normalizeId('t', 'x'); } catch (e) { return [e instanceof Error, e.message]; }
         });",
    );
    let error = SyscallError {
        message: "Uncaught ConvexError: no".to_owned(),
        data: Some("{\"$integer\":\"BwAAAAAAAAA=\"}".to_owned()),
    };
    let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Err(error.clone()) };
    let ran = fixture.run_with("messages:caught", "[{}]", &SEED, &ample(), &mut host);
    assert_eq!(
        ran.result.unwrap(),
        "[true,\"Uncaught ConvexError: no\",{\"$integer\":\"BwAAAAAAAAA=\"}]"
    );
    let mut host =
        Host { asked: Vec::new(), answer: |_: &str, _: &str| Err(SyscallError::new("plain")) };
    let ran = fixture.run_with("messages:caught", "[{}]", &SEED, &ample(), &mut host);
    assert_eq!(ran.result.unwrap(), "[false,\"plain\",null]");
    let ran = fixture.run_with("messages:sync", "[{}]", &SEED, &ample(), &mut host);
    assert_eq!(ran.result.unwrap(), "[true,\"plain\"]");
}

#[test]
fn calls_are_deterministic_and_leave_no_state() {
    let fixture = fixture(
        "let calls = 0;
         (globalThis as any).leak ??= 0;
         export const draw = query(async () => [
           ++calls, ++(globalThis as any).leak, Math.random(), Math.random(), crypto.randomUUID(),
           [...crypto.getRandomValues(new Uint8Array(4))], Date.now(), new Date().toISOString(), Date(), performance.now(),
         ]);",
    );
    let draw = |random: u64| {
        let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
        let seed = Seed { random: random.into(), now_ms: 1_700_000_000_123.0 };
        fixture.run_with("messages:draw", "[{}]", &seed, &ample(), &mut host).result.unwrap()
    };
    let first = draw(7);
    assert!(first.starts_with("[1,1,0."), "{first}");
    assert!(first.ends_with("1700000000123,\"2023-11-14T22:13:20.123Z\",\"Tue Nov 14 2023 22:13:20 GMT+0000 (Coordinated Universal Time)\",0]"), "{first}");
    assert_eq!(draw(7), first);
    assert_ne!(draw(8), first);
}

#[test]
fn dates_are_in_utc() {
    let fixture = fixture(
        "export const dates = query(async () => [
           new Date(2024, 0, 2, 3, 4, 5, 6).getTime() === Date.UTC(2024, 0, 2, 3, 4, 5, 6),
           new Date('2024-07-01T10:00').toISOString(), new Date('2024-07-01').toISOString(), Date.parse('2024-07-01T10:00:00'),
           new Date(0).getHours(), new Date(0).getTimezoneOffset(), String(new Date(0)), String(new Date(NaN)),
           new Date(new Date(5)).getTime(), new Date(5) instanceof Date, (class D extends Date {}).name,
           new (class D extends Date { more() { return this.getTime(); } })(9).more(), Object.prototype.toString.call(new Date()),
           new Date().constructor === Date, JSON.stringify(new Date(0)), new Date(0).setHours(1),
         ]);",
    );
    assert_eq!(
        fixture.value("messages:dates", "[{}]"),
        "[true,\"2024-07-01T10:00:00.000Z\",\"2024-07-01T00:00:00.000Z\",1719828000000,0,0,\
         \"Thu Jan 01 1970 00:00:00 GMT+0000 (Coordinated Universal Time)\",\"Invalid Date\",5,true,\"D\",9,\"[object Date]\",true,\
         \"\\\"1970-01-01T00:00:00.000Z\\\"\",3600000]"
    );
}

#[test]
fn console_output_is_kept_and_bounded() {
    let fixture = fixture(
        "export const lines = query(async () => {
           console.log('a', 1, { b: [1, 'x', { c: null }], 'd-e': undefined }, [], new Map([[1, { a: 2n }]]), new Set(['s']));
           console.warn(new Date(0), /x/g, () => {}, Symbol('s'), class A { b = 1 }, new (class B { c = 2 })());
           const circle: any = {}; circle.self = circle; console.error(circle, Object.create(null));
         });
         export const flood = query(async () => { for (let i = 0; i < 10_000; i++) console.log(i); console.log('x'.repeat(1e6)); });
         export const long = query(async () => { console.log('x'.repeat(1e7), '\\ud800'); });
         export const nasty = query(async () => {
           console.log({ get a() { throw 1; } }, new Proxy({}, { ownKeys() { throw 1; } }), { toString: 1 });
         });",
    );
    let lines = fixture.ran("messages:lines", "[{}]").log_lines;
    assert_eq!(
        lines[0],
        "[LOG] 'a' 1 { b: [ 1, 'x', { c: null } ], 'd-e': undefined } [] Map(1) { 1 => { a: 2n } } Set(1) { 's' }"
    );
    assert_eq!(
        lines[1],
        "[WARN] 1970-01-01T00:00:00.000Z /x/g [Function] Symbol(s) [Function: A] B { c: 2 }"
    );
    assert_eq!(lines[2], "[ERROR] { self: [Circular] } [Object: null prototype] {}");
    let flood = fixture.ran("messages:flood", "[{}]");
    assert_eq!((flood.log_lines.len(), flood.result.as_deref()), (257, Ok("null")));
    let long = fixture.ran("messages:long", "[{}]").log_lines;
    assert!(long[0].len() < 10_000 && long[0].ends_with("… '\u{fffd}'"), "{}", long[0].len());
    assert_eq!(fixture.ran("messages:nasty", "[{}]").result.unwrap(), "null");
}

#[test]
fn expected_globals_exist() {
    let fixture = fixture(
        "export const all = query(async () => [
           process.env.GREETING, process.env.NOTHING === undefined, ((process.env.OTHER = 'set'), process.env.OTHER === 'set' && delete process.env.GREETING),
           [...new TextEncoder().encode('é€😀')], new TextDecoder().decode(new TextEncoder().encode('é€😀')),
           new TextDecoder().decode(new Uint8Array([0xff])), btoa('hello'), atob('aGVsbG8='), atob(' aGVsbG8'),
           structuredClone(new Map([['a', [1n, { b: new Date(0) }]]])).get('a')[1].b.toISOString(),
           new URL('../x?y=1&y=2#z', 'https://user@example.com:8080/a/b/c').href,
           new URL('https://example.com/?q=a%20b+c').searchParams.get('q'), URL.canParse('nope'),
           new URLSearchParams({ a: '1', b: 'x y&z' }).toString(), String(new URLSearchParams('?a=1&a=2').getAll('a')),
           await new Promise((resolve) => queueMicrotask(() => resolve('micro'))),
         ]);
         export const timer = query(async () => { setTimeout(() => {}, 1); });
         export const fetches = mutation(async () => { await fetch('https://example.com'); });
         export const stored = query(async (ctx) => Convex.jsSyscall('storage/storeBlob', {}));",
    );
    assert_eq!(
        fixture.value("messages:all", "[{}]"),
        "[\"hello\",true,true,[195,169,226,130,172,240,159,152,128],\"é€😀\",\"\u{fffd}\",\"aGVsbG8=\",\"hello\",\"hello\",\
         \"1970-01-01T00:00:00.000Z\",\"https://user@example.com:8080/a/x?y=1&y=2#z\",\"a b c\",false,\"a=1&b=x+y%26z\",\"1,2\",\"micro\"]"
    );
    let says = |name: &str, text: &str| {
        let message = fixture.failure(name).message;
        assert!(message.contains(text), "{message}");
    };
    says("messages:timer", "setTimeout() is for actions only");
    says("messages:fetches", "fetch() is for actions only");
    says("messages:stored", "storage/storeBlob: file storage is not supported by this host");
}

/// Passes operations to another thread, which completes them.
struct Elsewhere(Sender<(String, Later)>);

impl Syscalls for Elsewhere {
    fn syscall(&mut self, _: &str, _: &str) -> Result<String, SyscallError> {
        Ok("null".to_owned())
    }

    fn async_syscall(&mut self, _: &str, args: &str, later: Later) -> Answer {
        self.0.send((args.to_owned(), later)).unwrap();
        Answer::Later
    }
}

fn elsewhere(complete: impl FnOnce(Receiver<(String, Later)>) + Send + 'static) -> Elsewhere {
    let (sender, operations) = channel();
    std::thread::spawn(move || complete(operations));
    Elsewhere(sender)
}

/// Accepts operations and never answers them.
struct Dropping;

impl Syscalls for Dropping {
    fn syscall(&mut self, _: &str, _: &str) -> Result<String, SyscallError> {
        Ok("null".to_owned())
    }

    fn async_syscall(&mut self, _: &str, _: &str, _: Later) -> Answer {
        Answer::Later
    }
}

const ACTIONS: &str = "
    const ask = (n: number) => Convex.asyncSyscall('op', JSON.stringify(n)).catch((e: any) => `${e.message} ${e.data}`);
    export const both = action(async () => await Promise.all([ask(1), ask(2)]));
    export const dropped = action(async () => await ask(1));
    export const unawaited = action(async () => { void ask(1); return 'done'; });
    export const never = action(async () => { await new Promise(() => {}); });
    export const timed = action(async (ctx) => {
      const order: number[] = [];
      const started = Date.now();
      await new Promise<void>((resolve) => {
        const cleared = setTimeout(() => order.push(9), 1);
        setTimeout(() => { order.push(2); resolve(); }, 20);
        setTimeout(() => order.push(1), 5);
        clearTimeout(cleared);
      });
      return [order, Date.now() - started >= 20];
    });";

#[test]
fn actions_accept_answers_in_any_order() {
    let fixture = fixture(ACTIONS);
    let mut host = elsewhere(|operations| {
        let (one, two) = (operations.recv().unwrap(), operations.recv().unwrap());
        two.1.complete(Ok(format!("second {}", two.0)));
        one.1.complete(Err(SyscallError {
            message: "first".to_owned(),
            data: Some("[1]".to_owned()),
        }));
    });
    let ran = fixture.run_with("messages:both", "[{}]", &SEED, &ample(), &mut host);
    assert_eq!(ran.result.unwrap(), "[\"first 1\",\"second 2\"]");
}

#[test]
fn a_missing_answer_does_not_hang_the_call() {
    let fixture = fixture(ACTIONS);
    let mut host = elsewhere(|operations| drop(operations.recv()));
    let ran = fixture.run_with("messages:dropped", "[{}]", &SEED, &ample(), &mut host);
    assert_eq!(ran.result.unwrap(), "\"the host dropped this operation undefined\"");

    let mut host = Dropping;
    let ran = fixture.run_with("messages:dropped", "[{}]", &SEED, &ample(), &mut host);
    assert_eq!(ran.result.unwrap(), "\"the host dropped this operation undefined\"");

    // Held for longer than the time limit of the call.
    let (sender, held) = channel();
    let mut host = Elsewhere(sender);
    let limits = Limits { wall: Duration::from_millis(20), ..ample() };
    let failure =
        fixture.run_with("messages:dropped", "[{}]", &SEED, &limits, &mut host).result.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimeLimit, "{}", failure.message);
    let ran = fixture.run_with("messages:unawaited", "[{}]", &SEED, &ample(), &mut host);
    assert_eq!(ran.result.unwrap(), "\"done\"");
    assert_eq!(
        ran.log_lines,
        ["[WARN] '1 operations were not awaited: the function ended without their answers'"]
    );
    drop(held);

    let failure = fixture.failure("messages:never");
    assert_eq!(failure.kind, FailureKind::NeverResolves);
    assert!(
        failure.message.starts_with("Returned promise will never resolve"),
        "{}",
        failure.message
    );
}

#[test]
fn timers_run_in_actions() {
    assert_eq!(fixture(ACTIONS).value("messages:timed", "[{}]"), "[[1,2],true]");
}

#[test]
fn timers_run_whatever_a_function_redefined() {
    let text = "export const odd = action(async () => {
      const [fired, lost] = [{} as any, () => {}];
      let order = '';
      const note = function (this: any, n: number) { order += n; fired[n] = this === undefined; };
      await new Promise<void>((resolve) => {
        for (const i of ['0', '1', '2'])
          Object.defineProperty(Array.prototype, i, { set: lost, get: lost, configurable: true });
        Array.prototype[Symbol.iterator] = lost as any;
        Promise.prototype.catch = Math.max = lost as any;
        (globalThis as any).Number = (globalThis as any).Promise = lost;
        setTimeout(note, 2, 2);
        setTimeout(note, 1, 1);
        setTimeout(resolve, 3);
      });
      return order + fired[1] + fired[2];
    });";
    assert_eq!(fixture(text).value("messages:odd", "[{}]"), "\"12truetrue\"");
}

/// If each timer were found by a search through all of them, this many would exceed the time limit.
#[test]
fn thousands_of_timers_run_in_their_order() {
    let text = "export const many = action(async () => {
      const [ids, fired, cleared] = [new Map<number, any>(), new Set<number>(), new Set<number>()];
      const delayOf = (n: number) => 1 + (n * 7919) % 23;
      const clear = (n: number) => {
        clearTimeout(ids.get(n));
        if (!fired.has(n)) cleared.add(n);
      };
      let [wrong, repeated] = [0, 0];
      // Those with the same delay come in the order in which they were set.
      const last = new Map<number, number>();
      await new Promise<void>((resolve) => {
        let left = 2;
        const done = () => { if (--left === 0) resolve(); };
        for (let n = 0; n < 20000; n++) {
          ids.set(n, setTimeout(() => {
            const isLater = (last.get(delayOf(n)) ?? -1) < n;
            if (!isLater || fired.has(n) || cleared.has(n)) wrong++;
            last.set(delayOf(n), n);
            fired.add(n);
            if (n % 6 === 3) clear(n + 2);
          }, delayOf(n)));
        }
        for (let n = 0; n < 20000; n += 2) clear(n);
        const interval = setInterval(() => {
          if (++repeated < 3) return;
          clearInterval(interval);
          done();
        }, 1);
        setTimeout(done, 60);
      });
      return [wrong, repeated, fired.size + cleared.size, fired.size > 2000];
    });";
    let limits = Limits { time: Duration::from_secs(10), ..ample() };
    let mut host = Dropping;
    let ran = fixture(text).run_with("messages:many", "[{}]", &SEED, &limits, &mut host);
    assert_eq!(ran.result.map_err(|failure| failure.message).as_deref(), Ok("[0,3,20000,true]"));
}

/// Calls the requested function in an engine of its own.
struct Nested<'a>(&'a Fixture, u32);

impl Syscalls for Nested<'_> {
    fn syscall(&mut self, _: &str, _: &str) -> Result<String, SyscallError> {
        Ok("null".to_owned())
    }

    fn async_syscall(&mut self, _: &str, _: &str, _: Later) -> Answer {
        if self.1 == 0 {
            return Answer::Now(Ok("\"bottom\"".to_owned()));
        }
        let mut inner = Nested(self.0, self.1 - 1);
        let ran = self.0.run_with("messages:outer", "[{}]", &SEED, &ample(), &mut inner);
        Answer::Now(
            ran.result
                .map_err(|failure| SyscallError { message: failure.message, data: failure.data }),
        )
    }
}

#[test]
fn calls_nest_on_one_thread() {
    let fixture = fixture(
        "export const outer = mutation(async (ctx) => [await ctx.runMutation('messages:outer', {})]);",
    );
    let ran = fixture.run_with("messages:outer", "[{}]", &SEED, &ample(), &mut Nested(&fixture, 4));
    assert_eq!(ran.result.unwrap(), "[[[[[\"bottom\"]]]]]");
}
