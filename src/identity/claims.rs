//! What a session token says, and whether that is enough. Pure: the time is an argument.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};

use crate::{clock::Millis, tenants::id::TenantId};

/// How far the issuer's clock and ours may be apart. Clerk's tokens live for sixty seconds; the
/// customary leeway of sixty would double that.
pub const LEEWAY: Millis = 5_000;

/// The category in the header of Clerk's tokens, `cat`: session tokens, session tokens by a
/// template, and machine tokens. Only the first two stand for a user. Absent from other issuers'.
const CLERK_SESSION: [&str; 2] = ["cl_B7d4PD111AAA", "cl_B7d4PD222AAA"];

/// Why a token is not believed, in words for whoever sent it. Says nothing of our keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal(pub &'static str);

/// The protected header, as far as it concerns us.
#[derive(Debug, Deserialize)]
pub struct Header {
    /// The algorithm it claims to be signed with.
    pub alg: String,
    /// The key it claims to be signed with.
    pub kid: Option<String>,
    cat: Option<String>,
    crit: Option<de::IgnoredAny>,
}

impl Header {
    /// RS256 and nothing else: a token does not choose how it is verified (RFC 8725, 3.1).
    pub fn check(&self) -> Result<(), Refusal> {
        if self.alg != "RS256" {
            return Err(Refusal("only RS256 is accepted"));
        }
        if self.crit.is_some() {
            return Err(Refusal("the token asks for an extension that is not understood"));
        }
        match self.cat.as_deref() {
            None => Ok(()),
            Some(cat) if CLERK_SESSION.contains(&cat) => Ok(()),
            Some(_) => Err(Refusal("only session tokens are accepted, not machine tokens")),
        }
    }
}

/// The claims that decide. A claim given twice or of another type is refused in parsing.
#[derive(Debug, Deserialize)]
pub struct Claims {
    iss: String,
    sub: String,
    #[serde(deserialize_with = "seconds")]
    exp: Millis,
    #[serde(deserialize_with = "seconds")]
    nbf: Millis,
    azp: Option<String>,
    aud: Option<Audience>,
    sts: Option<String>,
    act: Option<Actor>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct Actor {
    sub: Option<String>,
}

/// A user who has proven who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whose database it opens.
    pub user: TenantId,
    /// When the proof ends, leeway included.
    pub until: Millis,
    /// Who acts in the user's name, if it is not the user.
    pub actor: Option<Arc<str>>,
}

/// Which tokens are meant for us.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `iss` must be this.
    pub issuer: String,
    /// `azp`, if a token has one, must be one of these; any when there are none.
    pub parties: Vec<String>,
    /// `aud`, if a token has one, must name one of these (RFC 7519, 4.1.3).
    pub audience: Vec<String>,
}

impl Rules {
    /// Whether a token with these claims, properly signed, is believed at `now`.
    pub fn check(&self, claims: Claims, now: Millis) -> Result<Session, Refusal> {
        if claims.iss != self.issuer {
            return Err(Refusal("the token is by another issuer"));
        }
        let until = claims.exp.saturating_add(LEEWAY);
        if now >= until {
            return Err(Refusal("the token has expired"));
        }
        if claims.nbf > now.saturating_add(LEEWAY) {
            return Err(Refusal("the token is not valid yet"));
        }
        // Clerk leaves `azp` out when the browser sent no Origin.
        if let Some(party) = &claims.azp
            && !self.parties.is_empty()
            && !self.parties.contains(party)
        {
            return Err(Refusal("the token was made for another application"));
        }
        let ours = |name: &String| self.audience.contains(name);
        let for_us = match &claims.aud {
            None => true,
            Some(Audience::One(name)) => ours(name),
            Some(Audience::Many(names)) => names.iter().any(ours),
        };
        if !for_us {
            return Err(Refusal("the token is for another audience"));
        }
        if claims.sts.as_deref() == Some("pending") {
            return Err(Refusal("the session is pending: the user has not finished signing in"));
        }
        let user = TenantId::parse(claims.sub.as_bytes()).map_err(|_| Refusal("the token's subject is no user id"))?;
        let actor = claims.act.map(|actor| actor.sub.unwrap_or_default().into());
        Ok(Session { user, until, actor })
    }
}

