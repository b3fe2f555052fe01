//! Migrations whose version is their place in an order: one that comes between others gives those behind it another
//! version, so a history is compared by names.

use refinery::Migration;

use super::history::{Mismatch, Step};
use crate::error::{Error, Result};

/// refinery's migration of a name that is [written](super::Form) for the history.
pub(super) fn migration(version: i32, name: &str, sql: &str) -> Result<Migration> {
    Migration::unapplied(&format!("V{version}__{name}"), sql)
        .map_err(|e| Error::config(format!("migration {name:?}: {e}")).with_source(e))
}

/// What the history has of a migration.
pub(super) fn step(migration: &Migration, file: Option<String>) -> Step {
    Step { version: migration.version(), name: migration.name().to_owned(), checksum: migration.checksum(), file }
}

/// Whether every file that had some of `applied`, which is not empty, can be migrated by all of `migrations`, whose
/// `steps` these are.
pub(super) fn continues(migrations: &[Migration], steps: &[Step], applied: &[Step]) -> Result<(), Mismatch> {
    let place = |ran: &Step| steps.iter().position(|step| step.name == ran.name);
    let (Some(first), Some(newest)) = (applied.first(), applied.last()) else { return Ok(()) };
    if applied.iter().all(|ran| place(ran).is_none()) {
        return Err(Mismatch::Other(first.clone()));
    }
    for ran in applied {
        let Some(at) = place(ran) else {
            let is_behind = usize::try_from(ran.version).is_ok_and(|version| version > steps.len());
            return Err(if is_behind { Mismatch::Older(newest.clone()) } else { Mismatch::Missing(ran.clone()) });
        };
        // The checksum covers the version, too.
        let as_it_ran = migrations[at].sql().and_then(|sql| migration(ran.version, &ran.name, sql).ok());
        if as_it_ran.is_none_or(|migration| migration.checksum() != ran.checksum) {
            return Err(Mismatch::Edited(steps[at].clone()));
        }
    }
    let last = applied.iter().filter_map(place).max().unwrap_or(0);
    let has_run = |step: &Step| applied.iter().any(|ran| ran.name == step.name);
    if let Some(late) = steps[..last].iter().find(|step| !has_run(step)) {
        return Err(Mismatch::Late { late: late.clone(), newest: steps[last].clone() });
    }
    match applied.iter().find(|ran| place(ran).is_some_and(|at| steps[at].version != ran.version)) {
        Some(moved) => Err(Mismatch::Moved(moved.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn continues_from(applied: &[(&str, &str)], now: &[(&str, &str)]) -> Result<(), Mismatch> {
        let all = |files: &[(&str, &str)]| -> Vec<Migration> {
            files.iter().zip(1..).map(|((name, sql), version)| migration(version, name, sql).unwrap()).collect()
        };
        let steps = |all: &[Migration]| -> Vec<Step> { all.iter().map(|one| step(one, None)).collect() };
        let now = all(now);
        continues(&now, &steps(&now), &steps(&all(applied)))
    }

    #[test]
    fn a_history_is_compared_by_names() {
        let [a, b, c, d] = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")];
        let name = |step: &Step| step.name.clone();
        assert_eq!(continues_from(&[a, b], &[a, b]), Ok(()));
        assert_eq!(continues_from(&[a, b], &[a, b, c]), Ok(()));
        // Between two that ran, and before the first.
        for now in [[a, c, b], [c, a, b]] {
            let late = continues_from(&[a, b], &now).unwrap_err();
            assert!(
                matches!(&late, Mismatch::Late { late, newest } if name(late) == "c" && name(newest) == "b"),
                "{late:?}"
            );
        }
        let edited = continues_from(&[a, b], &[a, ("b", "other")]).unwrap_err();
        assert!(matches!(&edited, Mismatch::Edited(step) if name(step) == "b"), "{edited:?}");
        // Also where its place is another one.
        let edited = continues_from(&[a, b], &[a, c, ("b", "other")]).unwrap_err();
        assert!(matches!(&edited, Mismatch::Edited(step) if name(step) == "b"), "{edited:?}");
        let missing = continues_from(&[a, b, c], &[a, c, d]).unwrap_err();
        assert!(matches!(&missing, Mismatch::Missing(step) if name(step) == "b"), "{missing:?}");
        let older = continues_from(&[a, b, c], &[a, b]).unwrap_err();
        assert!(matches!(&older, Mismatch::Older(step) if name(step) == "c"), "{older:?}");
        let moved = continues_from(&[a, b], &[b, a]).unwrap_err();
        assert!(matches!(&moved, Mismatch::Moved(step) if name(step) == "a"), "{moved:?}");
        let other = continues_from(&[a, b], &[c, d]).unwrap_err();
        assert!(matches!(&other, Mismatch::Other(step) if name(step) == "a"), "{other:?}");
    }
}
