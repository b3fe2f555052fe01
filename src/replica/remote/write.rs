//! Conditional writes whose answer may be lost.

use bytes::Bytes;
use object_store::{Error as StoreError, GetOptions, ObjectStore, PutMode, PutOptions, UpdateVersion, path::Path};

use super::explain::{explain, is_missing};
use crate::error::{ErrorKind, Result};

/// An object and which version of it.
pub struct Stored {
    /// Its content.
    pub content: Bytes,
    /// What a write that replaces just this version names.
    pub version: UpdateVersion,
}

/// Reads an object; none if it is not there.
pub async fn read(store: &dyn ObjectStore, path: &Path) -> Result<Option<Stored>> {
    let answer = match store.get_opts(path, GetOptions::default()).await {
        Ok(answer) => answer,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(explain(error)),
    };
    let version = UpdateVersion { e_tag: answer.meta.e_tag.clone(), version: answer.meta.version.clone() };
    Ok(Some(Stored { content: answer.bytes().await.map_err(explain)?, version }))
}

/// How often a create is tried that is refused although nothing is there: another one was under way.
const ATTEMPTS: usize = 3;

/// Creates an object, and says whether it has this content: a create that was done, whose answer was lost, and which
/// the client repeated is refused as well.
pub async fn create(store: &dyn ObjectStore, path: &Path, content: &Bytes) -> Result<bool> {
    let mut attempt = 1;
    loop {
        let options = PutOptions::from(PutMode::Create);
        let Err(error) = store.put_opts(path, content.clone().into(), options).await else { return Ok(true) };
        let refused = matches!(error, StoreError::AlreadyExists { .. } | StoreError::Precondition { .. });
        let error = explain(error);
        if !refused && error.kind() != ErrorKind::Unavailable {
            return Err(error);
        }
        match read(store, path).await {
            Ok(Some(stored)) => return Ok(stored.content == *content),
            Ok(None) if refused && attempt < ATTEMPTS => attempt += 1,
            Ok(None) => return Err(error),
            // What went wrong first says more.
            Err(_) if !refused => return Err(error),
            Err(also) => return Err(also),
        }
    }
}
