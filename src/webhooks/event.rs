//! What a delivery says, as far as it concerns us. Unknown fields are ignored, and a field of an
//! unexpected type is as if it were missing: the sender may add and change what we do not use.

use serde_json::Value;

use crate::{
    catalog::model::Profile,
    clock::Millis,
    error::{Error, Result},
    tenants::id::TenantId,
};

/// A parsed delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `user.created`.
    Created(TenantId, Profile),
    /// Everything else.
    Other,
}

/// The type of a delivery and what it says.
#[derive(Debug)]
pub struct Parsed {
    /// The event's type, for the record; empty if it has none.
    pub kind: String,
    /// What it says, or why it can never be applied.
    pub event: Result<Event>,
}

/// Parses the body of a delivery that is verified.
pub fn parse(body: &[u8]) -> Parsed {
    let value: Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => {
            let why = Error::malformed("body", format!("the payload is not JSON: {error}"));
            return Parsed { kind: String::new(), event: Err(why) };
        }
    };
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let event = match kind.as_str() {
        "" => Err(Error::invalid("type", "the payload has no type")),
        "user.created" => user(&value).map(|(id, profile)| Event::Created(id, profile)),
        _ => Ok(Event::Other),
    };
    Parsed { kind, event }
}

fn user(event: &Value) -> Result<(TenantId, Profile)> {
    let data = event.get("data").unwrap_or(&Value::Null);
    let id = data.get("id").and_then(Value::as_str).ok_or_else(|| Error::invalid("data.id", "data.id is missing"))?;
    let id = TenantId::parse(id.as_bytes()).map_err(|e| Error::invalid("data.id", format!("data.id: {e}")))?;
    Ok((id, profile(data, event.get("timestamp").and_then(Value::as_i64))))
}

/// A user object, as webhooks and the backend API write it.
pub fn profile(user: &Value, event_at: Option<i64>) -> Profile {
    let text = |name: &str| user.get(name).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
    let metadata = user.get("public_metadata").filter(|m| m.as_object().is_some_and(|m| !m.is_empty()));
    let role = metadata.and_then(|m| m.get("role")).and_then(Value::as_str).filter(|s| !s.is_empty());
    Profile {
        email: primary_email(user),
        first_name: text("first_name"),
        last_name: text("last_name"),
        username: text("username"),
        image_url: text("image_url"),
        role: role.map(str::to_owned),
        provider_updated_at: user.get("updated_at").and_then(Value::as_i64).map(to_millis),
        provider_event_at: event_at.map(to_millis),
        provider_metadata: metadata.map(Value::to_string),
    }
}

fn primary_email(user: &Value) -> Option<String> {
    let primary = user.get("primary_email_address_id").and_then(Value::as_str);
    let addresses = user.get("email_addresses").and_then(Value::as_array)?;
    // Clerk names the primary one; without a name the first is meant. Its own examples have none.
    let address = addresses
        .iter()
        .find(|address| primary.is_some() && address.get("id").and_then(Value::as_str) == primary)
        .or_else(|| addresses.first())?;
    address.get("email_address").and_then(Value::as_str).map(str::to_owned)
}

/// Clerk's specification gives event times in seconds, its guides in milliseconds. Read as
/// milliseconds, a number of seconds is before 1973.
fn to_millis(time: i64) -> Millis {
    const NO_MILLISECONDS_BEFORE: i64 = 100_000_000_000;
    if time < NO_MILLISECONDS_BEFORE { time.saturating_mul(1000) } else { time }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_milliseconds_are_told_apart() {
        assert_eq!(to_millis(1_716_883_200), 1_716_883_200_000);
        assert_eq!(to_millis(1_716_883_200_123), 1_716_883_200_123);
    }

    #[test]
    fn the_named_address_is_the_primary_one() {
        let user = serde_json::json!({
            "primary_email_address_id": "b",
            "email_addresses": [{"id": "a", "email_address": "a@x"}, {"id": "b", "email_address": "b@x"}],
            "public_metadata": {"role": "admin"},
        });
        let profile = profile(&user, None);
        assert_eq!((profile.email.as_deref(), profile.role.as_deref()), (Some("b@x"), Some("admin")));
    }

    #[test]
    fn what_can_never_be_applied_says_why() {
        for (body, field) in [
            ("{", "body"),
            ("{}", "type"),
            (r#"{"type":"user.created"}"#, "data.id"),
            (r#"{"type":"user.created","data":{"id":"a/b"}}"#, "data.id"),
            (r#"{"type":"user.created","data":{"id":7}}"#, "data.id"),
        ] {
            assert_eq!(parse(body.as_bytes()).event.unwrap_err().field(), Some(field), "{body}");
        }
    }
}
