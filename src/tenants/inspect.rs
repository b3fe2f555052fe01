//! Looking at a tenant's file without serving or changing it.

use std::path::Path;

use super::{
    id::TenantId,
    template::{self, APPLICATION_ID},
};
use crate::{
    clock::Millis,
    error::{Error, ErrorKind, Result},
    sqlite::{
        deadline::Deadline,
        migrate,
        open::{self, Locking, Options},
    },
};

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Whose it is.
    pub tenant: TenantId,
    /// When it was made.
    pub created: Millis,
    /// The schema it is at.
    pub schema: i32,
}

/// Opens a file of which nobody else has it open, reads its card and leaves it as it was.
///
/// # Errors
/// [`ErrorKind::Damaged`] if it is no file of a tenant.
pub fn inspect(path: &Path) -> Result<Card> {
    let damaged = |why: String| Error::new(ErrorKind::Damaged, why);
    let found = std::fs::symlink_metadata(path).map_err(|e| Error::io(path.display(), e))?;
    if !found.is_file() || found.len() == 0 {
        return Err(damaged(if found.is_file() { "it is empty" } else { "it is no plain file" }.to_owned()));
    }
    let conn = open::open(path, &options(), &Deadline::none())?;
    let card = template::meta(&conn).and_then(|meta| {
        let tenant = TenantId::parse(meta.tenant.as_bytes())
            .map_err(|e| damaged(format!("the id inside, {:?}, is none: {e}", meta.tenant)))?;
        Ok(Card { tenant, created: meta.created, schema: migrate::user_version(&conn)? })
    });
    // Without a checkpoint: what is only looked at stays as found.
    open::abandon(conn);
    card.map_err(|error| match error.kind() {
        ErrorKind::Internal => damaged("it does not say whose it is".to_owned()).with_source(error),
        _ => error,
    })
}

/// How a file is opened by whoever has it for themselves.
pub(super) fn options() -> Options {
    Options { locking: Locking::Exclusive, application_id: APPLICATION_ID, ..Options::default() }
}
