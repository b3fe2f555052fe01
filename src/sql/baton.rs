//! Batons: what a client goes on with in a stream.
//!
//! A baton is signed for its tenant and its caller, and good for once. A stream without a transaction and without
//! stored SQL is nothing but its baton, so it takes no memory while nobody uses it, and may wait for hours. That a
//! baton was used takes one bit: they are numbered, and the used ones are marked in a map of the last hours.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac_sha256::HMAC;
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

/// How long a baton is good, if its stream has no transaction.
pub const LIFETIME: Duration = Duration::from_secs(3 * 60 * 60);

/// Numbers in a piece of the map.
const PIECE: u64 = 1 << 15;

/// The most pieces, of 4 KiB each: of 64 million batons the oldest are forgotten, and then refused.
const PIECES: usize = 2048;

/// The length of a baton's parts, in bytes: its number, its flags, its signature.
const PARTS: [usize; 3] = [8, 1, 16];
const LENGTH: usize = PARTS[0] + PARTS[1] + PARTS[2];

/// What a baton says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baton {
    /// Its number, and that of what the server keeps of the stream.
    pub number: u64,
    /// The server keeps something of the stream.
    pub kept: bool,
    /// Foreign keys are enforced in the stream.
    pub foreign_keys: bool,
}

/// Why a baton is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is not one of this server's for this tenant and caller.
    Invalid,
    /// It was used.
    Used,
    /// It is too old.
    Expired,
}

/// Makes batons and takes them back.
pub struct Batons {
    key: [u8; 32],
    used: Mutex<Used>,
}

/// Which numbers were used.
#[derive(Default)]
struct Used {
    /// The number of the first bit.
    first: u64,
    next: u64,
    /// The bits, and when the last of them was given out.
    pieces: VecDeque<(Box<[u64]>, Option<Instant>)>,
}

impl Batons {
    /// With a new random key: batons do not outlive the server, as transactions do not.
    pub fn new() -> Self {
        let mut key = [0; 32];
        // 384 random bits.
        let random = nanoid::nanoid!(64);
        key.copy_from_slice(&HMAC::mac(random.as_bytes(), b"cubby batons"));
        Self { key, used: Mutex::default() }
    }

    /// A number for a new baton.
    pub fn number(&self, now: Instant) -> u64 {
        self.used.lock().number(now)
    }

    /// The text of a baton, for this tenant and this caller.
    pub fn sign(&self, baton: Baton, tenant: &str, caller: &str) -> String {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&baton.number.to_be_bytes());
        bytes[8] = u8::from(baton.kept) | u8::from(baton.foreign_keys) << 1;
        let signature = self.signature(&bytes[..9], tenant, caller);
        bytes[9..].copy_from_slice(&signature);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a baton and marks it as used.
    ///
    /// # Errors
    /// It is none, not for these, used, or too old.
    pub fn take(&self, text: &str, tenant: &str, caller: &str, now: Instant) -> Result<Baton, Refused> {
        let mut bytes = [0; LENGTH];
        // A longer one does not fit.
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| Refused::Invalid)?;
        let right = self.signature(&bytes[..9], tenant, caller);
        if length != LENGTH || !bool::from(right.ct_eq(&bytes[9..])) {
            return Err(Refused::Invalid);
        }
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[..8]);
        let number = u64::from_be_bytes(number);
        self.used.lock().take(number, now)?;
        Ok(Baton { number, kept: bytes[8] & 1 != 0, foreign_keys: bytes[8] & 2 != 0 })
    }

    fn signature(&self, baton: &[u8], tenant: &str, caller: &str) -> [u8; PARTS[2]] {
        let mut mac = HMAC::new(self.key);
        // Neither of the names has a NUL.
        for part in [baton, tenant.as_bytes(), b"\0", caller.as_bytes()] {
            mac.update(part);
        }
        let whole = mac.finalize();
        let mut short = [0; PARTS[2]];
        short.copy_from_slice(&whole[..PARTS[2]]);
        short
    }
}

