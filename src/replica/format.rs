//! What the copy in the bucket is made of: its identity, the paths of its objects, and the keys in its shards.
//!
//! | object | content |
//! |---|---|
//! | `meta/format.json` | [`Format`]: whose copy it is and how it is divided; made once |
//! | `shard/NN.<generation>/…` | the database of a shard: entries and heads |
//! | `base/<tenant>/<epoch>-<seq>-<sha256>.sqlite.zst` | a whole database file; with `.sealed` behind it if it is encrypted |
//! | `big/<tenant>/<epoch>-<seq>-<sha256>` | the payload of an entry that is too long for a shard |
//!
//! In a shard, `t/<tenant>/<epoch>/<seq>` is an entry and `h/<tenant>` the head of a tenant's chain. Epoch and seq are
//! sixteen hexadecimal digits, so that the order of the keys is that of the entries.
//!
//! A `|` of a tenant's id is a `!` in the path of an object, since object stores escape the former, each in its way; no
//! id has the latter.

use std::ops::Range;

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    clock::{Millis, wire},
    error::{Error, Result},
};

/// Where [`Format`] stands.
pub const FORMAT_PATH: &str = "meta/format.json";
/// The number of shards.
pub const SHARDS: u8 = 16;
/// The catalog's name among the tenants. No id begins with `@`.
pub const CATALOG: &str = "@catalog";

const VERSION: u32 = 1;
const KIND: &str = "replica";
const BASE: &str = ".sqlite.zst";
const SEALED: &str = ".sealed";

/// Whose copy it is and how it is divided: `meta/format.json`, which never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "a name of the object's")]
pub struct Format {
    format: u32,
    kind: String,
    /// What tells this installation from others: 32 hexadecimal digits.
    pub installation: String,
    shards: u8,
    /// When the copy was begun.
    #[serde(with = "wire")]
    pub created: Millis,
}

impl Format {
    /// That of a copy that begins now, with a random name for the installation.
    pub fn begin(now: Millis) -> Result<Self> {
        let mut name = [0; 16];
        rand::fill(&mut name).map_err(|_| Error::internal("the system gives no random bytes: start again"))?;
        Ok(Self { format: VERSION, kind: KIND.into(), installation: hex::encode(name), shards: SHARDS, created: now })
    }

    /// The text of the object.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal("meta/format.json cannot be written").with_source(e))
    }

    /// Reads what [`Format::encode`] wrote.
    pub fn parse(text: &[u8]) -> Result<Self> {
        /// What a copy of any version has.
        #[derive(Deserialize)]
        struct Any {
            format: u32,
            kind: String,
        }
        let unreadable = || {
            "meta/format.json in object storage is not what cubby writes: choose another prefix in CUBBY_REPLICATE, or \
             put the object back as it was"
        };
        let any: Any = serde_json::from_slice(text).map_err(|e| Error::config(unreadable()).with_source(e))?;
        if any.kind != KIND {
            return Err(Error::config(format!(
                "what is in object storage is no replica but {:?}: choose another prefix in CUBBY_REPLICATE",
                any.kind
            )));
        }
        if any.format != VERSION {
            return Err(Error::config(format!(
                "the copy in object storage has format {}, and this version of cubby knows only format {VERSION}: use \
                 the version that wrote it, or choose another prefix in CUBBY_REPLICATE",
                any.format
            )));
        }
        let format: Self = serde_json::from_slice(text).map_err(|e| Error::config(unreadable()).with_source(e))?;
        let is_named = format.installation.len() == 32 && format.installation.bytes().all(is_digit);
        if !is_named || format.shards != SHARDS {
            return Err(Error::config(unreadable()));
        }
        Ok(format)
    }
}

/// The epoch of a chain that begins now, greater than `previous`, even if the clock was set back: the time in milliseconds,
/// and a counter in the lower sixteen bits.
pub fn next_epoch(previous: Option<u64>, now: Millis) -> u64 {
    let now = u64::try_from(now).unwrap_or(0).min(u64::MAX >> 17) << 16;
    previous.map_or(now, |previous| now.max(previous.saturating_add(1)))
}

