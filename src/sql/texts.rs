//! The SQL that clients store in their streams.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::sqlite::guest::SqlError;

/// The most texts of one stream, and their bytes.
const MOST: usize = 1024;
const MOST_BYTES: usize = 2 << 20;

/// The most bytes of the texts of all streams together.
const MOST_BYTES_OF_ALL: usize = 64 << 20;

/// The bytes that a text takes beside its own.
const OVERHEAD: usize = 64;

/// The texts of one stream, by their numbers.
#[derive(Debug)]
pub struct Texts {
    by_number: HashMap<i64, Arc<str>>,
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Texts {
    /// None yet; `all` counts the bytes of all streams.
    pub fn new(all: &Arc<AtomicUsize>) -> Self {
        Self { by_number: HashMap::new(), bytes: 0, all: all.clone() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// The text of a number.
    pub fn find(&self, id: i64) -> Result<&Arc<str>, SqlError> {
        let unknown = || SqlError::new("SQL_NOT_FOUND", format!("no SQL is stored under {id} in this stream"));
        self.by_number.get(&id).ok_or_else(unknown)
    }

    /// Stores a text.
    ///
    /// # Errors
    /// The number is taken, or there are too many.
    pub fn store(&mut self, id: i64, sql: String) -> Result<(), SqlError> {
        if self.by_number.contains_key(&id) {
            let why = format!("SQL is stored under {id} already; close it first, or take another number");
            return Err(SqlError::new("SQL_ID_USED", why));
        }
        let bytes = sql.len() + OVERHEAD;
        let too_many = |why: &str| Err(SqlError::new("SQL_STORE_FULL", why));
        if self.by_number.len() == MOST || self.bytes + bytes > MOST_BYTES {
            return too_many("this stream has stored as much SQL as it may; close_sql what is no longer needed");
        }
        if self.all.fetch_add(bytes, Ordering::Relaxed) + bytes > MOST_BYTES_OF_ALL {
            self.all.fetch_sub(bytes, Ordering::Relaxed);
            return too_many("as much SQL is stored as this server may keep; send the SQL itself");
        }
        self.bytes += bytes;
        self.by_number.insert(id, sql.into());
        Ok(())
    }

    /// Forgets a text, if it is there.
    pub fn forget(&mut self, id: i64) {
        if let Some(sql) = self.by_number.remove(&id) {
            let bytes = sql.len() + OVERHEAD;
            self.bytes -= bytes;
            self.all.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Texts {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_bounded_and_given_back() {
        let all = Arc::default();
        let mut texts = Texts::new(&all);
        texts.store(1, "SELECT 1".into()).unwrap();
        assert_eq!(&**texts.find(1).unwrap(), "SELECT 1");
        assert_eq!(texts.store(1, String::new()).unwrap_err().code, "SQL_ID_USED");
        assert_eq!(texts.find(2).unwrap_err().code, "SQL_NOT_FOUND");
        assert_eq!(texts.store(2, "x".repeat(MOST_BYTES)).unwrap_err().code, "SQL_STORE_FULL");
        let full: Vec<Texts> = (0..40)
            .map_while(|_| {
                let mut texts = Texts::new(&all);
                texts.store(0, "x".repeat(MOST_BYTES - OVERHEAD)).ok().map(|()| texts)
            })
            .collect();
        assert_eq!(full.len(), MOST_BYTES_OF_ALL / MOST_BYTES - 1, "what the first one has is counted");
        drop(full);
        texts.forget(1);
        texts.forget(1);
        assert_eq!(all.load(Ordering::Relaxed), 0);
        assert!(texts.is_empty());
    }
}
