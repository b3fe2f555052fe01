//! `cubby completions`.

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use clap_complete::{Shell as Generator, generate};

use crate::error::{Error, Result};

pub const EXAMPLES: &str = "Examples:
  cubby completions bash > /etc/bash_completion.d/cubby
  cubby completions zsh > \"${fpath[1]}/_cubby\"
  cubby completions fish > ~/.config/fish/completions/cubby.fish";

#[derive(Debug, Args)]
pub struct Command {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    /// GNU's shell
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}

pub fn run(cubby: &mut clap::Command, command: &Command) -> Result<ExitCode> {
    let shell = match command.shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    // At once, since the generator panics where its writer fails.
    let mut text = Vec::new();
    generate(shell, cubby, "cubby", &mut text);
    let mut out = std::io::stdout().lock();
    match out.write_all(&text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::io("standard output", error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}
