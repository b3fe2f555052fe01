//! The requests in flight and the bytes of their large bodies and answers: in all, of each user and of each address.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};

use super::shares::{Key, Shares, Total};
use crate::http::problem::Problem;

/// The largest body that is not counted, in bytes: the limits on connections and requests bound how much
/// these are together.
pub const SMALL: u64 = 64 << 10;

/// What is in flight now, and how much may be.
pub struct Totals {
    /// Requests, all but the operators'.
    pub requests: Total,
    /// Requests of operators.
    pub operators: Total,
    /// Requests of each user.
    pub of_user: Shares,
    /// Requests of each address.
    pub of_address: Shares,
    /// Bytes of large bodies and answers.
    pub bytes: Total,
    /// Bytes of each user.
    pub bytes_of_user: Shares,
    /// Bytes of each address.
    pub bytes_of_address: Shares,
    /// Has the bytes of requests whose user is not known yet.
    pub unknown_user: Key,
}

/// 503: the server as a whole has too much to do.
pub fn overloaded(why: &'static str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", format!("{why}; try again in a moment"))
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

/// 429: one user or one address holds too much.
fn too_much(whose: &'static str, what: &'static str) -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_much_at_once",
        format!("too many {what} for one {whose}; wait for answers to arrive and read them, then try again"),
    )
    .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

const REQUESTS: &str = "requests being answered";
const BYTES: &str = "bytes being received and sent";

/// Which limit on requests in flight counts a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// That of requests without the operator's key.
    Ordinary,
    /// That of operators.
    Operator,
    /// None of these: monitoring must work when the server is busiest, and signed deliveries have slots of
    /// their own.
    None,
}

/// What a request holds, until dropped.
pub struct InFlight {
    totals: Arc<Totals>,
    class: Class,
    address: Option<Key>,
    user: Option<Key>,
    bytes: u64,
}

impl InFlight {
    /// Nothing yet.
    pub fn nothing(totals: &Arc<Totals>) -> Self {
        Self { totals: totals.clone(), class: Class::None, address: None, user: None, bytes: 0 }
    }

    /// Counts the request as an operator's.
    ///
    /// # Errors
    /// 503 `overloaded`.
    pub fn enter_as_operator(&mut self) -> Result<(), Problem> {
        if !self.totals.operators.take(1) {
            return Err(overloaded("more requests of operators are being answered than this server may take"));
        }
        self.class = Class::Operator;
        Ok(())
    }

    /// Counts the request, as one of this address.
    ///
    /// # Errors
    /// 503 `overloaded`, 429 `too_much_at_once`.
    pub fn enter(&mut self, address: Option<Key>) -> Result<(), Problem> {
        if !self.totals.requests.take(1) {
            return Err(overloaded("more requests are being answered than this server may take"));
        }
        self.class = Class::Ordinary;
        if !self.totals.of_address.take(address, 1) {
            return Err(too_much("address", REQUESTS));
        }
        self.address = address;
        Ok(())
    }

    /// Whether the request came with the operator's key.
    pub fn is_operators(&self) -> bool {
        self.class == Class::Operator
    }

    /// Counts the request as this user's from now on.
    ///
    /// # Errors
    /// 429 `too_much_at_once`.
    pub fn of_user(&mut self, user: Key) -> Result<(), Problem> {
        if self.user.is_some() || self.class != Class::Ordinary {
            return Ok(());
        }
        let (totals, user) = (&self.totals, Some(user));
        if !totals.of_user.take(user, 1) {
            return Err(too_much("user", REQUESTS));
        }
        if self.bytes > 0 {
            if !totals.bytes_of_user.take(user, self.bytes) {
                totals.of_user.give(user, 1);
                return Err(too_much("user", BYTES));
            }
            totals.bytes_of_user.give(self.holder(), self.bytes);
        }
        self.user = user;
        Ok(())
    }

    /// Whose bytes this request's are.
    fn holder(&self) -> Option<Key> {
        self.user.or(Some(self.totals.unknown_user))
    }

    /// Counts a body of so many bytes as far as it has come.
    ///
    /// # Errors
    /// 429 `too_much_at_once`, 503 `overloaded`.
    pub fn body(&mut self, bytes: u64) -> Result<(), Problem> {
        if self.class != Class::Ordinary || bytes <= SMALL.max(self.bytes) {
            return Ok(());
        }
        // In steps, so that not each piece is counted.
        let more = bytes.next_multiple_of(SMALL) - self.bytes;
        let (totals, holder) = (&self.totals, self.holder());
        if !totals.bytes_of_user.take(holder, more) {
            return Err(too_much("user", BYTES));
        }
        if !totals.bytes_of_address.take(self.address, more) {
            totals.bytes_of_user.give(holder, more);
            return Err(too_much("address", BYTES));
        }
        if !totals.bytes.take(more) {
            totals.bytes_of_user.give(holder, more);
            totals.bytes_of_address.give(self.address, more);
            return Err(overloaded("more bytes are being received and sent than this server may hold"));
        }
        self.bytes += more;
        Ok(())
    }

    /// Counts the answer in place of the body, which is no longer needed. With `answers_change` a little more
    /// than the limits allow is sent: the change is made, and the client must hear of it.
    pub fn answer(&mut self, bytes: u64, answers_change: bool) -> Result<(), Problem> {
        match self.body(bytes) {
            Err(problem) if !answers_change => Err(problem),
            _ => {
                let rest = if bytes <= SMALL { 0 } else { bytes.next_multiple_of(SMALL).min(self.bytes) };
                self.keep_bytes(rest);
                Ok(())
            }
        }
    }

    /// Gives back all bytes but so many.
    fn keep_bytes(&mut self, rest: u64) {
        let count = self.bytes - rest;
        if count > 0 {
            self.totals.bytes.give(count);
            self.totals.bytes_of_user.give(self.holder(), count);
            self.totals.bytes_of_address.give(self.address, count);
            self.bytes = rest;
        }
    }

    /// Stops counting a request whose user is not known, once its answer is made: a client that has proven
    /// nothing could hold it by reading nothing. The connection bounds how many of its answers wait to be
    /// written, and their bytes are counted if they are large.
    pub fn is_answered(&mut self) {
        if self.class == Class::Ordinary && self.user.is_none() {
            self.leave();
        }
    }

    /// Stops counting the request itself.
    pub fn leave(&mut self) {
        match std::mem::replace(&mut self.class, Class::None) {
            Class::None => {}
            Class::Operator => self.totals.operators.give(1),
            Class::Ordinary => {
                self.totals.requests.give(1);
                self.totals.of_user.give(self.user, 1);
                self.totals.of_address.give(self.address, 1);
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.keep_bytes(0);
        self.leave();
    }
}
