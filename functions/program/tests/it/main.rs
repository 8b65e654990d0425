//! Calls of functions through the public interface. With `CONVEX_NPM_PACKAGE` set to a directory of
//! the npm package, all tests use that package.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever a test does not expect makes it fail")]

mod audited;
mod called;
mod every_function;
mod globals;
mod hostile;
mod kept;
mod modules;
mod orders;
mod redefined;
mod shapes;
mod unhandled;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use functions_engine::{
    Answer, Failure, FailureKind, Keeping, KeptEngines, Later, Limits, Ran, Seed, SyscallError,
    Syscalls, run,
};
use functions_program::{Env, Program};
use functions_value::ComponentPath;

/// Records every operation and answers it with the result of `answer`.
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

    fn refuse_audit(&mut self, reason: &str) -> SyscallError {
        self.asked.push(("refused".to_owned(), reason.to_owned()));
        SyscallError::new(reason)
    }
}

/// The functions of `messages.ts`, and other modules.
struct Fixture {
    _directory: tempfile::TempDir,
    program: Program,
}

thread_local! {
    /// All tests run in engines that are kept between calls, as on a host's threads.
    static KEEPING: Keeping = KeptEngines::new(256 << 20).on_this_thread();
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
    // The directory of the npm package, if the tests use it.
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
    KEEPING.with(|_| ());
    Fixture { _directory: directory, program }
}

/// Generous limits, for tests of other things on a busy machine.
fn ample() -> Limits {
    Limits { time: Duration::from_secs(30), ..Limits::default() }
}

static SEED: LazyLock<Seed> =
    LazyLock::new(|| Seed { random: 1.into(), now_ms: 1_700_000_000_000.0 });

impl Fixture {
    fn run_with(
        &self,
        name: &str,
        args: &str,
        seed: &Seed,
        limits: &Limits,
        host: &mut dyn Syscalls,
    ) -> Ran {
        KEEPING.with(|_| ());
        let root = ComponentPath::root();
        let function = self.program.function(&root, name).unwrap_or_else(|| panic!("no {name}"));
        let call = self.program.call(&root, function, args, "r1");
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

    fn failure(&self, name: &str) -> Failure {
        match self.ran(name, "[{}]").result {
            Ok(value) => panic!("{name} gave {value}"),
            Err(failure) => failure,
        }
    }

    /// The operations that the host received, and the result.
    fn asked(&self, name: &str, args: &str) -> (Vec<(String, String)>, Result<String, Failure>) {
        let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
        let ran = self.run_with(name, args, &SEED, &ample(), &mut host);
        (host.asked, ran.result)
    }
}

/// Whether the tests run with the npm package.
fn with_npm_package() -> bool {
    std::env::var_os("CONVEX_NPM_PACKAGE").is_some()
}
