//! `cubby man`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use clap_mangen::Man;

use crate::error::{Error, Result};

pub const EXAMPLES: &str = "Examples:
  cubby man --to /usr/local/share/man/man1
  cubby man --to ./man && man ./man/cubby-tenants-list.1";

#[derive(Debug, Args)]
pub struct Command {
    /// The folder to write the pages to, which is made if it is not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

pub fn run(mut cubby: clap::Command, command: &Command) -> Result<ExitCode> {
    // Gives the commands their whole names, and each the settings that all have.
    cubby.build();
    fs::create_dir_all(&command.to).map_err(|e| Error::io(command.to.display(), e))?;
    let mut pages = 0;
    write(&cubby, "cubby", &command.to, &mut pages)?;
    println!("{pages} pages were written to {}", command.to.display());
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of a command, and those of the commands below it.
fn write(command: &clap::Command, name: &str, folder: &Path, pages: &mut u32) -> Result<()> {
    let mut text = Vec::new();
    let page = Man::new(command.clone()).title(name);
    let path = folder.join(format!("{name}.1"));
    page.render(&mut text).map_err(|e| Error::io(path.display(), e))?;
    // A page that is there is whole, whenever this ends.
    let new = folder.join(format!(".{name}.1.new"));
    fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(|e| Error::io(path.display(), e))?;
    *pages += 1;
    let below = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    below.into_iter().try_for_each(|below| write(below, &format!("{name}-{}", below.get_name()), folder, pages))
}
