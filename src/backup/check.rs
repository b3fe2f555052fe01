//! Whether a file that came back is what it is to be.

use std::path::Path;

use crate::{
    catalog::APPLICATION_IDS,
    error::{Error, ErrorKind, Result},
    sqlite::{check::integrity_check, header, open},
    tenants::{
        disk::template::{self, APPLICATION_ID},
        id::TenantId,
    },
};

/// The longest value that is read, in bytes: what SQLite takes at most.
const LONGEST: u64 = 1_000_000_000;

/// What a file is to be.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'i> {
    /// The catalog.
    Catalog,
    /// The database of this tenant.
    Of(&'i TenantId),
}

/// Looks at a file that nobody has open: whether it is the catalog, or the database of that tenant. `through` also looks
/// for damage in all of it. May block.
///
/// # Errors
/// [`ErrorKind::Damaged`] with what is wrong.
pub fn check(path: &Path, whose: Whose, through: bool) -> Result<()> {
    let damaged = |why: String| Error::new(ErrorKind::Damaged, why);
    let mark = header::application_id(path)?;
    let is_its = match whose {
        Whose::Catalog => mark.is_some_and(|mark| APPLICATION_IDS.contains(&mark)),
        Whose::Of(_) => mark == Some(APPLICATION_ID),
    };
    if !is_its {
        let what = if matches!(whose, Whose::Catalog) { "catalog" } else { "user's database" };
        return Err(damaged(format!("it is no {what}")));
    }
    let conn = open::foreign(path, LONGEST)?;
    if let Whose::Of(id) = whose {
        let found = template::meta(&conn).map_err(|error| match error.kind() {
            // It has no such table.
            ErrorKind::Internal => damaged("it does not say whose it is".to_owned()).with_source(error),
            _ => error,
        });
        let found = found?.tenant;
        if found != id.as_str() {
            return Err(damaged(format!("it is the database of {found:?}, and not of {id}")));
        }
    }
    if through { integrity_check(&conn) } else { Ok(()) }
}
