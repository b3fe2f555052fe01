//! Signed-in operators: sessions in memory, so that a restart ends them all.
//!
//! A cookie has a random token, of which only the SHA-256 is kept here.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, futures::Notified};

use super::view;
use crate::{
    clock::{Millis, millis},
    http::problem::Problem,
};

/// How long a session lasts at most, and how long without a request.
pub(super) const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);
const UNUSED: Duration = Duration::from_secs(60 * 60);

/// Sessions at once. Whoever has the key may open any number: the one that ends first gives way.
const MOST: usize = 200;

/// Notices that a session keeps for pages that are not asked for again.
const NOTICES: usize = 8;

type Hash = [u8; 32];

/// What a page tells: once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    /// `done` or `failed`.
    pub(super) kind: &'static str,
    pub(super) text: String,
    /// A new key, which is shown this once.
    pub(super) secret: Option<String>,
}

impl Notice {
    pub(super) fn done(text: impl Into<String>) -> Self {
        Self { kind: "done", text: text.into(), secret: None }
    }

    /// Of a change that a route refused, or that failed half way.
    pub(super) fn refused(problem: &Problem) -> Self {
        let why = view::long(problem.detail.trim_end_matches('.'));
        Self::failed(match problem.status.is_server_error() {
            true => format!(
                "It did not end: {why}. It may be done in part: look at the state and the audit trail before you try again."
            ),
            false => format!("Nothing was changed: {why}."),
        })
    }

    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self { kind: "failed", text: text.into(), secret: None }
    }
}

/// A session that holds now.
#[derive(Debug, Clone)]
pub(super) struct Session {
    hash: Hash,
    /// What each of its forms has to send back.
    pub(super) csrf: String,
}

struct Kept {
    csrf: String,
    ends: Millis,
    unused_ends: Millis,
    /// What pages tell when they are next asked for, by their paths; the oldest first.
    notices: Vec<(String, Notice)>,
}

impl Kept {
    fn holds(&self, now: Millis) -> bool {
        now < self.ends && now < self.unused_ends
    }
}

/// All sessions.
#[derive(Default)]
pub(super) struct Sessions {
    all: Mutex<HashMap<Hash, Kept>>,
    /// Told when one ends before its time.
    ended: Notify,
}

impl Sessions {
    /// Opens a session; the token goes into a cookie.
    pub(super) fn open(&self, now: Millis) -> String {
        let token = random();
        let kept = Kept {
            csrf: random(),
            ends: now.saturating_add(millis(LONGEST)),
            unused_ends: now.saturating_add(millis(UNUSED)),
            notices: Vec::new(),
        };
        let mut all = self.all.lock();
        all.retain(|_, kept| kept.holds(now));
        if all.len() >= MOST
            && let Some(first) = all.iter().min_by_key(|(_, kept)| kept.unused_ends).map(|(hash, _)| *hash)
        {
            all.remove(&first);
        }
        all.insert(hash(&token), kept);
        token
    }

    /// The session of a token, which was used now.
    pub(super) fn find(&self, token: &str, now: Millis) -> Option<Session> {
        let hash = hash(token);
        let mut all = self.all.lock();
        let kept = all.get_mut(&hash).filter(|kept| kept.holds(now))?;
        kept.unused_ends = now.saturating_add(millis(UNUSED));
        Some(Session { hash, csrf: kept.csrf.clone() })
    }

    /// The session of a token, which is not used by this.
    pub(super) fn look(&self, token: &str, now: Millis) -> Option<Session> {
        let hash = hash(token);
        let all = self.all.lock();
        let kept = all.get(&hash).filter(|kept| kept.holds(now))?;
        Some(Session { hash, csrf: kept.csrf.clone() })
    }

    /// Whether a session holds still.
    pub(super) fn holds(&self, session: &Session, now: Millis) -> bool {
        self.all.lock().get(&session.hash).is_some_and(|kept| kept.holds(now))
    }

    /// Waits until some session ends before its time.
    pub(super) fn one_ends(&self) -> Notified<'_> {
        self.ended.notified()
    }

    /// Ends a session.
    pub(super) fn end(&self, session: &Session) {
        self.all.lock().remove(&session.hash);
        self.ended.notify_waiters();
    }

    /// Keeps what a page tells this session when it is next asked for.
    pub(super) fn tell(&self, session: &Session, path: &str, notice: Notice) {
        if let Some(kept) = self.all.lock().get_mut(&session.hash) {
            kept.notices.retain(|(of, _)| of != path);
            if kept.notices.len() >= NOTICES {
                kept.notices.remove(0);
            }
            kept.notices.push((path.to_owned(), notice));
        }
    }

    /// Takes what a page tells this session.
    pub(super) fn told(&self, session: &Session, path: &str) -> Option<Notice> {
        let mut all = self.all.lock();
        let notices = &mut all.get_mut(&session.hash)?.notices;
        let at = notices.iter().position(|(of, _)| of == path)?;
        Some(notices.remove(at).1)
    }
}

/// 32 of 64 characters: 192 bits.
pub(super) fn random() -> String {
    nanoid::nanoid!(32)
}

/// Compares secrets in a time that does not depend on them.
pub(super) fn same(one: &str, other: &str) -> bool {
    hash(one).as_slice().ct_eq(hash(other).as_slice()).into()
}

fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 60 * 60 * 1000;

    #[test]
    fn a_session_ends_when_it_is_not_used_and_at_last_in_any_case() {
        let sessions = Sessions::default();
        let (unused, used) = (sessions.open(0), sessions.open(0));
        for hour in 0..24 {
            let now = hour * HOUR / 2;
            assert_eq!(sessions.find(&used, now).is_some(), hour < 24, "{hour}");
        }
        assert!(sessions.find(&unused, HOUR).is_none());
        assert!(sessions.find(&used, 12 * HOUR).is_none());
    }

    #[test]
    fn who_only_looks_does_not_use_a_session() {
        let sessions = Sessions::default();
        let token = sessions.open(0);
        let session = sessions.look(&token, HOUR - 1).unwrap();
        assert!(sessions.holds(&session, HOUR - 1) && !sessions.holds(&session, HOUR));
        assert!(sessions.look(&token, HOUR).is_none());
    }

    #[test]
    fn a_session_that_was_ended_is_unknown_and_others_stay() {
        let sessions = Sessions::default();
        let (one, other) = (sessions.open(0), sessions.open(0));
        sessions.end(&sessions.find(&one, 1).unwrap());
        assert!(sessions.find(&one, 1).is_none());
        let other = sessions.find(&other, 1).unwrap();
        sessions.tell(&other, "/admin/a", Notice::done("x"));
        assert_eq!(sessions.told(&other, "/admin/b"), None, "another page");
        assert_eq!(sessions.told(&other, "/admin/a"), Some(Notice::done("x")));
        assert_eq!(sessions.told(&other, "/admin/a"), None, "told once");
    }

    #[test]
    fn there_are_never_more_than_the_most() {
        let sessions = Sessions::default();
        let first = sessions.open(0);
        for at in 1..=MOST {
            sessions.open(Millis::try_from(at).unwrap());
        }
        assert_eq!(sessions.all.lock().len(), MOST);
        assert!(sessions.find(&first, 1).is_none());
    }
}
