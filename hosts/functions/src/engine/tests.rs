use std::collections::BTreeMap;
use std::time::Duration;

use super::{Answer, Call, FailureKind, Later, Limits, Ran, Seed, SyscallError, Syscalls, run};
use crate::program::{Env, Program};
use crate::value::ComponentPath;

/// Notes every operation and answers it with what `answer` says.
struct Host<F> {
    asked: Vec<(String, String)>,
    answer: F,
}

impl<F: FnMut(&str, &str) -> Result<String, SyscallError>> Syscalls for Host<F> {
    fn syscall(&mut self, op: &str, args: &str) -> Result<String, SyscallError> {
        self.asked.push((op.to_owned(), args.to_owned()));
        (self.answer)(op, args)
    }

    fn async_syscall(&mut self, op: &str, args: &str, _: Later) -> Answer {
        Answer::Now(self.syscall(op, args))
    }
}

/// The functions of `messages.ts`, and other modules.
struct Fixture {
    _directory: tempfile::TempDir,
    program: Program,
}

const HEADER: &str = "import { query, mutation, action } from './_generated/server'; \
                      import { v, ConvexError } from 'convex/values'; import { log } from 'convex/server';";

fn fixture(text: &str) -> Fixture {
    fixture_of(&[("messages.ts", &format!("{HEADER}\n{text}"))])
}

fn fixture_of(files: &[(&str, &str)]) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join("convex").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    // The same tests with the npm package: its directory, if there is one.
    if let Some(package) = std::env::var_os("CONVEX_NPM_PACKAGE") {
        let modules = directory.path().join("node_modules");
        std::fs::create_dir(&modules).unwrap();
        std::os::unix::fs::symlink(package, modules.join("convex")).unwrap();
    }
    let variables = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
    let env = Env::new(variables, ["convexActor".to_owned()]);
    let program = match Program::load(&directory.path().join("convex"), &env) {
        Ok(program) => program,
        Err(error) => panic!("{error}"),
    };
    Fixture { _directory: directory, program }
}

/// Enough for what is not about limits, on a machine that does other things too.
fn ample() -> Limits {
    Limits { time: Duration::from_secs(30), ..Limits::default() }
}

const SEED: Seed = Seed { random: 1, now_ms: 1_700_000_000_000.0 };

impl Fixture {
    fn run_with(&self, name: &str, args: &str, seed: &Seed, limits: &Limits, host: &mut dyn Syscalls) -> Ran {
        let root = ComponentPath::root();
        let function = self.program.function(&root, name).unwrap_or_else(|| panic!("no {name}"));
        let call = Call { program: &self.program, component: &root, function, args, request_id: "r1" };
        run(&call, seed, limits, host)
    }

    /// Every operation is answered with null.
    fn ran(&self, name: &str, args: &str) -> Ran {
        let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
        self.run_with(name, args, &SEED, &ample(), &mut host)
    }

    fn value(&self, name: &str, args: &str) -> String {
        match self.ran(name, args).result {
            Ok(value) => value,
            Err(failure) => panic!("{}", failure.message),
        }
    }

    fn failure(&self, name: &str) -> String {
        self.ran(name, "[{}]").result.unwrap_err().message
    }
}

#[test]
fn a_query_in_typescript_runs() {
    let fixture = fixture(
        "export const list = query({ handler: async (ctx: any, args: { n: number }): Promise<number> => args.n + Date.now() });
export const fails = query({ handler: async () => {
  throw new Error('boom');
} });",
    );
    assert_eq!(fixture.value("messages:list", "[{\"n\":1}]"), "1700000000001");
    assert_eq!(
        fixture.failure("messages.js:fails"),
        "Uncaught Error: boom\n    at handler (../convex/messages.ts:4:13)"
    );
}

#[test]
fn an_endless_loop_ends_with_its_function() {
    let fixture = fixture(
        "export const plain = query(async () => { for (;;) {} });
         export const caught = query(async () => { for (;;) { try { for (;;) {} } catch {} finally { for (;;) {} } } });
         export const later = query(async () => { await Promise.resolve().then(() => { for (;;) {} }).catch(() => { for (;;) {} }); });
         export const getter = query(async () => ({ get a() { for (;;) {} } }));
         export const thrown = query(async () => { throw { get message() { for (;;) {} }, get stack() { for (;;) {} } }; });
         export const fine = query(async () => 1);",
    );
    let limits = Limits { time: Duration::from_millis(50), ..Limits::default() };
    let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
    for name in ["plain", "caught", "later", "getter", "thrown"] {
        let ran = fixture.run_with(&format!("messages:{name}"), "[{}]", &SEED, &limits, &mut host);
        let failure = ran.result.unwrap_err();
        assert_eq!(failure.kind, FailureKind::TimeLimit, "{name}: {}", failure.message);
        assert_eq!(failure.message, "Function execution timed out (maximum duration: 50ms of JavaScript)");
        assert_eq!(fixture.value("messages:fine", "[{}]"), "1");
    }
}
