//! Notes: their ids, their shape in JSON, and pages of them. No I/O.

use parking_lot::Mutex;
use serde::{Deserialize, de};
use utoipa::{IntoParams, ToSchema};

use crate::{
    clock::{Millis, rfc3339},
    error::{Error, Result},
};

/// What every note's id begins with.
const PREFIX: &str = "note_";

/// Letters after the prefix that count milliseconds, in base 26: enough until the year 2142.
const TIME_LETTERS: usize = 9;

/// Those and seven random ones. Within a millisecond ids count up from a random start, so that they sort by
/// when they were made; two processes that write one file in turn meet once in 26⁷, and the second note is then
/// given another id.
const LETTERS: usize = TIME_LETTERS + 7;

const ALPHABET: [char; 26] = [
    'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w',
    'x', 'y', 'z',
];

/// The id of a note: `note_` and sixteen lower-case letters. Ids sort by when they were made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(description = "A note's id; ids sort by when notes were made", pattern = "^note_[a-z]{16}$")]
pub struct NoteId(String);

impl<'de> Deserialize<'de> for NoteId {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        is_note_id(&text).then_some(Self(text)).ok_or_else(|| de::Error::custom("not the id of a note"))
    }
}

impl NoteId {
    /// Parses an id from a URL or a cursor. `None` for what no note can be called.
    pub fn parse(text: &str) -> Option<Self> {
        is_note_id(text).then(|| Self(text.to_owned()))
    }

    /// A new id that sorts after all that this process made before, in the same millisecond too and even if
    /// the clock is set back: a client that posts twice in a row finds its notes in that order. Where a note
    /// is inserted, ids of other processes whose clock was ahead are looked for.
    pub fn generate(now: Millis) -> Self {
        static NEWEST: Mutex<[u8; LETTERS]> = Mutex::new([b'a'; LETTERS]);
        let random = nanoid::nanoid!(LETTERS - TIME_LETTERS, &ALPHABET);
        let mut letters = [b'a'; LETTERS];
        letters[TIME_LETTERS..].copy_from_slice(random.as_bytes());
        let mut left = now.max(0);
        for letter in letters[..TIME_LETTERS].iter_mut().rev() {
            *letter = b'a' + u8::try_from(left % 26).unwrap_or(0);
            left /= 26;
        }
        let mut newest = NEWEST.lock();
        if letters[..TIME_LETTERS] <= newest[..TIME_LETTERS] {
            letters = *newest;
            count_up(&mut letters);
        }
        *newest = letters;
        drop(newest);
        Self::of(&letters)
    }

    fn of(letters: &[u8]) -> Self {
        let mut id = String::with_capacity(PREFIX.len() + LETTERS);
        id.push_str(PREFIX);
        id.extend(letters.iter().copied().map(char::from));
        Self(id)
    }

    /// The next id in order: one that sorts right after this one. `None` after the last there can be.
    pub fn successor(&self) -> Option<Self> {
        let mut letters = self.0.as_bytes().get(PREFIX.len()..)?.to_vec();
        count_up(&mut letters).then(|| Self::of(&letters))
    }

    /// The id as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_note_id(text: &str) -> bool {
    text.strip_prefix(PREFIX)
        .is_some_and(|letters| letters.len() == LETTERS && letters.bytes().all(|b| b.is_ascii_lowercase()))
}

/// Makes letters the next in order. `false` after the last, which begins anew.
fn count_up(letters: &mut [u8]) -> bool {
    for letter in letters.iter_mut().rev() {
        if *letter < b'z' {
            *letter += 1;
            return true;
        }
        *letter = b'a';
    }
    false
}

/// A note as it is in the database, borrowed from the row.
#[derive(Debug, Clone, Copy)]
pub struct Note<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its text, as given.
    pub text: &'a str,
    /// When it was made.
    pub created: Millis,
    /// When it was last changed.
    pub updated: Millis,
}

