//! Runs programs on machines that lack what they need, such as permissions. Linux only.

use std::fs::{Permissions, metadata, set_permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

/// A command that runs the shell code `before`, then the program. The environment has only `PATH`,
/// and the program lacks root's right to read and write everything. The caller may set the
/// environment variable `WITHIN` to a command that runs the program, such as `timeout 60`.
///
/// # Panics
///
/// Without `/proc`.
pub fn in_shell(program: &str, before: &str) -> Command {
    const CAPABILITIES: &str = "-dac_override,-dac_read_search";
    let is_root = metadata("/proc/self").expect("Linux has it").uid() == 0;
    let drop = format!("setpriv --bounding-set={CAPABILITIES} --inh-caps={CAPABILITIES}");
    let mut shell = Command::new("sh");
    shell.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    shell.env("DROP", if is_root { &drop } else { "" });
    shell.args(["-c", &format!("{before} exec $WITHIN $DROP \"$0\" \"$@\""), program]);
    shell
}

/// Machines on which a host that keeps its files in `audit-data` cannot start: the shell code that
/// sets up the machine, and a part of the message that the operator must get.
pub const BAD_MACHINES: [(&str, &str); 9] = [
    ("ulimit -f 0;", "raise the limit of the size of files: ulimit -f, LimitFSIZE"),
    ("ulimit -n 8;", "raise the limit of open files: ulimit -n, LimitNOFILE"),
    ("mkdir audit-data; chmod 555 audit-data;", "Permission denied"),
    ("mkdir gone; cd gone; rmdir ../gone;", "start where a directory exists"),
    (
        "name=$(printf 'caf\\351'); mkdir $name; cd $name;",
        "/caf\\xE9/audit-data/bucket\" is not UTF-8",
    ),
    ("touch audit-data;", "audit-data exists and is no directory"),
    ("ln -s nowhere audit-data;", "audit-data exists and is a link to no directory"),
    ("export DATA_DIR=/proc/nothing;", "/proc/nothing"),
    ("export DATABASE_URL=$(printf '\\351') AUDIT_EVIDENCE=$(printf '\\351');", "AUDIT_EVIDENCE"),
];

/// Runs a program in an empty directory, on the machine that the shell code `before` sets up.
/// Returns its standard error.
///
/// # Panics
///
/// If the program panics, succeeds, or writes to standard output.
pub fn fails_on(program: &str, before: &str, arguments: &[&str], directory: &Path) -> String {
    let mut shell = in_shell(program, before);
    let ran = shell.args(arguments).current_dir(directory).output().expect("there is a shell");
    let Output { status, stdout, stderr } = ran;
    // The caller must be able to remove the directory.
    for entry in std::fs::read_dir(directory).expect("it exists").flatten() {
        drop(set_permissions(entry.path(), Permissions::from_mode(0o700)));
    }
    let said = String::from_utf8_lossy(&stderr).into_owned();
    let code = status.code();
    assert!(code.is_some_and(|code| (1..=3).contains(&code)), "{before} {code:?} {said}");
    assert!(!said.contains("panicked"), "{before} {said}");
    assert!(stdout.is_empty(), "{before} {}", String::from_utf8_lossy(&stdout));
    said
}
