//! What a preview is known by, so that a run starts only as it was confirmed.

use sha2::{Digest, Sha256};

use super::report::{Action, Filter, Selection};
use crate::{catalog::model::State, tenants::id::TenantId};

/// The digest of a preview: of whom it is about, and of the newest run at that time. A run that is started makes all
/// previews before it void, and the same form sent again starts nothing.
///
/// `all` are those that match a filter; if they are too many to be listed, their number stands for them.
pub fn digest(
    action: Action,
    selection: &Selection,
    as_of: i64,
    count: u64,
    all: Option<&[TenantId]>,
    newest_run: Option<&str>,
) -> String {
    let mut hash = Sha256::new();
    // With its length: two texts are not another two.
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    add(action.as_str());
    add(newest_run.unwrap_or_default());
    match selection {
        Selection::Ids(ids) => {
            add("ids");
            let mut ids: Vec<&str> = ids.iter().map(TenantId::as_str).collect();
            ids.sort_unstable();
            ids.into_iter().for_each(add);
        }
        Selection::Matching(Filter { state, q }) => {
            add("filter");
            add(state.map_or("", State::as_str));
            add(q.as_deref().unwrap_or_default());
            add(&as_of.to_string());
            add(&count.to_string());
            all.unwrap_or_default().iter().map(TenantId::as_str).for_each(add);
        }
    }
    hex::encode(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(texts: &[&str]) -> Vec<TenantId> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn previews_of_others_and_before_another_run_have_other_digests() {
        let (state, q) = (Some(State::Active), Some("user".to_owned()));
        let matching = Selection::Matching(Filter { state, q });
        let some = ids(&["a", "bc"]);
        let of = |all: &[TenantId]| digest(Action::Delete, &matching, 7, 2, Some(all), None);
        let named = |texts: &[&str], run| digest(Action::Delete, &Selection::Ids(ids(texts)), 7, 2, None, run);
        let all = [
            of(&some),
            of(&ids(&["ab", "c"])),
            of(&ids(&["a"])),
            digest(Action::Suspend, &matching, 7, 2, Some(&some), None),
            digest(Action::Delete, &Selection::Matching(Filter::default()), 7, 2, Some(&some), None),
            digest(Action::Delete, &matching, 8, 2, Some(&some), None),
            digest(Action::Delete, &matching, 7, 3, None, None),
            digest(Action::Delete, &matching, 7, 2, None, None),
            digest(Action::Delete, &matching, 7, 2, Some(&some), Some("run_a")),
            named(&["a", "bc"], None),
            named(&["a", "bc"], Some("run_a")),
        ];
        for (at, one) in all.iter().enumerate() {
            assert_eq!(one.len(), 32);
            assert!(!all[..at].contains(one), "{at}");
        }
        assert_eq!(of(&some), all[0]);
        assert_eq!(named(&["bc", "a"], None), all[9], "in whichever order they are named");
    }
}