impl Note<'_> {
    /// Appends the note to a JSON text. Rows go straight into the response's body: a `Note` that
    /// owns its text would be copied once more for each.
    pub fn write_json(&self, json: &mut Vec<u8>) {
        json.extend_from_slice(b"{\"id\":\"");
        json.extend_from_slice(self.id.as_bytes());
        json.extend_from_slice(b"\",\"text\":");
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut *json, self.text);
        json.extend_from_slice(b",\"created\":\"");
        json.extend_from_slice(rfc3339(self.created).as_bytes());
        json.extend_from_slice(b"\",\"updated\":\"");
        json.extend_from_slice(rfc3339(self.updated).as_bytes());
        json.extend_from_slice(b"\"}");
    }

    /// `{"note":…}`.
    pub fn to_body(self) -> Vec<u8> {
        let mut json = Vec::with_capacity(160 + self.text.len());
        json.extend_from_slice(b"{\"note\":");
        self.write_json(&mut json);
        json.push(b'}');
        json
    }
}

/// What a client sends to make or change a note.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoteDraft {
    /// The text. May be empty; any Unicode.
    pub text: String,
}

/// Which notes, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most so many.
    pub limit: usize,
    /// Those after this one, in the order asked for.
    pub cursor: Option<NoteId>,
    /// Newest first.
    pub newest_first: bool,
}

/// Notes on a page when the client does not say.
pub const DEFAULT_LIMIT: u32 = 100;

/// A page ends early when its JSON is longer than this: five hundred notes may be five hundred mebibytes.
pub const PAGE_BYTES: usize = 4 << 20;

/// The order of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

/// The query of a request for a page.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Notes on the page.
    #[param(minimum = 1)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    #[param(inline)]
    cursor: Option<NoteId>,
    /// Oldest first or newest first.
    #[param(inline)]
    order: Option<Order>,
}

impl PageQuery {
    /// The page, of `most` notes at most.
    pub fn page(self, most: u32) -> Result<Page> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT.min(most));
        if !(1..=most).contains(&limit) {
            return Err(Error::malformed("limit", format!("limit: a number from 1 to {most}")));
        }
        Ok(Page { limit: limit as usize, cursor: self.cursor, newest_first: self.order == Some(Order::Desc) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_even_when_the_clock_goes_back() {
        let early = NoteId::generate(1_700_000_000_000);
        let late = NoteId::generate(1_900_000_000_000);
        let back = NoteId::generate(1_600_000_000_000);
        assert!(early < late);
        assert!(late < back);
        assert_eq!(late.as_str()[..14], back.as_str()[..14]);
        for id in [&early, &late, &back] {
            assert_eq!(NoteId::parse(id.as_str()).as_ref(), Some(id));
        }
    }

    #[test]
    fn ids_of_one_millisecond_sort_by_when_they_were_made() {
        let ids: Vec<_> = (0..1000).map(|_| NoteId::generate(1_800_000_000_000)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn an_id_has_a_successor_that_sorts_after_it() {
        let next = |id: &str| NoteId::parse(id).unwrap().successor();
        assert_eq!(next("note_aaaaaaaaaaaaaaaa"), NoteId::parse("note_aaaaaaaaaaaaaaab"));
        assert_eq!(next("note_nzzzzzzzzzzzzzzz"), NoteId::parse("note_oaaaaaaaaaaaaaaa"));
        assert_eq!(next("note_zzzzzzzzzzzzzzzz"), None);
    }

    #[test]
    fn a_page_has_as_many_notes_as_is_asked_for_and_no_more_than_allowed() {
        let page = |limit, most| PageQuery { limit, cursor: None, order: None }.page(most).map(|page| page.limit);
        assert_eq!(page(None, 500).unwrap(), 100);
        assert_eq!(page(Some(5), 500).unwrap(), 5);
        assert_eq!(page(None, 7).unwrap(), 7);
        for limit in [0, 8] {
            assert_eq!(page(Some(limit), 7).unwrap_err().field(), Some("limit"), "{limit}");
        }
    }
}
