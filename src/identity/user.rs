//! The provider's user object, in webhooks and in its API.
//!
//! The provider may change the fields, so unknown fields are ignored, and a field of an unexpected type counts as
//! missing.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    catalog::{model::Profile, quota::Quota},
    clock::Millis,
    config::Size,
    error::{Error, Result},
    tenants::id::TenantId,
};

/// A user of the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The id, which is also the tenant's.
    pub id: TenantId,
    /// Name, email address and so on.
    pub profile: Profile,
}

/// The fields of a user object that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WireUser {
    id: Lenient<String>,
    primary_email_address_id: Lenient<String>,
    email_addresses: Lenient<Vec<Lenient<Address>>>,
    first_name: Lenient<String>,
    last_name: Lenient<String>,
    username: Lenient<String>,
    image_url: Lenient<String>,
    public_metadata: Lenient<serde_json::Map<String, Value>>,
    updated_at: Lenient<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    id: Lenient<String>,
    email_address: Lenient<String>,
}

impl WireUser {
    /// The id, which may not be a tenant's.
    pub fn raw_id(&self) -> Option<&str> {
        self.id.0.as_deref()
    }

    /// Parses the user; `event_at` is the time of the event, if the object came in one.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for an id that is missing or cannot be a tenant's.
    pub fn into_user(self, event_at: Option<Millis>) -> Result<User> {
        let id = self.id.0.as_deref().ok_or_else(|| Error::invalid("data.id", "data.id is missing"))?;
        let id = TenantId::parse(id.as_bytes()).map_err(|e| Error::invalid("data.id", format!("data.id: {e}")))?;
        Ok(User { id, profile: self.into_profile(event_at) })
    }

    fn into_profile(self, event_at: Option<Millis>) -> Profile {
        let email = self.primary_email().and_then(clean);
        let metadata = self.public_metadata.0.filter(|metadata| !metadata.is_empty());
        let role = metadata.as_ref().and_then(|m| m.get("role")).and_then(Value::as_str).and_then(clean);
        let text = |text: Lenient<String>| text.0.as_deref().and_then(clean);
        Profile {
            email,
            first_name: text(self.first_name),
            last_name: text(self.last_name),
            username: text(self.username),
            image_url: text(self.image_url),
            role,
            provider_updated_at: self.updated_at.0.map(to_millis),
            provider_event_at: event_at,
            provider_metadata: metadata.map(|metadata| Value::Object(metadata).to_string()),
        }
    }

    fn primary_email(&self) -> Option<&str> {
        let primary = self.primary_email_address_id.0.as_deref();
        let addresses: Vec<&Address> = self.email_addresses.0.iter().flatten().filter_map(|a| a.0.as_ref()).collect();
        // Without a primary one, as in Clerk's examples, the first.
        let named = addresses.iter().find(|address| primary.is_some() && address.id.0.as_deref() == primary);
        named.or(addresses.first())?.email_address.0.as_deref()
    }
}

/// What a user's public metadata say of their quota: `{"cubby": {"quota": "5GiB", "rate": "100/s"}}`, where `quota` may be a
/// number of bytes, too. The provider lets only the app's own servers write them.
pub fn quota(metadata: &str) -> Quota {
    let metadata: Value = serde_json::from_str(metadata).unwrap_or_default();
    let plan = &metadata["cubby"];
    let bytes = match &plan["quota"] {
        Value::Number(bytes) => bytes.as_u64(),
        Value::String(text) => text.parse::<Size>().ok().map(|size| size.0),
        _ => None,
    };
    Quota { bytes, rate: plan["rate"].as_str().and_then(|rate| rate.parse().ok()) }
}

/// Removes control characters, which a terminal that lists users would execute.
fn clean(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    Some(text).filter(|text| !text.is_empty())
}

/// Milliseconds of a time in seconds or in milliseconds: Clerk's specification has the one, its guides the other. As
/// milliseconds, a number of seconds would be before 1973.
pub fn to_millis(time: i64) -> Millis {
    const NO_MILLISECONDS_BEFORE: i64 = 100_000_000_000;
    if time < NO_MILLISECONDS_BEFORE { time.saturating_mul(1000) } else { time }
}

/// A value; none if it has another type.
#[derive(Debug)]
struct Lenient<T>(Option<T>);

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Self(T::deserialize(Value::deserialize(deserializer)?).ok()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quota_in_public_metadata_is_read_and_what_is_not_one_counts_as_missing() {
        let of = |bytes, rate: Option<&str>| Quota { bytes, rate: rate.map(|rate| rate.parse().unwrap()) };
        for (metadata, expected) in [
            (json!({"cubby": {"quota": "5GiB", "rate": "100/s:400"}}), of(Some(5 << 30), Some("100/s:400"))),
            (json!({"cubby": {"quota": 1024}, "role": "admin"}), of(Some(1024), None)),
            (json!({"cubby": {"quota": 0, "rate": "off"}}), of(Some(0), Some("off"))),
            (json!({"cubby": {"quota": -1, "rate": "much"}}), of(None, None)),
            (json!({"cubby": {"quota": 1.5, "rate": 7}}), of(None, None)),
            (json!({"cubby": {"quota": {"bytes": 1}, "rate": "1/s"}}), of(None, Some("1/s"))),
            (json!({"cubby": [1]}), of(None, None)),
            (json!({"quota": 1}), of(None, None)),
            (json!("x"), of(None, None)),
        ] {
            assert_eq!(quota(&metadata.to_string()), expected, "{metadata}");
        }
        assert_eq!(quota("{"), Quota::default());
    }

    #[test]
    fn a_field_of_another_type_counts_as_missing() {
        let user = json!({
            "id": "u", "first_name": 7, "last_name": null, "username": ["x"], "updated_at": "soon",
            "email_addresses": [null, 3, {"id": 1, "email_address": "a@x"}], "public_metadata": "none",
            "primary_email_address_id": {}, "brand_new": {"deep": [1, 2]},
        });
        let profile = serde_json::from_value::<WireUser>(user).unwrap().into_user(None).unwrap().profile;
        assert_eq!(profile, Profile { email: Some("a@x".into()), ..Profile::default() });
    }
}
