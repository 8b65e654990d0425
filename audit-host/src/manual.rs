//! Man pages and shell completions of a host, for its packages.

use std::io;
use std::path::Path;

use clap_complete::Shell;

/// Writes the man pages of a command and its completions for bash, fish and zsh to a directory,
/// which is created if it does not exist.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write_manual(mut command: clap::Command, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, &name, directory)?;
    }
    clap_mangen::generate_to(command, directory)
}
