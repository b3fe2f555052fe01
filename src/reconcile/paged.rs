//! Reading a sorted list page by page.

use crate::error::Result;

/// All items, in order. `fetch` returns the page that follows an item, or the first page.
pub fn paged<T: Clone>(mut fetch: impl FnMut(Option<&T>) -> Result<Vec<T>>) -> impl Iterator<Item = Result<T>> {
    let mut page = Vec::new().into_iter();
    let (mut last, mut done): (Option<T>, bool) = (None, false);
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        if let Some(item) = page.next() {
            return Some(Ok(item));
        }
        match fetch(last.as_ref()) {
            Ok(items) => {
                last = items.last().cloned().or(last.take());
                page = items.into_iter();
                let item = page.next();
                done = item.is_none();
                item.map(Ok)
            }
            Err(error) => {
                done = true;
                Some(Err(error))
            }
        }
    })
}
