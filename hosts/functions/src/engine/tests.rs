use std::path::Path;

use super::{Answer, Call, Later, Limits, Ran, Seed, SyscallError, Syscalls, run};
use crate::program::{Env, Program};
use crate::value::ComponentPath;

/// Answers every operation with what it was asked.
struct Echo;

impl Syscalls for Echo {
    fn syscall(&mut self, op: &str, args: &str) -> Result<String, SyscallError> {
        Ok(format!("[\"{op}\",{args}]"))
    }

    fn async_syscall(&mut self, op: &str, args: &str, _: Later) -> Answer {
        Answer::Now(self.syscall(op, args))
    }
}

fn program(files: &[(&str, &str)]) -> (tempfile::TempDir, Program) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join("convex").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let program = Program::load(&directory.path().join("convex"), &Env::default()).unwrap();
    (directory, program)
}

fn called(program: &Program, name: &str, args: &str) -> Ran {
    let root = ComponentPath::root();
    let function = program.function(&root, name).unwrap();
    let call = Call { program, component: &root, function, args, request_id: "" };
    run(&call, &Seed { random: 1, now_ms: 1_000.0 }, &Limits::default(), &mut Echo)
}

#[test]
fn a_query_in_typescript_runs() {
    let (_directory, program) = program(&[(
        "messages.ts",
        "import { query } from './_generated/server';\n\
         export const list = query({ handler: async (ctx: any, args: { n: number }): Promise<number> => args.n + Date.now() });\n\
         export const fails = query({ handler: async () => {\n  throw new Error('boom');\n} });\n",
    )]);
    let ran = called(&program, "messages:list", "[{\"n\":1}]");
    assert_eq!(ran.result, Ok("1001".to_owned()), "{:?}", ran.log_lines);
    let failure = called(&program, "messages.js:fails", "[{}]").result.unwrap_err();
    assert_eq!(failure.message, "Uncaught Error: boom\n    at handler (../convex/messages.ts:4:13)");
    assert!(Program::load(Path::new("/nonexistent"), &Env::default()).is_err());
}
