//! Lists of tenants in any order, and a search by id, address and name. A page costs the same however many tenants there
//! are.

use std::{collections::HashSet, fmt, str::FromStr};

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::{COLUMNS, Sql, all, find, tenant};
use crate::{
    catalog::model::{Row, State},
    tenants::id::TenantId,
};

/// The order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// By id.
    #[default]
    Id,
    /// Newest first.
    Created,
    /// Last used first.
    Seen,
    /// Largest first.
    Size,
}

impl Sort {
    /// Every order.
    pub const ALL: [Self; 4] = [Self::Id, Self::Created, Self::Seen, Self::Size];

    /// The order in queries and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Created => "created",
            Self::Seen => "seen",
            Self::Size => "size",
        }
    }

    /// What the rows are ordered by, as the indexes have it.
    fn key(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Created => "created",
            Self::Seen => "coalesce(last_seen, 0)",
            Self::Size => "coalesce(bytes, 0)",
        }
    }
}

impl FromStr for Sort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|sort| sort.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not an order; use id, created, seen or size"))
    }
}

/// Which tenants to list.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Whose id, address or name has this text; their order is that of creation then, newest first.
    pub text: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// In this order.
    pub sort: Sort,
    /// Behind this place.
    pub cursor: Option<Cursor>,
    /// How many.
    pub limit: u32,
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// What the last row was ordered by.
    pub key: i64,
    /// Its id. Of a search by a text: the last one of those whose id or address it is, if they have the first page alone.
    pub id: String,
}

impl Cursor {
    /// Behind an id, in the order of ids.
    pub fn after(id: &TenantId) -> Self {
        Self { key: 0, id: id.as_str().to_owned() }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.key, self.id)
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('~').and_then(|(key, id)| Some((key.parse().ok()?, id.to_owned())));
        let (key, id) = parts.ok_or("not a next_cursor of an earlier page")?;
        Ok(Self { key, id })
    }
}

/// A page of tenants.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The tenants.
    pub rows: Vec<Row>,
    /// Where the next page begins; none if this is the last one. A page of a search may have few rows and a next one.
    pub next: Option<Cursor>,
}

/// How many characters a text must have to be found inside of others.
pub const SHORTEST: usize = 3;

/// The longest text that is searched for, in characters.
pub const LONGEST: usize = 200;

/// Texts that one page of a search compares: a state that few have must not make it read all that match.
const COMPARED: u32 = 2000;

/// A trigram that is in so many texts is common. Among the rarer ones, a search intersects this many: reading those of
/// all trigrams of an address takes 25 ms with 300,000 tenants, and of the rarest 6 ms.
const COMMON: u32 = 1000;
const INTERSECTED: usize = 5;

/// What a text is looked for in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// The beginning of an id: a text of fewer than [`SHORTEST`] characters.
    Beginning(String),
    /// The whole of id, address and names: a longer text, in lower case.
    Anywhere(String),
}

impl Sought {
    /// A text as it was sent. None if it is blank, which finds everybody.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        match text.chars().count() {
            0 => None,
            count if count < SHORTEST => Some(Self::Beginning(text.to_owned())),
            _ => Some(Self::Anywhere(lowercase(text))),
        }
    }

    /// Whether it finds a tenant, by its id and its text in the index.
    pub fn finds(&self, id: &TenantId, text: &str) -> bool {
        match self {
            Self::Beginning(start) => id.as_str().starts_with(start.as_str()),
            // The text begins with the id.
            Self::Anywhere(part) => lowercase(text).contains(part.as_str()),
        }
    }
}

/// A page of tenants.
pub fn page(conn: &Connection, wanted: &Listing) -> Sql<Found> {
    match wanted.text.as_deref().and_then(Sought::new) {
        None if wanted.sort == Sort::Id => beginning_with(conn, wanted, ""),
        None => sorted(conn, wanted),
        Some(Sought::Beginning(start)) => beginning_with(conn, wanted, &start),
        Some(sought) => having(conn, wanted, &sought),
    }
}

