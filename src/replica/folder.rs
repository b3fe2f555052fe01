//! A data folder that is restored from a bucket, and goes on being replicated there when a server is started on it.

use std::{path::Path, sync::Arc};

use super::{
    belongs::{Belongs, write_belongs},
    entry::Head,
    format::{CATALOG, FORMAT_PATH, Format},
    remote::Remote,
    restore::{
        folder::{Progress, Summary, restore_folder},
        source::Source,
    },
    seal::Seal,
    state::State,
};
use crate::{
    clock::Millis,
    error::{Error, Result},
    tenants::disk::path::Layout,
};

/// Heads that are written together.
const PAGE: u64 = 1000;

/// Makes a data folder of what a bucket has, or had at a moment. `progress` is told how far it is.
///
/// What the folder remembers of the bucket are chains that have ended: the server that had them may still write to them, so
/// each user gets a new base, in an epoch after the ones that are there.
///
/// # Errors
/// Those of [`restore_folder`].
pub async fn restore(
    remote: Remote,
    seal: Seal,
    data: &Path,
    at: Option<Millis>,
    progress: impl FnMut(Progress) + Send,
) -> Result<Summary> {
    let text = remote.get(FORMAT_PATH).await?.ok_or_else(|| {
        let why = format!("there is no replica at {}: look whether the URL has the right prefix", remote.url());
        Error::config(why)
    })?;
    let belongs = Belongs::begun(Format::parse(&text)?.installation, remote.url(), None, "");
    // As a server that replicates opens it.
    let identity = format!("{} {}", belongs.installation, belongs.url);
    let layout = Layout::at(data.to_owned());
    let source = Source::open(remote, Arc::new(seal)).await?;
    let (mut state, mut count) = (None::<State>, 0_u64);
    let note = |tenant: &str, head: &Head| {
        let state = match &mut state {
            Some(state) => state,
            none => {
                write_belongs(&layout, &belongs)?;
                none.insert(State::open(&layout.replica_state(), &identity)?)
            }
        };
        state.end(tenant, head.clone());
        count += 1;
        if tenant == CATALOG || count.is_multiple_of(PAGE) {
            state.persist()?;
        }
        Ok(())
    };
    restore_folder(&source, data, at, progress, note).await
}
