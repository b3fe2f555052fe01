//! Parsing a delivery.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    clock::Millis,
    error::{Error, Result},
    identity::user::{User, WireUser, to_millis},
    tenants::id::TenantId,
};

/// A parsed delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `user.created` or `user.updated`, with the whole user.
    Seen {
        /// The user.
        user: User,
        /// Whether it is `user.created`.
        created: bool,
    },
    /// `user.deleted`.
    Gone {
        /// The deleted user.
        id: TenantId,
        /// When, if the event says so.
        at: Option<Millis>,
    },
    /// Any other type, and the user it names, if any.
    Other(Option<TenantId>),
}

impl Event {
    /// The tenant it is about.
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Seen { user, .. } => Some(&user.id),
            Self::Gone { id, .. } => Some(id),
            Self::Other(id) => id.as_ref(),
        }
    }

    /// The tenant that it changes, if it changes one.
    pub fn subject(&self) -> Option<&TenantId> {
        self.tenant().filter(|_| !matches!(self, Self::Other(_)))
    }
}

/// A delivery's type and event.
#[derive(Debug)]
pub struct Parsed {
    /// The event's type, for the record; empty if it has none.
    pub kind: String,
    /// The event, or why it can never be applied.
    pub event: Result<Event>,
}

/// The most characters of a type that are recorded.
const MAX_KIND: usize = 100;

/// Parses the body of a delivery that is verified.
pub fn parse(body: &[u8]) -> Parsed {
    let value: Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => {
            let why = Error::malformed("body", format!("the payload is not JSON: {error}"));
            return Parsed { kind: String::new(), event: Err(why) };
        }
    };
    let kind: String = value.get("type").and_then(Value::as_str).unwrap_or_default().chars().take(MAX_KIND).collect();
    let at = value.get("timestamp").and_then(Value::as_i64).map(to_millis);
    let data = value.get("data").unwrap_or(&Value::Null);
    // Data that is not an object counts as one without an id.
    let user = || WireUser::deserialize(data).unwrap_or_default().into_user(at);
    let event = match kind.as_str() {
        "" => Err(Error::invalid("type", "the payload has no type")),
        "user.created" => user().map(|user| Event::Seen { user, created: true }),
        "user.updated" => user().map(|user| Event::Seen { user, created: false }),
        "user.deleted" => user().map(|user| Event::Gone { id: user.id, at }),
        _ => Ok(Event::Other(about(data))),
    };
    Parsed { kind, event }
}

/// The user that an event of another type is about, so that a purge finds it.
fn about(data: &Value) -> Option<TenantId> {
    let id = data.get("user_id").or_else(|| data.get("public_user_data")?.get("user_id"))?;
    TenantId::parse(id.as_str()?.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_another_type_names_its_user() {
        let about = |body: &str| parse(body.as_bytes()).event.unwrap().tenant().map(ToString::to_string);
        assert_eq!(about(r#"{"type":"session.created","data":{"user_id":"user_1"}}"#).as_deref(), Some("user_1"));
        let membership =
            r#"{"type":"organizationMembership.created","data":{"public_user_data":{"user_id":"user_2"}}}"#;
        assert_eq!(about(membership).as_deref(), Some("user_2"));
        assert_eq!(about(r#"{"type":"role.created","data":{"user_id":"a/b"}}"#), None);
    }
}