/// The condition of a state as the partial indexes have it, which SQLite uses only if it is repeated.
fn of_state(state: Option<State>) -> String {
    match state {
        None => String::new(),
        Some(State::Active) => "state = 'active' AND ".to_owned(),
        Some(state) => format!("state <> 'active' AND state = '{state}' AND "),
    }
}

/// Whose id begins with a text, in the order of ids.
fn beginning_with(conn: &Connection, wanted: &Listing, start: &str) -> Sql<Found> {
    let filter = of_state(wanted.state);
    // One lower bound: of two, SQLite seeks to the first and reads its way to the other.
    let (bound, from) = match wanted.cursor.as_ref().map(|cursor| cursor.id.as_str()) {
        Some(after) if after >= start => (">", after),
        _ => (">=", start),
    };
    let sql = format!("SELECT {COLUMNS} FROM tenants WHERE {filter}id {bound} ?1 AND id < ?2 ORDER BY id LIMIT ?3");
    // No character is larger.
    let end = format!("{start}\u{10ffff}");
    let mut rows = all(conn, &sql, params![from, end, wanted.limit + 1], tenant)?;
    let more = cut(&mut rows, wanted.limit);
    let next = rows.last().filter(|_| more).map(|row| Cursor::after(&row.id));
    Ok(Found { rows, next })
}

/// All, by one of the keys.
fn sorted(conn: &Connection, wanted: &Listing) -> Sql<Found> {
    let (filter, key, order) = (of_state(wanted.state), wanted.sort.key(), wanted.sort.as_str());
    let index = match wanted.state {
        None | Some(State::Active) => format!("tenants_by_{order}"),
        Some(_) => format!("inactive_by_{order}"),
    };
    let select = format!("SELECT {COLUMNS} FROM tenants INDEXED BY {index} WHERE {filter}");
    let mut rows = Vec::new();
    let most = wanted.limit + 1;
    let before = match &wanted.cursor {
        None => i64::MAX,
        Some(cursor) => {
            // Many have the same size: those behind the cursor are a range of the index by themselves.
            let sql = format!("{select}{key} = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3");
            rows = all(conn, &sql, params![cursor.key, cursor.id, most], tenant)?;
            cursor.key
        }
    };
    let left = most - u32::try_from(rows.len()).unwrap_or(most);
    if left > 0 {
        let sql = format!("{select}{key} < ?1 ORDER BY {key} DESC, id DESC LIMIT ?2");
        rows.extend(all(conn, &sql, params![before, left], tenant)?);
    }
    let more = cut(&mut rows, wanted.limit);
    let key = |row: &Row| match wanted.sort {
        Sort::Created => row.created,
        Sort::Seen => row.last_seen.unwrap_or(0),
        Sort::Size => row.bytes.map_or(0, u64::cast_signed),
        Sort::Id => 0,
    };
    let next = rows.last().filter(|_| more).map(|row| Cursor { key: key(row), id: row.id.as_str().to_owned() });
    Ok(Found { rows, next })
}

