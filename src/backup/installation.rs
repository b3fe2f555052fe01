//! Whose backups they are: a number that a data folder gets with its first backup, and keeps when it is restored.

use std::path::Path;

use aws_lc_rs::rand;

use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::flush::{rename_new, sync_folder, write_new},
};

/// The file in the data folder.
pub const FILE: &str = "installation";

/// What a data folder is known by; none if it has no backup yet. May block.
pub fn of(root: &Path) -> Result<Option<String>> {
    let path = root.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path.display(), error)),
    };
    match text.trim() {
        id if is_one(id) => Ok(Some(id.to_owned())),
        _ => Err(Error::config(format!(
            "{} is not what cubby writes: put it back as it was, which is the \"installation\" in meta/format.json at the \
             place of this folder's backups; or remove it and begin backups at a new place",
            path.display()
        ))),
    }
}

/// Makes a data folder known by this from now on. May block.
pub fn set(root: &Path, id: &str) -> Result<()> {
    let new = root.join(format!("{FILE}.new"));
    write_new(&new, format!("{id}\n").as_bytes())?;
    match rename_new(&new, &root.join(FILE)) {
        // A restore that was cut short has written it.
        Err(error) if error.kind() == ErrorKind::Conflict && of(root)?.as_deref() == Some(id) => {
            std::fs::remove_file(&new).map_err(|e| Error::io(new.display(), e))?;
        }
        renamed => renamed?,
    }
    sync_folder(root)
}

/// A number that nobody else has.
pub fn new() -> Result<String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| Error::internal("the system gives no random bytes: start again"))?;
    Ok(hex::encode(bytes))
}

/// Whether this is such a number.
pub fn is_one(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_the_one_it_has() {
        let folder = tempfile::TempDir::new().unwrap();
        assert_eq!(of(folder.path()).unwrap(), None);
        let (one, other) = (new().unwrap(), new().unwrap());
        set(folder.path(), &one).unwrap();
        set(folder.path(), &one).unwrap();
        assert!(set(folder.path(), &other).is_err());
        assert_eq!(of(folder.path()).unwrap(), Some(one));
        std::fs::write(folder.path().join(FILE), "mine").unwrap();
        assert_eq!(of(folder.path()).unwrap_err().kind(), ErrorKind::Config);
    }
}
