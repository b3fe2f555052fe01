//! What several commands use: stores, progress bars and output.

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    app,
    config::DataConfig,
    error::{Error, Result},
    reconcile::report::Entries,
    tenants::{disk::path::Layout, store::Store},
};

/// The store of an existing data folder: a wrong name must not create a second, empty one.
pub fn open_store(data: &DataConfig) -> Result<Store> {
    let layout = Layout::at(data.data.clone());
    // Without a catalog, users' files still make it a data folder.
    if !layout.catalog().exists() && !layout.tenants().exists() {
        return Err(Error::config(format!(
            "{} is no data folder: point --data (CUBBY_DATA) at the one that the server uses",
            data.data.display()
        )));
    }
    open_or_create_store(data)
}

/// The same for a command that may be the first on a folder.
pub fn open_or_create_store(data: &DataConfig) -> Result<Store> {
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
    println!("{text}");
    Ok(())
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