/// Whose id, address or name has a text somewhere, newest first. Whose id or address it is as a whole has the first page
/// alone, since few who look for that want more.
fn having(conn: &Connection, wanted: &Listing, sought: &Sought) -> Sql<Found> {
    let is_wanted = |row: &Row| wanted.state.is_none_or(|state| row.state == state);
    let text = wanted.text.as_deref().unwrap_or_default().trim();
    let (before, shown) = match &wanted.cursor {
        Some(cursor) => (cursor.key, cursor.id.as_str()),
        None => {
            let exact = named_so(conn, text, wanted.limit)?;
            if exact.iter().any(is_wanted) {
                let next = exact.last().map(|row| Cursor { key: i64::MAX, id: row.id.as_str().to_owned() });
                return Ok(Found { rows: exact.into_iter().filter(is_wanted).collect(), next });
            }
            (i64::MAX, "")
        }
    };
    let is_left = |row: &Row| is_wanted(row) && !was_shown(row, text, shown);
    let mut rows = Vec::new();
    // FTS5 folds them as it folded what is in the index.
    let trigrams = rarest(conn, trigrams(text))?;
    if trigrams.is_empty() {
        return Ok(Found::default());
    }
    let mut select = conn.prepare_cached(
        "SELECT tenant_texts.n, tenant_texts.id, tenant_texts.text FROM tenant_search CROSS JOIN tenant_texts ON \
         tenant_texts.n = tenant_search.rowid WHERE tenant_search MATCH ?1 AND tenant_search.rowid < ?2 ORDER BY \
         tenant_search.rowid DESC LIMIT ?3",
    )?;
    // Most of what many have is of those that are active. Whoever is not is in a small index, and no more is read of others.
    let few = wanted.state.filter(|state| *state != State::Active).map(|state| {
        let filter = of_state(Some(state));
        conn.prepare_cached(&format!("SELECT 1 FROM tenants INDEXED BY tenants_by_state WHERE {filter}id = ?1"))
    });
    let mut few = few.transpose()?;
    let mut candidates = select.query(params![trigrams, before, COMPARED])?;
    let mut compared = 0;
    while let Some(candidate) = candidates.next()? {
        compared += 1;
        let (n, id): (i64, TenantId) = (candidate.get(0)?, candidate.get(1)?);
        let found: String = candidate.get(2)?;
        let is_among = few.as_mut().map_or(Ok(true), |few| few.exists([id.as_str()]))?;
        if is_among && sought.finds(&id, &found) {
            rows.extend(find(conn, &id)?.filter(is_left));
        }
        if rows.len() >= wanted.limit as usize || compared == COMPARED {
            return Ok(Found { rows, next: Some(Cursor { key: n, id: shown.to_owned() }) });
        }
    }
    Ok(Found { rows, next: None })
}

/// Those whose id or address a text is, as it is or in lower case.
fn named_so(conn: &Connection, text: &str, limit: u32) -> Sql<Vec<Row>> {
    if let Ok(id) = TenantId::parse(text.as_bytes())
        && let Some(row) = find(conn, &id)?
    {
        return Ok(vec![row]);
    }
    if !text.contains('@') {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT {COLUMNS} FROM tenants WHERE email IN (?1, ?2) ORDER BY id LIMIT ?3");
    all(conn, &sql, params![text, text.to_lowercase(), limit], tenant)
}

/// Whether a tenant was on the first page, as one of those that [`named_so`] has up to the id `shown`; that may be more
/// than a later page has room for.
fn was_shown(row: &Row, text: &str, shown: &str) -> bool {
    let id = row.id.as_str();
    if shown == text {
        // Whose id it is was there alone.
        return id == text;
    }
    let is_text = |email: &str| email == text || email == text.to_lowercase();
    id <= shown && row.profile.email.as_deref().is_some_and(is_text)
}

/// Lower case character by character, as FTS5 folds: in whole texts the case of a sigma depends on what follows it.
fn lowercase(text: &str) -> String {
    let folded = |c: char| match c {
        'ς' => 'σ',
        'ſ' => 's',
        // In two characters, which FTS5 does not make of it.
        'İ' => 'İ',
        c => c.to_lowercase().next().unwrap_or(c),
    };
    text.chars().map(folded).collect()
}

/// The trigrams of a text as FTS5 reads them, each once.
fn trigrams(text: &str) -> Vec<String> {
    // SQLite's strings end at a NUL.
    let chars: Vec<char> = text.chars().filter(|c| *c != '\0').take(LONGEST).collect();
    let quoted = |three: &[char]| format!("\"{}\"", three.iter().collect::<String>().replace('"', "\"\""));
    let mut seen = HashSet::new();
    chars.windows(SHORTEST).map(quoted).filter(|trigram| seen.insert(trigram.clone())).collect()
}

/// A query for the rarest of these, all of which must be there. Empty if there is none, or none has any text.
fn rarest(conn: &Connection, trigrams: Vec<String>) -> Sql<String> {
    let mut count = conn
        .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM tenant_search WHERE tenant_search MATCH ?1 LIMIT ?2)")?;
    let mut counted = Vec::with_capacity(trigrams.len());
    for trigram in trigrams {
        let texts: u32 = count.query_row(params![trigram, COMMON], |row| row.get(0))?;
        if texts == 0 {
            return Ok(String::new());
        }
        counted.push((texts, trigram));
    }
    let (common, mut rare): (Vec<_>, Vec<_>) = counted.into_iter().partition(|(texts, _)| *texts >= COMMON);
    rare.sort_by_key(|(texts, _)| *texts);
    rare.truncate(INTERSECTED);
    // Which of the common ones is the rarest would cost too much to tell. Neighbours are of the same word, which many have.
    let left = INTERSECTED - rare.len();
    rare.extend(spread(common, left));
    Ok(rare.into_iter().map(|(_, trigram)| trigram).collect::<Vec<_>>().join(" "))
}

