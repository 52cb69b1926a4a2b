//! `lyceum completions SHELL`

use crate::cli::Cli;
use crate::failure::Failure;
use clap::{Args, CommandFactory};

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell to complete in
    shell: clap_complete::Shell,
}

impl Completions {
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "lyceum", &mut script);
        crate::output::write_stdout(&String::from_utf8_lossy(&script));
        Ok(())
    }
}