/// About when an epoch began.
pub fn epoch_began(epoch: u64) -> Millis {
    Millis::try_from(epoch >> 16).unwrap_or(Millis::MAX)
}

/// The shard that has a tenant.
pub fn shard_of(tenant: &str) -> u8 {
    Sha256::digest(tenant)[0] / (u8::MAX / SHARDS + 1)
}

/// Where an entry stands: its tenant, its epoch and its number in the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The tenant's id, or [`CATALOG`].
    pub tenant: &'a str,
    /// The epoch.
    pub epoch: u64,
    /// From 1 in each epoch.
    pub seq: u64,
}

impl Place<'_> {
    /// The key of the entry.
    pub fn key(&self) -> String {
        entry_key(self.tenant, self.epoch, self.seq)
    }

    /// The path of a base that is the file as of this entry. `sha256` is that of the file itself.
    pub fn base_path(&self, sha256: &[u8; 32], sealed: bool) -> String {
        let ending = if sealed { SEALED } else { "" };
        format!(
            "{}{:016x}-{:016x}-{}{BASE}{ending}",
            base_prefix(self.tenant),
            self.epoch,
            self.seq,
            hex::encode(sha256)
        )
    }

    /// The path of this entry's payload. `sha256` is that of the object.
    pub fn big_path(&self, sha256: &[u8; 32]) -> String {
        format!("{}{:016x}-{:016x}-{}", big_prefix(self.tenant), self.epoch, self.seq, hex::encode(sha256))
    }
}

/// Where the bases of a tenant are.
pub fn base_prefix(tenant: &str) -> String {
    format!("base/{}/", tenant.replace('|', "!"))
}

/// Where the long payloads of a tenant are.
pub fn big_prefix(tenant: &str) -> String {
    format!("big/{}/", tenant.replace('|', "!"))
}

/// Whether what is at a path is encrypted.
pub fn is_sealed(path: &str) -> bool {
    path.ends_with(SEALED)
}

/// What the path of a base or of a long payload says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// The tenant's id, or [`CATALOG`].
    pub tenant: String,
    /// The epoch.
    pub epoch: u64,
    /// The entry that it belongs to.
    pub seq: u64,
    /// Of the file, if it is a base; else of the object.
    pub sha256: [u8; 32],
    /// Whether a base is encrypted. Whether a payload is, its entry says.
    pub sealed: bool,
}

/// What a path of [`Place::base_path`] says. None for any other path.
pub fn parse_base_path(path: &str) -> Option<ObjectName> {
    let (path, sealed) = path.strip_suffix(SEALED).map_or((path, false), |path| (path, true));
    parse_object(path.strip_prefix("base/")?.strip_suffix(BASE)?, sealed)
}

/// What a path of [`Place::big_path`] says. None for any other path.
pub fn parse_big_path(path: &str) -> Option<ObjectName> {
    parse_object(path.strip_prefix("big/")?, false)
}

fn parse_object(path: &str, sealed: bool) -> Option<ObjectName> {
    let (tenant, name) = path.split_once('/')?;
    let mut parts = name.split('-');
    let (epoch, seq, digest) = (parse_hex(parts.next()?)?, parse_hex(parts.next()?)?, parts.next()?);
    let mut sha256 = [0; 32];
    hex::decode_to_slice(digest, &mut sha256).ok().filter(|()| digest.bytes().all(is_digit))?;
    let is_whole = parts.next().is_none() && !tenant.is_empty() && !tenant.contains('|');
    is_whole.then(|| ObjectName { tenant: tenant.replace('!', "|"), epoch, seq, sha256, sealed })
}

/// Where the database of a shard is. It begins anew, in a new generation, when it is damaged.
pub fn shard_path(number: u8, generation: u64) -> String {
    format!("shard/{number:02}.{generation}")
}

/// The shard and the generation of a path in or of [`shard_path`], with the folder `shard/` or without.
pub fn parse_shard_path(path: &str) -> Option<(u8, u64)> {
    let name = path.strip_prefix("shard/").unwrap_or(path).split('/').next()?;
    let (number, generation) = name.split_once('.')?;
    let found = (number.parse().ok().filter(|number| *number < SHARDS)?, generation.parse().ok()?);
    (shard_path(found.0, found.1) == format!("shard/{name}")).then_some(found)
}

