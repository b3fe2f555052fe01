//! The syntax of a tenant's id. A [`TenantId`] is made only by parsing, so it is safe in a path, a log line and a
//! header.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The longest id, in bytes.
pub const MAX_LEN: usize = 128;

/// First path segments that belong to the server, which an id may not be. The list has more than is mounted today, so
/// that it need not grow. Sorted, for binary search.
pub const RESERVED: &[&str] = &[
    "admin",
    "api",
    "assets",
    "docs",
    "favicon.ico",
    "healthz",
    "metrics",
    "openapi.json",
    "readyz",
    "robots.txt",
    "static",
    "webhooks",
];

/// The id of a tenant: 1–128 bytes of `A-Z a-z 0-9 _ - . @ : | +`, not `.` or `..`, not one of the
/// [`RESERVED`] words. Case matters: Clerk's `user_…` ids differ by case alone.
///
/// ```
/// use cubby::TenantId;
/// let id: TenantId = "user_2abCD".parse()?;
/// assert_eq!(id.as_str(), "user_2abCD");
/// assert!("../etc/passwd".parse::<TenantId>().is_err());
/// # Ok::<(), cubby::tenants::id::InvalidId>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "server", schema(value_type = String, description = "A user's id", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$"))]
pub struct TenantId(Arc<str>);

/// Why a text is not a tenant's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidId {
    /// Empty, or longer than [`MAX_LEN`] bytes.
    Length,
    /// A byte outside the alphabet.
    Alphabet,
    /// `.`, `..`, or one of the [`RESERVED`] words.
    Reserved,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a user id has 1 to 128 bytes",
            Self::Alphabet => "a user id consists of A-Z a-z 0-9 _ - . @ : | +",
            Self::Reserved => "this word is reserved and cannot be a user id",
        })
    }
}

impl std::error::Error for InvalidId {}

impl TenantId {
    /// Parses bytes, such as of a URL after percent-decoding.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidId> {
        if bytes.is_empty() || bytes.len() > MAX_LEN {
            return Err(InvalidId::Length);
        }
        let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@' | b':' | b'|' | b'+');
        if !bytes.iter().all(legal) {
            return Err(InvalidId::Alphabet);
        }
        // The alphabet is ASCII, so this cannot fail.
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidId::Alphabet)?;
        if text == "." || text == ".." || RESERVED.binary_search(&text).is_ok() {
            return Err(InvalidId::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::parse(text.as_bytes())
    }
}

impl Borrow<str> for TenantId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl serde::Serialize for TenantId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Parses: a text that is not an id is an error.
impl<'de> serde::Deserialize<'de> for TenantId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A visitor: a `Cow` or a `String` would copy the text.
        struct Id;
        impl serde::de::Visitor<'_> for Id {
            type Value = TenantId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a user id")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TenantId, E> {
                TenantId::parse(text.as_bytes()).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Id)
    }
}
