//! Promises that are not awaited.

use super::*;

#[test]
fn unhandled_rejections_fail_the_call() {
    let fixture = fixture(
        "const fail = async (message: string) => { throw new Error(message); };
         const later = async (turns: number) => { for (let i = 0; i < turns; i++) await null; };
         const tests: Record<string, (ctx: any) => any> = {
           rejected: () => { Promise.reject(new Error('x')); },
           thrown: () => { fail('x'); },
           inThen: () => { Promise.resolve().then(() => { throw new Error('x'); }); },
           later: () => { (async () => { await later(20); throw new Error('x'); })(); },
           chained: () => { fail('x').finally(() => {}); },
           fulfilledOnly: () => { fail('x').then(() => 1); },
           first: () => { fail('x'); fail('y'); },
           operation: (ctx) => { ctx.db.insert('t', {}); },
           all: () => { Promise.all([fail('x')]); },
           executor: () => { new Promise(() => { throw new Error('x'); }); },
           undefined: () => { Promise.reject(); },
           nul: () => { Promise.reject(null); },
           spoilt: () => { (Promise.prototype as any).then = () => {}; fail('x'); },
         };
         export const names = query(async () => Object.keys(tests));
         export const run = mutation({ args: { name: v.string() }, handler: async (ctx, { name }) => { tests[name](ctx); return 'secret'; } });
         const handled: Record<string, () => any> = {
           caught: () => fail('x').catch(() => {}),
           unawaited: () => { fail('x').catch(() => {}); },
           late: async () => { const failed = fail('x'); await later(5); try { await failed; } catch {} },
           afterwards: () => { const failed = fail('x'); later(5).then(() => failed.catch(() => {})); },
           both: () => Promise.all([fail('x'), fail('y')]).catch(() => {}),
           race: () => Promise.race([Promise.resolve(1), fail('x')]),
           settled: () => Promise.allSettled([fail('x')]),
           adopted: async () => { try { await Promise.resolve(fail('x')); } catch {} },
           returned: async () => { try { return await fail('x'); } catch {} },
           generator: async () => { try { for await (const _ of (async function* () { throw 1; })()); } catch {} },
         };
         export const handles = query({ args: { name: v.string() }, handler: async (_ctx, { name }) => { await handled[name](); return 1; } });
         export const handledNames = query(async () => Object.keys(handled));",
    );
    let names = |of: &str| -> Vec<String> {
        serde_json::from_str(&fixture.value(&format!("messages:{of}"), "[{}]")).unwrap()
    };
    for name in names("names") {
        let mut host =
            Host { asked: Vec::new(), answer: |_: &str, _: &str| Err(SyscallError::new("x")) };
        let args = format!("[{{\"name\":\"{name}\"}}]");
        let ran = fixture.run_with("messages:run", &args, &SEED, &ample(), &mut host);
        let failure = ran.result.unwrap_err();
        let expected = match name.as_str() {
            "undefined" => "Uncaught (in promise) undefined",
            "nul" => "Uncaught (in promise) null",
            _ => "Uncaught (in promise) Error: x",
        };
        assert!(failure.message.starts_with(expected), "{name}: {}", failure.message);
    }
    for name in names("handledNames") {
        assert_eq!(fixture.value("messages:handles", &format!("[{{\"name\":\"{name}\"}}]")), "1");
    }
}

#[test]
fn unawaited_calls_run_until_their_first_wait() {
    let fixture = fixture(
        "const later = async () => { for (let i = 0; i < 20; i++) await null; await log.audit({ late: 1 }); };
         const ends: Record<string, () => any> = {
           returns: () => { later(); return 1; },
           throws: () => { later(); throw new Error('x'); },
           rejects: async () => { later(); return await Promise.reject(new Error('x')); },
           races: () => Promise.race([later(), Promise.reject(new Error('x'))]),
           all: () => Promise.all([later(), Promise.reject(new Error('x'))]),
           finally: () => { try { throw new Error('x'); } finally { later(); } },
           overflows: () => { later(); const f = (): any => f() + 1; return f(); },
           waits: () => { later(); return new Promise(() => {}); },
           result: () => ({ get x() { later(); return 1; } }),
           noValue: () => { later(); return () => {}; },
           thrown: () => { throw { get message() { log.audit({ late: 1 }); return 'x'; } }; },
         };
         export const names = query(async () => Object.keys(ends));
         export const logs = query({ args: { name: v.string() }, handler: async (_ctx, { name }) => await ends[name]() });
         export const endless = query(async () => { const again = (): any => Promise.resolve().then(again); again(); return 1; });",
    );
    let names = fixture.value("messages:names", "[{}]");
    for name in serde_json::from_str::<Vec<String>>(&names).unwrap() {
        let (asked, result) = fixture.asked("messages:logs", &format!("[{{\"name\":\"{name}\"}}]"));
        assert_eq!(result.is_ok(), ["returns", "result"].contains(&name.as_str()), "{name}");
        assert!(!asked.is_empty(), "{name}");
        for asked in asked {
            let expected = ("1.0/auditLog".to_owned(), "{\"body\":{\"late\":1}}".to_owned());
            assert_eq!(asked, expected, "{name}");
        }
    }
    let limits = Limits { time: Duration::from_millis(20), ..Limits::default() };
    let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
    let ran = fixture.run_with("messages:endless", "[{}]", &SEED, &limits, &mut host);
    assert_eq!(ran.result.unwrap_err().kind, FailureKind::TimeLimit);
}
