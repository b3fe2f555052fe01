//! A session token's header and claims, and the rules they must satisfy. Pure: the time is an argument.

use jsonwebtoken::Algorithm;
use serde::{Deserialize, Deserializer, de};
use tokio::sync::OnceCell;

use crate::{clock::Millis, tenants::id::TenantId};

/// The clock skew allowed between the issuer and this server. The usual sixty seconds would double the
/// lifetime of Clerk's tokens.
pub const LEEWAY: Millis = 5_000;

/// The values of `cat`, in the header of Clerk's tokens, that stand for a user: session tokens, and session
/// tokens by a template. Machine tokens have another one; other issuers have no such field.
const CLERK_SESSION: [&str; 2] = ["cl_B7d4PD111AAA", "cl_B7d4PD222AAA"];

/// The grant by which Auth0 (with a hyphen) and others issue tokens to programs, in the claim `gty`.
const MACHINE_GRANT: [&str; 2] = ["client-credentials", "client_credentials"];

/// Why a token is refused, as the caller is told. Does not mention the server's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal(pub &'static str);

/// The fields of the protected header that are checked.
#[derive(Debug, Deserialize)]
pub struct Header {
    /// The algorithm that the token claims.
    alg: String,
    /// The id of the key that the token claims.
    pub kid: Option<String>,
    cat: Option<String>,
    crit: Option<de::IgnoredAny>,
}

impl Header {
    /// Checks the header, and returns its algorithm. The caller must match it with the algorithm of the issuer's
    /// key: a token does not choose how it is verified (RFC 8725, section 3.1).
    pub fn check(&self) -> Result<Algorithm, Refusal> {
        let algorithm = match self.alg.as_str() {
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            _ => return Err(Refusal("only RS256, ES256 and EdDSA are accepted")),
        };
        if self.crit.is_some() {
            return Err(Refusal("the token asks for an extension that is not understood"));
        }
        match self.cat.as_deref() {
            Some(cat) if !CLERK_SESSION.contains(&cat) => Err(MACHINE),
            _ => Ok(algorithm),
        }
    }
}

const MACHINE: Refusal = Refusal("only session tokens are accepted, not machine tokens");

/// The claims that are checked. Parsing refuses a claim that is given twice or is of another type.
#[derive(Debug, Deserialize)]
pub struct Claims {
    iss: String,
    sub: String,
    #[serde(deserialize_with = "seconds")]
    exp: Millis,
    #[serde(default, deserialize_with = "optional_seconds")]
    nbf: Option<Millis>,
    azp: Option<String>,
    aud: Option<OneOrMany>,
    gty: Option<OneOrMany>,
    sts: Option<String>,
    act: Option<Actor>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn any(&self, matches: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::One(name) => matches(name),
            Self::Many(names) => names.iter().any(|name| matches(name)),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Actor {
    sub: Option<String>,
}

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The only tenant that the session may use.
    pub user: TenantId,
    /// When the session ends: the token's `exp` and the leeway.
    pub until: Millis,
    /// Who acts in the user's name, if the token has an `act` claim.
    pub impersonator: Option<Impersonator>,
}

/// Somebody who acts in a user's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impersonator {
    /// The `sub` of the `act` claim.
    pub id: String,
    /// Set when the audit trail has a row of this token; until then the token gives no access.
    pub recorded: OnceCell<()>,
}

/// Which tokens are accepted.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `iss` must be equal to this, byte for byte.
    pub issuer: String,
    /// `azp`, if the token has one, must be one of these. Empty: any.
    pub parties: Vec<String>,
    /// `aud` must name one of these. Empty: the token must have no `aud` (RFC 7519, section 4.1.3).
    pub audience: Vec<String>,
}

impl Rules {
    /// The session of a token with these claims, whose signature is verified elsewhere, at `now`.
    pub fn check(&self, claims: Claims, now: Millis) -> Result<Session, Refusal> {
        if claims.iss != self.issuer {
            return Err(Refusal("the token is by another issuer"));
        }
        let until = claims.exp.saturating_add(LEEWAY);
        if now >= until {
            return Err(Refusal("the token has expired"));
        }
        if claims.nbf.is_some_and(|at| at > now.saturating_add(LEEWAY)) {
            return Err(Refusal("the token is not valid yet"));
        }
        // Clerk leaves `azp` out when the browser sent no Origin.
        if let Some(party) = &claims.azp
            && !self.parties.is_empty()
            && !self.parties.contains(party)
        {
            return Err(Refusal("the token was made for another application"));
        }
        let for_us = match &claims.aud {
            None => self.audience.is_empty(),
            Some(audience) => audience.any(|name| self.audience.iter().any(|ours| ours == name)),
        };
        if !for_us {
            return Err(Refusal("the token is for another audience"));
        }
        if claims.gty.is_some_and(|grant| grant.any(|name| MACHINE_GRANT.contains(&name))) {
            return Err(MACHINE);
        }
        if claims.sts.as_deref() == Some("pending") {
            return Err(Refusal("the session is pending: the user has not finished signing in"));
        }
        let user = TenantId::parse(claims.sub.as_bytes()).map_err(|_| Refusal("the token's subject is no user id"))?;
        let impersonator = |actor: Actor| Impersonator { id: actor.sub.unwrap_or_default(), recorded: OnceCell::new() };
        Ok(Session { user, until, impersonator: claims.act.map(impersonator) })
    }
}