/// The key of an entry.
pub fn entry_key(tenant: &str, epoch: u64, seq: u64) -> String {
    format!("t/{tenant}/{epoch:016x}/{seq:016x}")
}

/// Whose entry a key is: tenant, epoch and seq. None for any other key.
pub fn parse_entry_key(key: &[u8]) -> Option<(&str, u64, u64)> {
    let mut parts = std::str::from_utf8(key).ok()?.strip_prefix("t/")?.split('/');
    let found = (parts.next()?, parse_hex(parts.next()?)?, parse_hex(parts.next()?)?);
    (parts.next().is_none() && !found.0.is_empty()).then_some(found)
}

/// The key of the head of a tenant's chain.
pub fn head_key(tenant: &str) -> String {
    format!("h/{tenant}")
}

/// Whose head a key is. None for any other key.
pub fn parse_head_key(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key).ok()?.strip_prefix("h/").filter(|tenant| !tenant.is_empty() && !tenant.contains('/'))
}

/// The keys of all heads after that of a tenant.
pub fn head_range(after: Option<&str>) -> Range<String> {
    // The least key after another has a zero more.
    after.map_or_else(|| "h/".to_owned(), |after| head_key(after) + "\0").."h0".to_owned()
}

/// The keys of a tenant's entries, both ends included. The byte after `/` is `0`.
pub fn entry_range(tenant: &str, from: Option<(u64, u64)>, to: Option<(u64, u64)>) -> Range<String> {
    let start = from.map_or_else(|| format!("t/{tenant}/"), |(epoch, seq)| entry_key(tenant, epoch, seq));
    let end = to.map_or_else(|| format!("t/{tenant}0"), |(epoch, seq)| entry_key(tenant, epoch, seq) + "\0");
    start..end
}

/// The keys of a tenant's entries of one epoch.
pub fn epoch_range(tenant: &str, epoch: u64) -> Range<String> {
    entry_range(tenant, Some((epoch, 0)), Some((epoch, u64::MAX)))
}

