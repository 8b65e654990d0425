//! Man pages and completions, generated from the definition of the command line.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::{Failure, Outcome};
use crate::output::Output;

pub(crate) fn completions(shell: Shell, output: &Output) -> Result<Outcome, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "audit", &mut script);
    output.write(&[&script])?;
    Ok(Outcome::Well)
}

pub(crate) fn man(directory: Option<&Path>, output: &Output) -> Result<Outcome, Failure> {
    let command = Arguments::command();
    match directory {
        Some(directory) => {
            std::fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(command, directory))
                .map_err(|error| Failure::new("the man pages cannot be written").because(error))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).map_err(Failure::of_output)?;
            output.write(&[&page])?;
        }
    }
    Ok(Outcome::Well)
}
