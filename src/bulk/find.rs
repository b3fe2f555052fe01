//! Whom a filter is about: walks them, counts them, and lists them if they are few.

use super::report::{Action, Filter};
use crate::{
    catalog::{
        model::State,
        queries::{
            bulk::{self, Page},
            search::{Cursor, Listing},
        },
    },
    error::Result,
    tenants::{id::TenantId, store::Store},
};

/// Tenants listed together.
const PAGE: u32 = 500;

/// Tenants that a preview names.
pub const NAMED: usize = 10;

/// Up to so many are listed before a run, so that it changes nobody else. More are only counted, and walked by the run: a list
/// of all would grow with the tenants.
const LISTED: u64 = 10_000;

/// Those that match a filter.
#[derive(Debug, Default)]
pub struct Found {
    /// How many the action can change.
    pub count: u64,
    /// How many it cannot.
    pub left_out: u64,
    /// The first of those that it can change.
    pub first: Vec<TenantId>,
    /// All of them, in the order of ids; none if they are too many.
    pub all: Option<Vec<TenantId>>,
}

impl Found {
    fn add(&mut self, page: Page) {
        self.count += page.ids.len() as u64;
        self.left_out += page.left_out;
        let room = NAMED.saturating_sub(self.first.len());
        self.first.extend(page.ids.iter().take(room).cloned());
        if self.count > LISTED {
            self.all = None;
        }
        if let Some(all) = &mut self.all {
            all.extend(page.ids);
        }
    }
}

/// Finds those that match, without those made after the tenant of number `as_of`.
pub async fn find(store: &Store, action: Action, filter: &Filter, as_of: i64) -> Result<Found> {
    // The catalog has the numbers by state; those that a search finds are counted one by one.
    let counted = match filter.q {
        None => {
            let (changed, state) = (action.states(), filter.state);
            Some(store.catalog().query(move |conn| bulk::count(conn, changed, state, as_of)).await?)
        }
        Some(_) => None,
    };
    let mut found = Found { all: Some(Vec::new()), ..Found::default() };
    if let Some((0, left_out)) = counted {
        return Ok(Found { left_out, ..found });
    }
    let mut walk = Walk::new(store, action, filter, as_of);
    while let Some(page) = walk.page().await? {
        found.add(page);
        if let Some((count, left_out)) = counted
            && count > LISTED
            && found.first.len() == NAMED
        {
            return Ok(Found { count, left_out, first: found.first, all: None });
        }
    }
    // Whoever changed meanwhile may have been found twice.
    if let Some(all) = &mut found.all {
        all.sort_unstable();
        all.dedup();
        found.count = all.len() as u64;
    }
    if let Some((_, left_out)) = counted {
        found.left_out = left_out;
    }
    Ok(found)
}

/// A walk through those that match, page by page.
pub struct Walk<'w> {
    store: &'w Store,
    action: Action,
    filter: &'w Filter,
    as_of: i64,
    /// The states that are still to be walked; none for any.
    left: Vec<Option<State>>,
    cursor: Option<Cursor>,
}

impl<'w> Walk<'w> {
    /// Begins a walk.
    pub fn new(store: &'w Store, action: Action, filter: &'w Filter, as_of: i64) -> Self {
        let left = match filter {
            // By the index of those that are not active: most are. Each that is resumed leaves it, so nobody is met again.
            Filter { state: None, q: None } if action == Action::Resume => {
                action.states().iter().copied().map(Some).collect()
            }
            Filter { state, .. } => vec![*state],
        };
        Self { store, action, filter, as_of, left, cursor: None }
    }

    /// The next page; none behind the last one.
    pub async fn page(&mut self) -> Result<Option<Page>> {
        let Some(state) = self.left.last().copied() else { return Ok(None) };
        let text = self.filter.q.clone();
        let listing = Listing { text, state, cursor: self.cursor.take(), limit: PAGE, ..Listing::default() };
        let (changed, as_of) = (self.action.states(), self.as_of);
        let page = self.store.catalog().query(move |conn| bulk::page(conn, &listing, changed, as_of)).await?;
        self.cursor.clone_from(&page.next);
        if self.cursor.is_none() {
            self.left.pop();
        }
        Ok(Some(page))
    }
}