impl Used {
    fn number(&mut self, now: Instant) -> u64 {
        let too_old = |last: &Option<Instant>| last.is_some_and(|last| now.duration_since(last) > LIFETIME);
        while self.pieces.len() > PIECES || self.pieces.front().is_some_and(|(_, last)| too_old(last)) {
            self.pieces.pop_front();
            self.first += PIECE;
        }
        // What was dropped may have had numbers that were never given out.
        self.next = self.next.max(self.first);
        let number = self.next;
        self.next += 1;
        if number - self.first == self.pieces.len() as u64 * PIECE {
            let words = usize::try_from(PIECE / 64).unwrap_or(0);
            self.pieces.push_back((vec![0; words].into(), None));
        }
        if let Some((_, last)) = self.pieces.back_mut() {
            *last = Some(now);
        }
        number
    }

    fn take(&mut self, number: u64, now: Instant) -> Result<(), Refused> {
        let Some(at) = number.checked_sub(self.first) else { return Err(Refused::Expired) };
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let piece = self.pieces.get_mut(place(at / PIECE)).ok_or(Refused::Invalid)?;
        if piece.1.is_some_and(|last| now.duration_since(last) > LIFETIME) {
            return Err(Refused::Expired);
        }
        let (word, bit) = (place(at % PIECE / 64), 1 << (at % 64));
        let word = piece.0.get_mut(word).ok_or(Refused::Invalid)?;
        if *word & bit != 0 {
            return Err(Refused::Used);
        }
        *word |= bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(batons: &Batons, now: Instant) -> String {
        batons.sign(Baton { number: batons.number(now), kept: false, foreign_keys: true }, "ada", "key_a")
    }

    #[test]
    fn a_baton_is_good_once_for_its_tenant_and_caller() {
        let (batons, now) = (Batons::new(), Instant::now());
        let text = issue(&batons, now);
        assert_eq!(batons.take(&text, "eve", "key_a", now), Err(Refused::Invalid));
        assert_eq!(batons.take(&text, "ada", "key_b", now), Err(Refused::Invalid));
        assert_eq!(Batons::new().take(&text, "ada", "key_a", now), Err(Refused::Invalid));
        assert_eq!(batons.take(&text, "ada", "key_a", now), Ok(Baton { number: 0, kept: false, foreign_keys: true }));
        assert_eq!(batons.take(&text, "ada", "key_a", now), Err(Refused::Used));
        assert_ne!(issue(&batons, now), text);
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let (batons, now) = (Batons::new(), Instant::now());
        let text = issue(&batons, now);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(batons.take(&forged, "ada", "key_a", now), Err(Refused::Invalid), "{forged}");
        }
        for bad in ["", "x", "é", &text[1..], &format!("{text}A"), &"A".repeat(10_000)] {
            assert_eq!(batons.take(bad, "ada", "key_a", now), Err(Refused::Invalid), "{bad}");
        }
        batons.take(&text, "ada", "key_a", now).unwrap();
    }

    #[test]
    fn a_baton_waits_for_hours_and_the_map_stays_bounded() {
        let (batons, start) = (Batons::new(), Instant::now());
        let (first, second) = (issue(&batons, start), issue(&batons, start));
        let later = start + LIFETIME;
        batons.take(&first, "ada", "key_a", later).unwrap();
        let too_late = later + Duration::from_secs(1);
        assert_eq!(batons.take(&second, "ada", "key_a", too_late), Err(Refused::Expired));
        let mut used = Used::default();
        for _ in 0..(PIECES as u64 + 3) * PIECE {
            used.number(start);
        }
        assert!(used.pieces.len() <= PIECES + 1);
        assert_eq!(used.take(0, start), Err(Refused::Expired));
        assert_eq!(used.take(used.next - 1, start), Ok(()));
        let next = used.number(too_late + LIFETIME);
        assert!(used.pieces.len() == 1, "the old ones are forgotten");
        assert_eq!(used.take(next, too_late + LIFETIME), Ok(()));
    }
}
