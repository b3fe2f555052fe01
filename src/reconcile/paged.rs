//! Reading the catalog and the users' files part by part.

use std::path::PathBuf;

use crate::{
    catalog::{model::Row, queries},
    error::Result,
    tenants::{
        disk::path::{Layout, databases},
        store::Store,
    },
};

/// All items, in order. `fetch` returns the page that follows an item, or the first page.
pub fn paged<T: Clone>(mut fetch: impl FnMut(Option<&T>) -> Result<Vec<T>>) -> impl Iterator<Item = Result<T>> {
    let (mut last, mut failed): (Option<T>, bool) = (None, false);
    let pages = std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let page = fetch(last.as_ref());
        failed = page.is_err();
        match page {
            Ok(items) => {
                last = Some(items.last()?.clone());
                Some(items.into_iter().map(Ok).collect())
            }
            Err(error) => Some(vec![Err(error)]),
        }
    });
    pages.flatten()
}

/// All rows of the catalog, by id.
pub fn rows(store: &Store) -> impl Iterator<Item = Result<Row>> + use<> {
    let store = store.clone();
    paged(move |after: Option<&Row>| {
        let after = after.map(|row| row.id.as_str());
        store.catalog().read(|conn| queries::list(conn, None, after, 500))
    })
}

/// All users' files, a folder's together, and whether that is the trash. The trash is listed first, so that what is
/// moved there meanwhile is not met twice, and comes last.
pub fn files(layout: &Layout) -> Result<impl Iterator<Item = Result<(Vec<PathBuf>, bool)>>> {
    let trashed = databases(&layout.trash())?;
    let live = layout.shards().map(|shard| Ok((databases(&shard)?, false)));
    Ok(live.chain([Ok((trashed, true))]))
}
