//! The bytes in flight of large bodies and answers: in all, of each user and of each address.

use super::{
    refusal::{overloaded, too_much},
    shares::{Key, Shares, Total},
};
use crate::http::problem::Problem;

/// How many bytes are in flight, and how many may be.
pub struct Bytes {
    all: Total,
    of_user: Shares,
    of_address: Option<Shares>,
    /// Counts what has come of requests whose user is not known yet.
    unknown_user: Key,
}

impl Bytes {
    /// At most `all`, of one user `of_user`, of one address `of_address`.
    pub fn new(all: u64, of_user: u64, of_address: Option<u64>, unknown_user: Key) -> Self {
        Self { all: Total::of(all), of_user: Shares::of(of_user), of_address: of_address.map(Shares::of), unknown_user }
    }

    /// Whether bytes are counted by address.
    pub fn counts_addresses(&self) -> bool {
        self.of_address.is_some()
    }

    /// Counts so many bytes more.
    ///
    /// # Errors
    /// 429 `too_much_at_once`, 503 `overloaded`; then none of them are counted.
    pub fn take(&self, user: Option<Key>, address: Option<Key>, count: u64) -> Result<(), Problem> {
        let user = user.unwrap_or(self.unknown_user);
        if !self.of_user.take(user, count) {
            return Err(too_much("user", "bytes being received and sent"));
        }
        if let (Some(shares), Some(address)) = (&self.of_address, address)
            && !shares.take(address, count)
        {
            self.of_user.give(user, count);
            return Err(too_much("address", "bytes being received and sent"));
        }
        if !self.all.take(count) {
            self.of_user.give(user, count);
            if let (Some(shares), Some(address)) = (&self.of_address, address) {
                shares.give(address, count);
            }
            return Err(overloaded("more bytes are being received and sent than this server may hold"));
        }
        Ok(())
    }

    /// Counts bytes as this user's that came before their user was known.
    ///
    /// # Errors
    /// 429 `too_much_at_once`.
    pub fn assign(&self, user: Key, count: u64) -> Result<(), Problem> {
        if count == 0 {
            return Ok(());
        }
        if !self.of_user.take(user, count) {
            return Err(too_much("user", "bytes being received and sent"));
        }
        self.of_user.give(self.unknown_user, count);
        Ok(())
    }

    /// Gives back what was taken.
    pub fn give(&self, user: Option<Key>, address: Option<Key>, count: u64) {
        if count == 0 {
            return;
        }
        self.all.give(count);
        self.of_user.give(user.unwrap_or(self.unknown_user), count);
        if let (Some(shares), Some(address)) = (&self.of_address, address) {
            shares.give(address, count);
        }
    }
}