fn parse_hex(text: &str) -> Option<u64> {
    let is_number = text.len() == 16 && text.bytes().all(is_digit);
    is_number.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_format_is_read_as_it_was_written_and_others_are_refused_with_what_to_do() {
        let format = Format::begin(1_700_000_000_123).unwrap();
        let text = format.encode().unwrap();
        assert_eq!(Format::parse(&text).unwrap(), format);
        assert_ne!(Format::begin(0).unwrap().installation, Format::begin(0).unwrap().installation);

        let text = String::from_utf8(text).unwrap();
        for (found, other, says) in [
            ("\"format\":1", "\"format\":2", "format 2"),
            ("\"replica\"", "\"backup\"", "backup"),
            ("\"shards\":16", "\"shards\":8", "CUBBY_REPLICATE"),
            (&*format.installation, "A0", "CUBBY_REPLICATE"),
            ("{", "", "CUBBY_REPLICATE"),
        ] {
            assert!(text.contains(found), "{found} in {text}");
            let error = Format::parse(text.replace(found, other).as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.message().contains(says), "{}", error.message());
        }
    }

    #[test]
    fn epochs_grow_whatever_the_clock_does() {
        assert_eq!(next_epoch(None, 5), 5 << 16);
        assert_eq!(next_epoch(Some(5 << 16), 5), (5 << 16) + 1);
        assert_eq!(next_epoch(Some(5 << 16), 4), (5 << 16) + 1);
        assert_eq!(next_epoch(Some(5 << 16), 6), 6 << 16);
        assert_eq!(next_epoch(None, -1), 0);
        assert_eq!(epoch_began((6 << 16) + 7), 6);
        let last = next_epoch(None, Millis::MAX);
        assert!(next_epoch(Some(last), Millis::MAX) > last);
    }

    #[test]
    fn the_shard_of_a_name_is_fixed() {
        let shards: Vec<u8> = [CATALOG, "ada", "grace", "user_2abCD"].map(shard_of).into();
        let expected: Vec<u8> = [CATALOG, "ada", "grace", "user_2abCD"].map(|name| Sha256::digest(name)[0] >> 4).into();
        assert_eq!(shards, expected);
    }

    #[test]
    fn other_keys_and_paths_are_not_read() {
        for key in [
            "",
            "t/",
            "t/a/0/1",
            "h/a",
            "t//0000000000000001/0000000000000001",
            "t/a/000000000000000A/0000000000000001",
        ] {
            assert_eq!(parse_entry_key(key.as_bytes()), None, "{key}");
        }
        assert_eq!(parse_entry_key(b"t/a/+000000000000001/0000000000000001"), None);
        assert_eq!(parse_entry_key(&[b't', b'/', 0xff]), None);
        assert_eq!(
            (parse_head_key(b"h/ada"), parse_head_key(b"h/"), parse_head_key(b"h/a/b")),
            (Some("ada"), None, None)
        );
        for path in ["", "base/", "base/a/x.sqlite.zst", "shard/00.0", "big/a/1-2-3"] {
            assert_eq!((parse_base_path(path), parse_big_path(path)), (None, None), "{path}");
        }
        assert_eq!(parse_shard_path(&format!("{}/wal/1.sst", shard_path(3, 12))), Some((3, 12)));
        assert_eq!(parse_shard_path("15.0"), Some((15, 0)));
        for path in ["shard/16.0", "shard/3.0", "shard/03", "shard/03.01", "shard/03.x", "base/03.0"] {
            assert_eq!(parse_shard_path(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn keys_and_paths_are_read_as_they_were_written(
            tenant in "[a-zA-Z0-9_.:|+-][a-zA-Z0-9_.@:|+-]{0,127}", epoch in any::<u64>(), seq in any::<u64>(),
            sha256 in any::<[u8; 32]>(), sealed in any::<bool>(),
        ) {
            let place = Place { tenant: &tenant, epoch, seq };
            let (key, head) = (place.key(), head_key(&tenant));
            prop_assert_eq!(parse_entry_key(key.as_bytes()), Some((&*tenant, epoch, seq)));
            prop_assert_eq!(parse_head_key(head.as_bytes()), Some(&*tenant));
            let path = place.base_path(&sha256, sealed);
            prop_assert_eq!(is_sealed(&path), sealed);
            prop_assert!(!path.contains('|') && path.starts_with(&base_prefix(&tenant)));
            let mut name = ObjectName { tenant: tenant.clone(), epoch, seq, sha256, sealed };
            prop_assert_eq!(parse_base_path(&path), Some(name.clone()));
            name.sealed = false;
            prop_assert_eq!(parse_big_path(&place.big_path(&sha256)), Some(name));
            prop_assert!(shard_of(&tenant) < SHARDS);
        }

        #[test]
        fn ranges_have_what_they_say_in_the_order_of_the_entries(
            one in (any::<u64>(), any::<u64>()), other in (any::<u64>(), any::<u64>()), more in "[a-z+.-]{1,3}",
        ) {
            let key = |place: (u64, u64)| entry_key("ada", place.0, place.1);
            prop_assert_eq!(one.cmp(&other), key(one).cmp(&key(other)));
            let has = |range: Range<String>, key: String| range.contains(&key);
            prop_assert!(has(entry_range("ada", None, None), key(one)));
            prop_assert!(has(epoch_range("ada", one.0), key(one)));
            prop_assert_eq!(has(epoch_range("ada", one.0), key(other)), one.0 == other.0);
            prop_assert!(has(entry_range("ada", Some(one), Some(one)), key(one)));
            prop_assert_eq!(has(entry_range("ada", Some(one), None), key(other)), one <= other);
            prop_assert_eq!(has(entry_range("ada", None, Some(one)), key(other)), other <= one);
            // No other tenant's entries, whose id may begin with this one's.
            let other = format!("ada{more}");
            prop_assert!(!has(entry_range("ada", None, None), entry_key(&other, one.0, one.1)));
            prop_assert!(!has(entry_range("ada", None, None), head_key("ada")));
            prop_assert!(has(head_range(None), head_key("ada")));
            prop_assert!(!has(head_range(Some("ada")), head_key("ada")));
            prop_assert!(has(head_range(Some("ada")), head_key(&other)));
        }
    }
}
