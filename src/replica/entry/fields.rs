//! Reading the fields of entries and heads, and what is said when they are wrong.

use crate::error::{Error, ErrorKind, Result};

/// The version of both layouts.
pub(super) const VERSION: u8 = 1;

pub(super) fn flag(byte: u8) -> Result<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(damaged()),
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| damaged())
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|found| found.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|found| found.try_into().ok()).map_or(0, u64::from_le_bytes)
}

pub(super) fn read_hash(bytes: &[u8], at: usize) -> [u8; 32] {
    bytes.get(at..at + 32).and_then(|found| found.try_into().ok()).unwrap_or_default()
}

pub(super) fn newer(version: u8) -> Error {
    Error::config(format!(
        "the bucket has an entry of version {version}, and this version of cubby knows only {VERSION}: use the version \
         that wrote it"
    ))
}

pub(super) fn damaged() -> Error {
    Error::new(
        ErrorKind::Damaged,
        "an entry in the bucket is damaged, or what belongs to it is missing: `cubby replica verify` shows what can be \
         restored",
    )
}