/// So many of some, from the first to the last.
fn spread<T>(all: Vec<T>, most: usize) -> impl Iterator<Item = T> {
    let count = all.len();
    let taken = move |at: &usize| count <= most || (at * most) / count != ((at + 1) * most) / count;
    all.into_iter().enumerate().filter(move |(at, _)| taken(at)).map(|(_, one)| one)
}

/// Removes what is more than a page; says whether there was any.
fn cut(rows: &mut Vec<Row>, limit: u32) -> bool {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        for cursor in [Cursor { key: -7, id: "a~b".into() }, Cursor { key: 7, id: String::new() }] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for wrong in ["", "7", "x~ada", "~"] {
            wrong.parse::<Cursor>().unwrap_err();
        }
    }

    #[test]
    fn a_short_text_is_looked_for_at_the_beginning_of_ids_and_a_longer_one_anywhere() {
        let id: TenantId = "user_Ab".parse().unwrap();
        let finds = |text: &str| Sought::new(text).unwrap().finds(&id, "user_Ab\nada@Example.org\nAda Łukasik\n");
        for text in ["us", " u ", "user_Ab", "USER_AB", "@example.ORG", "łUK", "Ada ł"] {
            assert!(finds(text), "{text}");
        }
        for text in ["Us", "se", "@e", "elsewhere", "user_Abc"] {
            assert!(!finds(text), "{text}");
        }
        assert_eq!(Sought::new(" \t"), None);
        for (text, query) in [("İlker@example.com", "İLKER"), ("Roſe", "rose"), ("ΟΔΟΣ@x", "οδος@x"), ("οδος", "ΟΔΟΣ")]
        {
            assert!(Sought::new(query).unwrap().finds(&id, text), "{text} {query}");
        }
    }

    #[test]
    fn what_is_taken_of_many_is_spread_over_them() {
        let of = |count, most| spread((0..count).collect(), most).collect::<Vec<usize>>();
        assert_eq!(of(10, 5), [1, 3, 5, 7, 9]);
        assert_eq!(of(3, 5), [0, 1, 2]);
        assert!(of(10, 0).is_empty() && of(0, 5).is_empty());
        for count in 6..60 {
            assert_eq!(of(count, 5).len(), 5, "{count}");
            assert_eq!(of(count, 5).last(), Some(&(count - 1)));
        }
    }

    #[test]
    fn trigrams_are_words_to_fts5_whatever_is_in_them() {
        assert_eq!(trigrams("abcd"), [r#""abc""#, r#""bcd""#]);
        assert_eq!(trigrams(r#"a"*c"#), [r#""a""*""#, r#""""*c""#]);
        assert_eq!(trigrams("aaaa"), [r#""aaa""#]);
        assert!(trigrams("ab").is_empty() && trigrams("a\0b").is_empty());
    }
}