/// A NumericDate (RFC 7519, 2): a number of seconds, whole or not. Never a string.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Millis, D::Error> {
    let seconds = f64::deserialize(from)?;
    // Up to the year 5138, so that the product is exact.
    match (0.0..1e11).contains(&seconds) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 1e14")]
        true => Ok((seconds * 1000.0) as Millis),
        false => Err(de::Error::custom("not a time")),
    }
}

fn optional_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Millis>, D::Error> {
    seconds(from).map(Some)
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
        json!({"iss": "https://issuer.example", "sub": "ada", "aud": "cubby", "exp": NOW / 1000 + 60, "nbf": NOW / 1000})
    }

    fn verdict(change: impl FnOnce(&mut Value)) -> Result<Session, &'static str> {
        let mut claims = base();
        change(&mut claims);
        let claims = serde_json::from_str(&claims.to_string()).map_err(|_| "unparsable")?;
        rules().check(claims, NOW).map_err(|refusal| refusal.0)
    }

    #[test]
    fn a_valid_token_is_accepted_until_it_expires() {
        let session = verdict(|_| {}).unwrap();
        assert_eq!((session.user.as_str(), session.until), ("ada", NOW + 65_000));
        assert_eq!(session.impersonator, None);
    }

    #[test]
    fn iss_sub_exp_and_aud_are_required_and_nbf_is_not() {
        let without = |name: &str| verdict(|claims| drop(claims.as_object_mut().unwrap().remove(name)));
        for name in ["iss", "sub", "exp", "aud"] {
            assert!(without(name).is_err(), "{name}");
        }
        assert!(without("nbf").is_ok());
        let any = Rules { audience: Vec::new(), ..rules() };
        let mut claims = base();
        claims.as_object_mut().unwrap().remove("aud");
        assert!(any.check(serde_json::from_value(claims).unwrap(), NOW).is_ok());
        assert!(any.check(serde_json::from_value(base()).unwrap(), NOW).is_err(), "it is for somebody else");
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
    fn a_token_for_another_service_or_program_is_refused() {
        let refused = |name: &str, value: Value| verdict(|claims| claims[name] = value).is_err();
        assert!(refused("iss", json!("https://issuer.example/")));
        assert!(refused("iss", json!(["https://issuer.example"])));
        assert!(refused("azp", json!("https://evil.example")));
        assert!(!refused("azp", json!("https://app.example")));
        assert!(refused("aud", json!("another")));
        assert!(refused("aud", json!([])));
        assert!(!refused("aud", json!(["another", "cubby"])));
        assert!(refused("gty", json!("client-credentials")) && refused("gty", json!(["client_credentials"])));
        assert!(!refused("gty", json!("password")));
        assert!(refused("sts", json!("pending")));
        assert!(!refused("sts", json!("active")));
        for sub in ["", "../ada", "a/b", "admin", "a\0", "é", &"a".repeat(129)] {
            assert!(refused("sub", json!(sub)), "{sub:?}");
        }
    }

    #[test]
    fn the_impersonator_is_kept() {
        let session = verdict(|claims| claims["act"] = json!({"sub": "user_admin"})).unwrap();
        assert_eq!(session.impersonator.unwrap().id, "user_admin");
    }

    #[test]
    fn a_claim_given_twice_is_refused() {
        let text = base().to_string().replacen('{', r#"{"sub":"eve","#, 1);
        assert!(serde_json::from_str::<Claims>(&text).is_err());
    }

    #[test]
    fn headers_of_session_tokens_of_three_algorithms_pass() {
        let check = |header: Value| serde_json::from_value::<Header>(header).unwrap().check().is_ok();
        for alg in ["RS256", "ES256", "EdDSA"] {
            assert!(check(json!({"alg": alg})), "{alg}");
        }
        assert!(check(json!({"alg": "RS256", "cat": "cl_B7d4PD111AAA"})));
        assert!(check(json!({"alg": "RS256", "cat": "cl_B7d4PD222AAA"})));
        assert!(!check(json!({"alg": "RS256", "cat": "cl_B7d4PD333AAA"})));
        assert!(!check(json!({"alg": "RS256", "crit": ["b64"]})));
        for alg in ["none", "None", "HS256", "RS384", "PS256", "ES384", "Ed448", "rs256", ""] {
            assert!(!check(json!({"alg": alg})), "{alg}");
        }
    }
}
