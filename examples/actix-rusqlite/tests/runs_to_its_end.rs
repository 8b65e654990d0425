//! The example runs to its end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn each_answer_is_logged() {
    let output = Command::new(env!("CARGO_BIN_EXE_example-actix-rusqlite")).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(shown.matches("\n  {\"action\":\"notes.").count(), 4, "{shown}");
}
