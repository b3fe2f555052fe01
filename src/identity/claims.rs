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

    fn is_accepted(claims: &str) -> bool {
        let rules = Rules { issuer: "https://issuer.example".into(), parties: Vec::new(), audience: Vec::new() };
        serde_json::from_str(claims).is_ok_and(|claims| rules.check(claims, NOW).is_ok())
    }

    fn base() -> Value {
        json!({"iss": "https://issuer.example", "sub": "ada", "exp": NOW / 1000 + 60})
    }

    /// The other rules are tried over HTTP, in `tests/it/tokens.rs`.
    #[test]
    fn times_are_numbers_and_within_five_seconds() {
        let at = |seconds: i64| json!(NOW / 1000 + seconds);
        for (claim, good, bad) in
            [("exp", vec![at(-4), json!(1_700_000_000.5)], vec![at(-5)]), ("nbf", vec![at(0), at(5)], vec![at(6)])]
        {
            let never = [json!("1900000000"), json!(null), json!(-1), json!([1]), json!(1e300), json!(true)];
            let with = |value| {
                let mut claims = base();
                claims[claim] = value;
                claims.to_string()
            };
            assert!(good.into_iter().map(with).all(|claims| is_accepted(&claims)), "{claim}");
            bad.into_iter().chain(never).map(with).for_each(|claims| assert!(!is_accepted(&claims), "{claims}"));
        }
    }

    #[test]
    fn a_claim_given_twice_is_refused() {
        let text = base().to_string();
        assert!(is_accepted(&text) && !is_accepted(&text.replacen('{', r#"{"sub":"eve","#, 1)));
    }

    #[test]
    fn an_active_session_and_a_password_grant_are_accepted() {
        for (claim, value) in [("sts", "active"), ("gty", "password")] {
            let mut claims = base();
            claims[claim] = json!(value);
            assert!(is_accepted(&claims.to_string()), "{claims}");
        }
    }
}
