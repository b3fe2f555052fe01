//! Reading a folder of migrations and the files in it.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A file of SQL.
pub(super) struct Text {
    pub text: String,
    /// SHA-256 of it, in hexadecimal.
    pub hash: String,
}

/// Reads the file `name` of a folder.
pub(super) fn read(folder: &Path, name: &str) -> Result<Text> {
    let bytes = std::fs::read(folder.join(name)).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::config(format!("{name} is missing")),
        _ => Error::io(folder.join(name).display(), e),
    })?;
    let hash = hex::encode(Sha256::digest(&bytes));
    let text = String::from_utf8(bytes).map_err(|_| Error::config(format!("{name} is not UTF-8")))?;
    // SQLite would take it for the end, and leave out what is behind it.
    if text.contains('\0') {
        return Err(Error::config(format!("{name} contains a NUL")));
    }
    Ok(Text { text, hash })
}

/// The names in a folder that are not hidden, in their order.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let explain = |e| Error::io(folder.display(), e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(explain)? {
        let name = entry.map_err(explain)?.file_name();
        let name = name.into_string().map_err(|name| Error::config(format!("{} is not UTF-8", name.display())))?;
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a file's name is that of SQL.
pub(super) fn is_sql(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "sql")
}

/// The same, where case does not count.
pub(super) fn is_like_sql(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sql"))
}

/// Whether a file's name is that of SQL, and begins with a digit.
pub(super) fn is_numbered_sql(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_digit()) && is_sql(name)
}
