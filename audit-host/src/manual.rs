//! Man pages and shell completions of a host, for its packages.

use std::io;
use std::path::Path;

use clap_complete::Shell;

/// Ends the process after `--write-manual DIRECTORY`: writes the man pages of a command, and its
/// completions for bash, fish and zsh, to the directory, which is created if it does not exist.
pub fn write_manual_if_asked(command: clap::Command) {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == "--write-manual")
        && let Some(directory) = arguments.next()
    {
        let written = write_manual(command, directory.as_ref());
        std::process::exit(written.map_or(1, |()| 0));
    }
}

fn write_manual(mut command: clap::Command, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, &name, directory)?;
    }
    clap_mangen::generate_to(command, directory)
}
