//! What several commands use: stores, progress bars and output.

use std::io::{BufWriter, ErrorKind, Write};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    app,
    config::DataConfig,
    error::{Error, ErrorKind as Kind, Result},
    reconcile::report::Entries,
    tenants::{disk::path::Layout, id::TenantId, store::Store},
};

/// Whether a command may create the data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// It creates something, so it may be the first command on a folder.
    MayBeNew,
    /// It looks for something that a new folder does not have: a wrong name must not create a second, empty one.
    MustExist,
}

/// Opens the store of a data folder.
pub fn open_store(data: &DataConfig, folder: Folder) -> Result<Store> {
    let layout = Layout::at(data.data.clone());
    // Without a catalog, users' files still make it a data folder.
    if folder == Folder::MustExist && !layout.catalog().exists() && !layout.tenants().exists() {
        return Err(Error::config(format!(
            "{} is no data folder: point --data (CUBBY_DATA) at the one that the server uses",
            data.data.display()
        )));
    }
    Store::open(app::store_options(data)?)
}

/// Does something with a store and closes it, also after an error.
pub async fn with_store<T>(store: Store, command: impl AsyncFnOnce(&Store) -> Result<T>) -> Result<T> {
    let result = command(&store).await;
    store.close(tokio::time::Instant::now() + std::time::Duration::from_secs(10)).await;
    result
}

/// Runs work that blocks on a thread of its own; `what` names it in the error.
pub async fn blocking<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::internal(format!("{what} did not finish")).with_source(e))
}

/// A progress bar on a terminal, and nothing elsewhere.
pub fn bar(template: &str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template(template);
    Ok(ProgressBar::new(0).with_style(style.map_err(|e| Error::internal("progress bar").with_source(e))?))
}

/// Prints a result for a script.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::internal("JSON").with_source(e))?;
    print_rows(&[text], false, None, None, String::clone).map(drop)
}

/// Prints rows as one JSON object a line, or as a table with a line before and after. `false` if the reader has closed
/// the pipe (`| head`), which is no error.
pub fn print_rows<T: serde::Serialize>(
    rows: &[T],
    json: bool,
    before: Option<String>,
    after: Option<String>,
    line: impl Fn(&T) -> String,
) -> Result<bool> {
    let mut out = BufWriter::new(std::io::stdout());
    let written = match json {
        true => rows.iter().try_for_each(|row| writeln!(out, "{}", serde_json::to_string(row)?)),
        false => {
            before.into_iter().chain(rows.iter().map(line)).chain(after).try_for_each(|text| writeln!(out, "{text}"))
        }
    };
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("standard output", error)),
    }
}

/// A number and what is counted: `1 user`, `2 users`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The error of a user who is not there. In quotes an id is no word of the sentence.
pub fn unknown(id: &TenantId) -> Error {
    Error::new(Kind::UnknownTenant, format!("\"{id}\" is unknown; `cubby tenants list` shows who is there"))
}

/// Prints how many there are of something and what to do about it, and names some of them. Counts are
/// aligned to `width`.
pub fn print_entries(entries: &Entries, what: &str, hint: &str, width: usize, shown: usize) {
    if entries.count == 0 {
        return;
    }
    println!("{:>width$} {what}{}{hint}", entries.count, if hint.is_empty() { "" } else { ": " });
    let named = entries.named.iter().take(shown);
    let hidden = entries.count > named.len() as u64;
    named.for_each(|name| println!("{:indent$}{name}", "", indent = width + 4));
    if hidden {
        println!("{:indent$}…", "", indent = width + 4);
    }
}