/// A NumericDate (RFC 7519, 2): a number of seconds, whole or not. Never a string.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Millis, D::Error> {
    let seconds = f64::deserialize(from)?;
    // Past the year 5000 there is nothing to tell apart, and the product stays exact.
    match (0.0..1e11).contains(&seconds) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 1e14")]
        true => Ok((seconds * 1000.0) as Millis),
        false => Err(de::Error::custom("not a time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: Millis = 1_700_000_000_000;

    fn rules() -> Rules {
        Rules {
            issuer: "https://issuer.example".into(),
            parties: vec!["https://app.example".into()],
            audience: vec!["cubby".into()],
        }
    }

    fn base() -> Value {
        json!({"iss": "https://issuer.example", "sub": "ada", "exp": NOW / 1000 + 60, "nbf": NOW / 1000})
    }

    fn verdict(change: impl FnOnce(&mut Value)) -> Result<Session, &'static str> {
        let mut claims = base();
        change(&mut claims);
        let claims = serde_json::from_str(&claims.to_string()).map_err(|_| "unparsable")?;
        rules().check(claims, NOW).map_err(|refusal| refusal.0)
    }

    #[test]
    fn a_good_token_is_believed_until_it_expires() {
        let session = verdict(|_| {}).unwrap();
        assert_eq!((session.user.as_str(), session.until), ("ada", NOW + 65_000));
        assert_eq!(session.actor, None);
    }

    #[test]
    fn each_missing_claim_is_refused() {
        for name in ["iss", "sub", "exp", "nbf"] {
            assert!(verdict(|claims| drop(claims.as_object_mut().unwrap().remove(name))).is_err(), "{name}");
        }
    }

    #[test]
    fn times_are_numbers_and_within_five_seconds() {
        for bad in [json!("1900000000"), json!(null), json!(-1), json!([1]), json!(1e300), json!(true)] {
            assert!(verdict(|claims| claims["exp"] = bad.clone()).is_err(), "exp {bad}");
            assert!(verdict(|claims| claims["nbf"] = bad.clone()).is_err(), "nbf {bad}");
        }
        assert!(verdict(|claims| claims["exp"] = json!(NOW / 1000 - 4)).is_ok());
        assert!(verdict(|claims| claims["exp"] = json!(NOW / 1000 - 5)).is_err());
        assert!(verdict(|claims| claims["nbf"] = json!(NOW / 1000 + 5)).is_ok());
        assert!(verdict(|claims| claims["nbf"] = json!(NOW / 1000 + 6)).is_err());
        assert!(verdict(|claims| claims["exp"] = json!(1_700_000_000.5)).is_ok());
    }

    #[test]
    fn a_token_for_somebody_else_is_refused() {
        let refused = |name: &str, value: Value| verdict(|claims| claims[name] = value).is_err();
        assert!(refused("iss", json!("https://issuer.example/")));
        assert!(refused("iss", json!(["https://issuer.example"])));
        assert!(refused("azp", json!("https://evil.example")));
        assert!(!refused("azp", json!("https://app.example")));
        assert!(refused("aud", json!("another")));
        assert!(refused("aud", json!([])));
        assert!(!refused("aud", json!(["another", "cubby"])));
        assert!(refused("sts", json!("pending")));
        assert!(!refused("sts", json!("active")));
        for sub in ["", "../ada", "a/b", "admin", "a\0", "é", &"a".repeat(129)] {
            assert!(refused("sub", json!(sub)), "{sub:?}");
        }
    }

    #[test]
    fn who_acts_for_a_user_is_kept() {
        let session = verdict(|claims| claims["act"] = json!({"sub": "user_admin"})).unwrap();
        assert_eq!(session.actor.as_deref(), Some("user_admin"));
    }

    #[test]
    fn a_claim_given_twice_is_refused() {
        let text = base().to_string().replacen('{', r#"{"sub":"eve","#, 1);
        assert!(serde_json::from_str::<Claims>(&text).is_err());
    }

    #[test]
    fn only_rs256_session_tokens_pass() {
        let check = |header: Value| serde_json::from_value::<Header>(header).unwrap().check().is_ok();
        assert!(check(json!({"alg": "RS256"})));
        assert!(check(json!({"alg": "RS256", "cat": "cl_B7d4PD111AAA"})));
        assert!(check(json!({"alg": "RS256", "cat": "cl_B7d4PD222AAA"})));
        assert!(!check(json!({"alg": "RS256", "cat": "cl_B7d4PD333AAA"})));
        assert!(!check(json!({"alg": "RS256", "crit": ["b64"]})));
        for alg in ["none", "None", "HS256", "RS384", "PS256", "ES256", "rs256", ""] {
            assert!(!check(json!({"alg": alg})), "{alg}");
        }
    }
}
