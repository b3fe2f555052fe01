//! Session tokens: whose database they open, and every way to forge one.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cubby::{
    catalog::model::Profile,
    clock::Clock,
    config::{
        door::{AuthMode, DoorConfig},
        values::List,
    },
    identity::jwt::{Verdict, Verifier},
};
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::harness::{
    Client, Process, Reply, Server, author, cubby, eventually,
    tokens::{ISSUER, Publisher, SigningKey, claims, flags, now, part},
    tree,
};

const ADMIN: &str = "an operator's key of some length";

/// What everybody is told who may not know: the body without the id of the request.
fn told(reply: &Reply) -> (u16, Value) {
    let mut body = reply.json();
    body.as_object_mut().unwrap().remove("request_id").expect("a request id");
    (reply.status, body)
}

async fn refused(client: &Client, token: &str, why: &str) {
    let reply = client.bearing(token).get("/ada").await;
    assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_token"), "{why}");
    assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"cubby\", error=\"invalid_token\"", "{why}");
}

#[tokio::test]
async fn a_token_opens_its_own_users_database_and_no_other() {
    let key = SigningKey::new("a");
    let server = Server::with_flags(&flags(&key)).await;
    let ada = server.client.bearing(key.token("ada"));
    let eve = server.client.bearing(key.token("eve"));
    let note = ada.note("ada", "secret").await;
    eve.note("eve", "mine").await;

    assert_eq!(ada.texts("ada").await, ["secret"]);
    let unknown = told(&eve.get("/nobody").await);
    assert_eq!(unknown.0, 404);
    for path in ["/ada", &format!("/ada/{note}"), "/ada/note_x", "/nobody/note_x"] {
        assert_eq!(told(&eve.get(path).await), unknown, "{path}");
    }
    // Nobody's id is in these.
    for path in ["/%2e%2e", "/api"] {
        let reply = eve.get(path).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "unknown_user"), "{path}");
    }
    for method in ["POST", "PATCH", "DELETE"] {
        let path = if method == "POST" { "/ada".to_owned() } else { format!("/ada/{note}") };
        let reply = eve.send(eve.request(method, &path).json(&json!({"text": "x"}))).await;
        assert_eq!(told(&reply), unknown, "{method}");
    }
    assert_eq!(ada.texts("ada").await, ["secret"]);
    server.stop().await;
}

#[tokio::test]
async fn without_a_token_nothing_is_told_and_nothing_is_created() {
    let key = SigningKey::new("a");
    let server = Server::with_flags(&flags(&key)).await;
    server.client.bearing(key.token("ada")).note("ada", "x").await;
    let before = tree(&server.data().join("tenants"));
    let nobody = told(&server.client.get("/nobody").await.expect(401));
    for path in ["/ada", "/ada/note_x", "/nobody/note_x", "/..%2f", "/%00"] {
        let reply = server.client.get(path).await;
        assert_eq!(told(&reply), nobody, "{path}");
        assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"cubby\"");
    }
    for user in ["ada", "nobody"] {
        let reply = server.client.post(&format!("/{user}"), json!({"text": "x"})).await;
        assert_eq!(told(&reply), nobody);
    }
    assert_eq!(tree(&server.data().join("tenants")), before);
    server.stop().await;
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let (key, other) = (SigningKey::new("a"), SigningKey::new("a"));
    let server = Server::with_flags(&flags(&key)).await;
    let client = &server.client;
    client.bearing(key.token("ada")).note("ada", "x").await;

    let good = claims("ada");
    let [head, body, signature] =
        <[String; 3]>::try_from(key.token("ada").split('.').map(str::to_owned).collect::<Vec<_>>()).unwrap();
    for alg in ["none", "None", "NONE", "nOnE"] {
        let header = part(&json!({"alg": alg, "typ": "JWT"}));
        refused(client, &format!("{header}.{}.", part(&good)), alg).await;
        refused(client, &format!("{header}.{}.{signature}", part(&good)), alg).await;
    }
    // The public key is public: as a secret for HS256 it must prove nothing.
    for secret in [key.pem(), key.pem().trim().to_owned()] {
        let message = format!("{}.{}", part(&json!({"alg": "HS256", "kid": "a"})), part(&good));
        let secret = EncodingKey::from_secret(secret.as_bytes());
        let forged = jsonwebtoken::crypto::sign(message.as_bytes(), &secret, Algorithm::HS256).unwrap();
        refused(client, &format!("{message}.{forged}"), "HS256 with the public key").await;
    }
    refused(client, &other.token("ada"), "another instance's key").await;
    refused(client, &format!("{head}.{}.{signature}", part(&claims("eve"))), "claims swapped").await;
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    refused(client, &format!("{head}.{body}.{first}{}", &signature[1..]), "signature changed").await;
    let stuffed = key.sign(&json!({"alg": "RS256", "jwk": other.jwk(), "jku": "https://evil.example"}), &good);
    client.bearing(stuffed).get("/ada").await.expect(200);
    refused(client, &other.sign(&json!({"alg": "RS256", "jwk": other.jwk()}), &good), "brings its own key").await;

    let with = |name: &str, value: Value| key.token_with("ada", name, value);
    refused(client, &with("iss", json!("https://evil.example")), "wrong iss").await;
    refused(client, &with("exp", json!((now() + 600).to_string())), "string exp").await;
    refused(client, &with("exp", Value::Null), "no exp").await;
    refused(client, &with("exp", json!(now() - 60)), "expired").await;
    refused(client, &with("nbf", json!(now() + 600)), "future nbf").await;
    refused(client, &with("nbf", Value::Null), "nbf that is no number").await;
    refused(client, &with("sts", json!("pending")), "pending").await;
    refused(client, &with("gty", json!("client-credentials")), "a program's").await;
    refused(client, &with("gty", json!(["client_credentials"])), "a program's").await;
    refused(client, &with("aud", json!("another service")), "another audience").await;
    for sub in ["../ada", "ada/../eve", "", "a\0da", "admin"] {
        refused(client, &with("sub", json!(sub)), sub).await;
    }
    let machine = key.sign(&json!({"alg": "RS256", "cat": "cl_B7d4PD333AAA"}), &good);
    refused(client, &machine, "machine token").await;
    refused(client, &key.sign(&json!({"alg": "RS256", "crit": ["b64"]}), &good), "an extension").await;
    for cat in ["cl_B7d4PD111AAA", "cl_B7d4PD222AAA"] {
        client.bearing(key.sign(&json!({"alg": "RS256", "cat": cat}), &good)).get("/ada").await.expect(200);
    }

    for shape in ["", "x", "a.b.c", "....", &head, &format!("{head}.{body}"), &format!("{head}.{body}.{signature}.x")] {
        let reply = client.bearing(shape).get("/ada").await;
        assert_eq!(reply.status, 401, "{shape:?}");
    }
    let long = key.token_with("ada", "padding", json!("x".repeat(9000)));
    refused(client, &long, "oversized").await;
    // Longer than a header may be: refused before anything is read.
    let reply = client.bearing("x".repeat(300_000)).get("/ada").await;
    assert_eq!(reply.status, 431);
    server.stop().await;
}

/// Flags of a server that takes tokens of this issuer, and creates a tenant by one.
fn provider_flags(publisher: &Publisher, issuer: &str, more: &[&str]) -> Vec<String> {
    let mut all = publisher.flags();
    issuer.clone_into(&mut all[3]);
    all.extend(["--provisioning", "on-proof"].iter().chain(more).map(|flag| (*flag).to_owned()));
    all
}

#[tokio::test]
async fn each_algorithm_is_accepted_with_a_published_key_and_with_a_pem() {
    for key in [SigningKey::new("a"), SigningKey::es256("a"), SigningKey::ed25519("a")] {
        let publisher = Publisher::start(&[&key]).await;
        for flags in [publisher.flags(), flags(&key)] {
            let server = Server::with_flags(&flags).await;
            let ada = server.client.bearing(key.token("ada"));
            ada.note("ada", "x").await;
            assert_eq!(ada.texts("ada").await, ["x"], "{}", key.alg);
            // Changed in the middle, and verified anew.
            let token = key.token_with("ada", "jti", json!("2"));
            let (message, signature) = token.rsplit_once('.').unwrap();
            let mut changed = signature.to_owned().into_bytes();
            changed[20] = if changed[20] == b'A' { b'B' } else { b'A' };
            let forged = format!("{message}.{}", String::from_utf8(changed).unwrap());
            refused(&server.client, &forged, key.alg).await;
            server.stop().await;
        }
    }
}

#[tokio::test]
async fn the_published_key_decides_the_algorithm_and_the_header_does_not() {
    let [rsa, ec, ed] = [SigningKey::new("rsa"), SigningKey::es256("ec"), SigningKey::ed25519("ed")];
    let keys = [&rsa, &ec, &ed];
    let publisher = Publisher::start(&keys).await;
    let mut servers = vec![Server::with_flags(&publisher.flags()).await];
    for key in keys {
        servers.push(Server::with_flags(&flags(key)).await);
    }
    let bare: Vec<Value> = keys
        .iter()
        .map(|key| {
            let mut jwk = key.jwk();
            jwk.as_object_mut().unwrap().retain(|name, _| name != "alg" && name != "use");
            jwk
        })
        .collect();
    let undeclared = Publisher::start(&[]).await;
    undeclared.publish_jwks(&bare);
    servers.push(Server::with_flags(&undeclared.flags()).await);
    for (at, server) in servers.iter().enumerate() {
        server
            .app
            .store()
            .create(&"ada".parse().unwrap(), Profile::default(), &crate::harness::author())
            .await
            .unwrap();
        for key in keys {
            let published = at == 0 || at == servers.len() - 1;
            if published {
                server.client.bearing(key.token("ada")).get("/ada").await.expect(200);
            }
            // Signed by this key, and named as another's, of another algorithm, or both.
            for alg in ["RS256", "ES256", "EdDSA", "HS256", "none", "PS256", "ES384"] {
                for kid in ["rsa", "ec", "ed"] {
                    let genuine = alg == key.alg && (kid == key.kid || !published);
                    if !genuine {
                        let token = key.sign(&json!({"alg": alg, "kid": kid}), &claims("ada"));
                        refused(&server.client, &token, &format!("{} as {alg} of {kid}", key.alg)).await;
                    }
                }
            }
            // The public key as a secret.
            let jwk = key.jwk();
            let raw = jwk["x"].as_str().or(jwk["n"].as_str()).unwrap();
            for secret in [key.pem().as_bytes(), raw.as_bytes(), &URL_SAFE_NO_PAD.decode(raw).unwrap()] {
                let message = format!("{}.{}", part(&json!({"alg": "HS256", "kid": key.kid})), part(&claims("ada")));
                let secret = EncodingKey::from_secret(secret);
                let forged = jsonwebtoken::crypto::sign(message.as_bytes(), &secret, Algorithm::HS256).unwrap();
                refused(&server.client, &format!("{message}.{forged}"), "HS256 with a public key").await;
            }
        }
    }
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test]
async fn a_published_key_that_declares_another_algorithm_or_use_is_ignored() {
    let [rsa, ec, ed] = [SigningKey::new("rsa"), SigningKey::es256("ec"), SigningKey::ed25519("ed")];
    let good = SigningKey::es256("good");
    for (key, field, value) in [
        (&ed, "alg", "ES256"),
        (&ec, "alg", "EdDSA"),
        (&ec, "alg", "RS256"),
        (&rsa, "alg", "HS256"),
        (&rsa, "alg", "PS256"),
        (&ec, "use", "enc"),
        (&ed, "crv", "X25519"),
        (&ec, "crv", "P-384"),
    ] {
        let mut jwk = key.jwk();
        jwk[field] = json!(value);
        let publisher = Publisher::start(&[]).await;
        publisher.publish_jwks(&[jwk, good.jwk()]);
        let server = Server::with_flags(&publisher.flags()).await;
        server.client.bearing(good.token("ada")).note("ada", "x").await;
        for alg in [key.alg, value] {
            let token = key.sign(&json!({"alg": alg, "kid": key.kid}), &claims("ada"));
            refused(&server.client, &token, &format!("{} with {field} {value}", key.alg)).await;
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn of_keys_that_share_a_kid_each_verifies_its_own_algorithm() {
    let keys = [SigningKey::new("a"), SigningKey::es256("a"), SigningKey::ed25519("a")];
    let publisher = Publisher::start(&keys.each_ref()).await;
    let server = Server::with_flags(&publisher.flags()).await;
    server.client.bearing(keys[0].token("ada")).note("ada", "x").await;
    for key in &keys {
        server.client.bearing(key.token("ada")).get("/ada").await.expect(200);
        for other in keys.iter().filter(|other| other.alg != key.alg) {
            let token = key.sign(&other.header(), &claims("ada"));
            refused(&server.client, &token, &format!("{} as {}", key.alg, other.alg)).await;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn with_an_audience_set_a_token_must_name_it() {
    let key = SigningKey::es256("a");
    let mut all = flags(&key);
    all.extend(["--audience", "https://data.example, cubby"].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let with = |audience: Value| key.token_with("ada", "aud", audience);
    server.client.bearing(with(json!("cubby"))).note("ada", "x").await;
    for good in [json!("https://data.example"), json!(["other", "cubby"])] {
        server.client.bearing(with(good)).get("/ada").await.expect(200);
    }
    for bad in [json!("other"), json!([]), json!(["other"]), json!("https://data.example/"), json!(7), Value::Null] {
        refused(&server.client, &with(bad.clone()), &bad.to_string()).await;
    }
    refused(&server.client, &key.token("ada"), "no aud").await;
    server.stop().await;
}

/// What docs/AUTHENTICATION.md gives for each provider, with tokens of the form that the provider documents.
#[tokio::test]
async fn tokens_of_four_other_providers_are_accepted() {
    let (iat, exp) = (now(), now() + 3600);
    let supabase = "https://abcdefghijkl.supabase.co/auth/v1";
    let workos = "https://api.workos.com/user_management/client_01HX";
    let providers = [
        (
            SigningKey::es256("8b3f"),
            supabase,
            &["--audience", "authenticated"][..],
            json!({"iss": supabase, "aud": "authenticated", "exp": exp, "iat": iat, "role": "authenticated",
                   "sub": "123e4567-e89b-12d3-a456-426614174000", "email": "a@x.example", "phone": "", "aal": "aal1",
                   "amr": [{"method": "password", "timestamp": iat}], "session_id": "6d2f", "is_anonymous": false,
                   "app_metadata": {"provider": "email"}, "user_metadata": {}}),
        ),
        (
            SigningKey::new("NjVBR"),
            "https://dev-tenant.eu.auth0.com/",
            &["--audience", "https://data.example.com"],
            json!({"iss": "https://dev-tenant.eu.auth0.com/", "sub": "auth0|507f1f77bcf86cd799439011", "iat": iat,
                   "aud": ["https://data.example.com", "https://dev-tenant.eu.auth0.com/userinfo"], "exp": exp,
                   "azp": "my_client_id", "scope": "openid profile"}),
        ),
        (
            SigningKey::new("sso_oidc_key_pair_01HX"),
            workos,
            &[],
            json!({"iss": workos, "sub": "user_01HBEQKA6K4QJAS93VPE39W1JT", "sid": "session_01HQ", "jti": "01HQ",
                   "org_id": "org_01HR", "role": "member", "permissions": [], "exp": exp, "iat": iat}),
        ),
        (
            SigningKey::ed25519("c5c7995d-0037-4553-8aee-b5b620b89b23"),
            "https://app.example.com",
            &["--audience", "https://app.example.com"],
            json!({"iss": "https://app.example.com", "aud": "https://app.example.com", "exp": exp, "iat": iat,
                   "sub": "wWpB3rnHqLsQ6fV0zN8yTtGxKd1eMuJc", "id": "wWpB3rnHqLsQ6fV0zN8yTtGxKd1eMuJc",
                   "email": "a@x.example", "name": "Ada"}),
        ),
    ];
    for (key, issuer, more, claims) in providers {
        let publisher = Publisher::start(&[&key]).await;
        let server = Server::with_flags(&provider_flags(&publisher, issuer, more)).await;
        let header = json!({"alg": key.alg, "typ": "JWT", "kid": key.kid});
        let user = server.client.bearing(key.sign(&header, &claims));
        let id = claims["sub"].as_str().unwrap();
        user.note(&id.replace('|', "%7C"), "x").await;
        assert_eq!(user.texts(&id.replace('|', "%7C")).await, ["x"], "{issuer}");
        user.get("/somebody-else").await.expect(404);
        // The slash at the end of an issuer counts.
        let mut other = claims.clone();
        other["iss"] = json!(issuer.strip_suffix('/').map_or(format!("{issuer}/"), str::to_owned));
        refused(&server.client, &key.sign(&header, &other), issuer).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn the_cookie_with_the_token_has_the_name_of_the_setting() {
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all.extend(["--session-cookie", "access_token"].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    server.client.bearing(key.token("ada")).note("ada", "x").await;
    for (name, status) in [("access_token", 200), ("__session", 401)] {
        let request = server.client.request("GET", "/ada").header("cookie", format!("{name}={}", key.token("ada")));
        assert_eq!(server.client.send(request).await.status, status, "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_cookie_counts_only_on_own_and_authorized_pages() {
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all.extend(["--authorized-parties", "https://app.example"].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let cookie = format!("theme=dark; __session={}; __session_x=y", key.token("ada"));
    let post = |origin: Option<&str>| {
        let request = server.client.request("POST", "/ada").header("cookie", &cookie).json(&json!({"text": "x"}));
        server.client.send(match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        })
    };
    let own = format!("http://{}", server.address);
    for good in [None, Some("https://app.example"), Some(own.as_str())] {
        assert_eq!(post(good).await.status, 201, "{good:?}");
    }
    let encrypted = format!("https://{}", server.address);
    let port = format!("http://127.0.0.1:{}", server.address.port() ^ 1);
    for bad in [
        "https://evil.example",
        "null",
        "https://app.example.evil.example",
        "http://app.example",
        "http://127.0.0.1",
        encrypted.as_str(),
        port.as_str(),
    ] {
        assert_eq!(post(Some(bad)).await.status, 401, "{bad}");
    }
    let twice = server.client.request("POST", "/ada").header("cookie", &cookie).json(&json!({"text": "x"}));
    let twice = twice.header("origin", "https://app.example").header("origin", "https://evil.example");
    assert_eq!(server.client.send(twice).await.status, 401);
    server.client.bearing(key.token_with("ada", "azp", json!("https://evil.example"))).get("/ada").await.expect(401);
    server.client.bearing(key.token_with("ada", "azp", json!("https://app.example"))).get("/ada").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn an_own_page_has_the_scheme_of_the_request_which_a_trusted_proxy_tells() {
    let key = SigningKey::new("a");
    let ask = async |server: &Server, origin: &str, forwarded: Option<&str>| {
        let request = server.client.request("GET", "/ada").header("host", "data.example.com");
        let request = request.header("cookie", format!("__session={}", key.token("ada"))).header("origin", origin);
        let request = match forwarded {
            Some(scheme) => request.header("x-forwarded-proto", scheme),
            None => request,
        };
        server.client.send(request).await.status
    };
    let mut all = flags(&key);
    all.extend(["--provisioning", "on-proof"].map(str::to_owned));
    let plain = Server::with_flags(&all).await;
    all.extend(["--trusted-proxies", "127.0.0.1", "--address-rate", "off"].map(str::to_owned));
    let behind = Server::with_flags(&all).await;
    for (server, origin, forwarded, status) in [
        (&plain, "http://data.example.com", None, 200),
        (&plain, "http://data.example.com:80", None, 200),
        (&plain, "https://data.example.com", None, 401),
        // A caller does not choose it.
        (&plain, "https://data.example.com", Some("https"), 401),
        (&behind, "https://data.example.com", Some("https"), 200),
        (&behind, "https://data.example.com:443", Some("https"), 200),
        (&behind, "http://data.example.com", Some("https"), 401),
        (&behind, "http://data.example.com:443", Some("https"), 401),
        (&behind, "https://data.example.com", Some("http"), 401),
        (&behind, "https://data.example.com", Some("http, https"), 401),
        (&behind, "https://data.example.com", None, 401),
    ] {
        assert_eq!(ask(server, origin, forwarded).await, status, "{origin} {forwarded:?}");
    }
    plain.stop().await;
    behind.stop().await;
}

#[tokio::test]
async fn a_flood_of_unknown_kids_asks_the_issuer_once() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let publisher = Publisher::start(&[&old]).await;
    let server = Server::with_flags(&publisher.flags()).await;
    server.client.bearing(old.token("ada")).note("ada", "x").await;
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..200 {
        let header = json!({"alg": "RS256", "kid": format!("made-up-{n}")});
        let client = server.client.bearing(new.sign(&header, &claims("ada")));
        flood.spawn(async move { client.get("/ada").await.status });
    }
    while let Some(status) = flood.join_next().await {
        assert_eq!(status.unwrap(), 401);
    }
    assert_eq!(publisher.asked(), 1);
    server.stop().await;
}

/// A time of day that is set by hand.
fn clock() -> (Clock, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(now() * 1000));
    let tells = now.clone();
    (Clock::new(move || tells.load(Ordering::SeqCst)), now)
}

/// How far a future gets at once.
async fn polled<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
}

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;

/// A token that outlives the test, however its clock is set.
fn lasting(key: &SigningKey) -> String {
    key.token_with("ada", "exp", json!(now() + 100 * 86_400))
}

async fn status(server: &Server, token: &str) -> u16 {
    server.client.bearing(token).get("/ada").await.status
}

#[tokio::test]
async fn a_withdrawn_key_is_accepted_for_five_minutes_at_most_also_after_an_idle_time() {
    for idle in [5 * MINUTE + 1, 3 * 60 * MINUTE] {
        let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
        let publisher = Publisher::start(&[&old]).await;
        let (clock, now) = clock();
        let server = Server::at(&clock, &publisher.flags()).await;
        let (remembered, unseen) = (lasting(&old), old.token_with("ada", "exp", json!(self::now() + 99 * 86_400)));
        server.client.bearing(&remembered).note("ada", "x").await;
        publisher.publish(&[&new]);
        now.fetch_add(idle, Ordering::SeqCst);
        assert_eq!(status(&server, &remembered).await, 401, "remembered, and its key is gone");
        assert_eq!(status(&server, &unseen).await, 401);
        assert_eq!(status(&server, &lasting(&new)).await, 200);
        assert_eq!(publisher.asked(), 2);
        server.stop().await;
    }
}

#[tokio::test]
async fn cached_tokens_of_a_withdrawn_key_are_refused_after_the_fetch_and_no_others() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let publisher = Publisher::start(&[&old, &new]).await;
    let (clock, now) = clock();
    let server = Server::at(&clock, &publisher.flags()).await;
    let (by_old, by_new) = (lasting(&old), new.token_with("ada", "act", json!({"sub": "user_support"})));
    server.client.bearing(&by_old).note("ada", "x").await;
    assert_eq!(status(&server, &by_new).await, 200);
    publisher.publish(&[&new]);
    now.fetch_add(MINUTE + 1, Ordering::SeqCst);
    // The first request has the keys fetched and does not wait for them.
    assert_eq!(status(&server, &by_new).await, 200);
    eventually("the key is gone", async || status(&server, &by_old).await == 401).await;
    assert_eq!((status(&server, &by_new).await, publisher.asked()), (200, 2));
    // Verified anew it would have left a second row.
    assert_eq!(impersonations(&server).await, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_key_that_is_replaced_under_its_kid_is_withdrawn_and_the_new_one_verifies_what_was_refused() {
    let [old, new] = [SigningKey::ed25519("a"), SigningKey::ed25519("a")];
    let publisher = Publisher::start(&[&old]).await;
    let (clock, now) = clock();
    let server = Server::at(&clock, &publisher.flags()).await;
    let (by_old, by_new) = (lasting(&old), lasting(&new));
    server.client.bearing(&by_old).note("ada", "x").await;
    for _ in 0..2 {
        refused(&server.client, &by_new, "the other key's").await;
    }
    publisher.publish(&[&new]);
    now.fetch_add(5 * MINUTE + 1, Ordering::SeqCst);
    assert_eq!((status(&server, &by_new).await, status(&server, &by_old).await), (200, 401));
    server.stop().await;
}

async fn impersonations(server: &Server) -> u32 {
    let rows =
        server.app.store().catalog().query(|conn| {
            conn.query_row("SELECT count(*) FROM audit WHERE action = 'impersonate'", [], |row| row.get(0))
        });
    rows.await.unwrap()
}

#[tokio::test]
async fn a_thousand_requests_that_wait_for_the_keys_ask_the_issuer_once() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let publisher = Publisher::start(&[&old]).await;
    let (clock, now) = clock();
    let server = Server::at(&clock, &publisher.flags()).await;
    let remembered = lasting(&old);
    server.client.bearing(&remembered).note("ada", "x").await;
    publisher.publish(&[&old, &new]);
    publisher.hold(true);
    now.fetch_add(5 * MINUTE + 1, Ordering::SeqCst);
    let verifier = server.app.identity().sessions().unwrap();
    let tokens = [remembered, old.token("ada"), new.token("ada"), lasting(&new)];
    let mut crowd = Box::pin(join_all((0..1000).map(|n| verifier.verify(&tokens[n % tokens.len()]))));
    assert!(polled(&mut crowd).await.is_pending());
    eventually("somebody asks", async || publisher.asked() == 2).await;
    assert!(polled(&mut crowd).await.is_pending(), "nobody goes on without the answer");
    publisher.hold(false);
    for verdict in crowd.await {
        assert!(matches!(verdict, Verdict::Session(_)), "{verdict:?}");
    }
    assert_eq!(publisher.asked(), 2);
    server.stop().await;
}

#[tokio::test]
async fn while_the_issuer_is_down_its_keys_are_accepted_for_the_grace_and_no_longer() {
    let key = SigningKey::new("a");
    for (flags, grace) in
        [(&[][..], 60 * MINUTE), (&["--jwks-grace", "2h"], 120 * MINUTE), (&["--jwks-grace", "0s"], 5 * MINUTE)]
    {
        let publisher = Publisher::start(&[&key]).await;
        let (clock, now) = clock();
        let mut all = publisher.flags();
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let server = Server::at(&clock, &all).await;
        let start = now.load(Ordering::SeqCst);
        let remembered = lasting(&key);
        server.client.bearing(&remembered).note("ada", "x").await;
        publisher.answer(500, String::new());
        now.store(start + grace, Ordering::SeqCst);
        for token in [&remembered, &key.token_with("ada", "exp", json!(self::now() + 50 * 86_400))] {
            assert_eq!(status(&server, token).await, 200, "{flags:?}");
        }
        now.store(start + grace + 1, Ordering::SeqCst);
        for token in [&remembered, &key.token_with("ada", "exp", json!(self::now() + 51 * 86_400))] {
            let reply = server.client.bearing(token).get("/ada").await.expect(503);
            assert_eq!(
                (reply.code().as_str(), reply.header("retry-after")),
                ("identity_unavailable", "5"),
                "{flags:?}"
            );
        }
        publisher.publish(&[&key]);
        now.fetch_add(5 * SECOND, Ordering::SeqCst);
        assert_eq!(status(&server, &remembered).await, 200, "the issuer is back");
        server.stop().await;
    }
}

#[tokio::test]
async fn no_request_waits_for_an_issuer_that_is_known_to_be_down() {
    let key = SigningKey::new("a");
    let publisher = Publisher::start(&[&key]).await;
    let (clock, now) = clock();
    let server = Server::at(&clock, &publisher.flags()).await;
    let remembered = lasting(&key);
    server.client.bearing(&remembered).note("ada", "x").await;
    publisher.answer(500, String::new());
    now.fetch_add(6 * MINUTE, Ordering::SeqCst);
    assert_eq!((status(&server, &remembered).await, publisher.asked()), (200, 2));
    publisher.hold(true);
    now.fetch_add(31 * SECOND, Ordering::SeqCst);
    let verifier = server.app.identity().sessions().unwrap();
    for token in [&remembered, &key.token("ada")] {
        let mut answer = Box::pin(verifier.verify(token));
        let answer = polled(&mut answer).await;
        assert!(matches!(answer, Poll::Ready(Verdict::Session(_))), "{answer:?}");
    }
    eventually("it is asked again all the same", async || publisher.asked() == 3).await;
    publisher.hold(false);
    server.stop().await;
}

#[tokio::test]
async fn keys_are_fetched_again_when_the_clock_was_set_back() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let publisher = Publisher::start(&[&old]).await;
    let (clock, now) = clock();
    let server = Server::at(&clock, &publisher.flags()).await;
    let remembered = lasting(&old);
    server.client.bearing(&remembered).note("ada", "x").await;
    publisher.publish(&[&new]);
    now.fetch_sub(SECOND, Ordering::SeqCst);
    assert_eq!(status(&server, &remembered).await, 401);
    server.stop().await;
}

#[tokio::test]
async fn an_issuer_that_publishes_no_key_has_withdrawn_all() {
    let key = SigningKey::new("a");
    let publisher = Publisher::start(&[&key]).await;
    let (clock, now) = clock();
    let server = Server::at(&clock, &publisher.flags()).await;
    let remembered = lasting(&key);
    server.client.bearing(&remembered).note("ada", "x").await;
    publisher.publish(&[]);
    now.fetch_add(5 * MINUTE + 1, Ordering::SeqCst);
    assert_eq!(status(&server, &remembered).await, 503);
    publisher.publish(&[&key]);
    now.fetch_add(5 * SECOND, Ordering::SeqCst);
    assert_eq!(status(&server, &remembered).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn without_the_issuers_keys_the_answer_is_503_and_not_401() {
    let key = SigningKey::new("a");
    for (status, body) in [
        (500, String::new()),
        (302, String::new()),
        (200, "<html>".to_owned()),
        (200, json!({"keys": [key.jwk()], "padding": "x".repeat(70_000)}).to_string()),
    ] {
        let publisher = Publisher::start(&[]).await;
        publisher.answer(status, body);
        let server = Server::with_flags(&publisher.flags()).await;
        let reply = server.client.bearing(key.token("ada")).get("/ada").await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "identity_unavailable"));
        assert_eq!(reply.header("retry-after"), "5");
        assert_eq!(publisher.asked(), 1, "no redirect is followed, and it is not asked again at once");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_token_creates_its_tenant_on_the_first_request_and_not_after_deletion() {
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all.extend(["--provisioning", "on-proof"].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let ada = server.client.bearing(key.token("ada"));
    ada.get("/eve").await.expect(404);
    assert!(server.app.store().find(&"ada".parse().unwrap()).await.unwrap().is_none());
    assert_eq!(ada.get("/ada").await.expect(200).json(), json!({"notes": []}));
    assert!(server.app.store().find(&"ada".parse().unwrap()).await.unwrap().is_some());
    assert!(server.app.store().find(&"eve".parse().unwrap()).await.unwrap().is_none());

    server.app.store().delete(&"ada".parse().unwrap(), &author()).await.unwrap();
    let gone = told(&ada.get("/ada").await);
    assert_eq!(gone, told(&ada.get("/eve").await));
    assert_eq!(told(&ada.post("/ada", json!({"text": "x"})).await), gone);
    server.stop().await;
}

#[tokio::test]
async fn a_key_is_no_proof_that_a_user_exists() {
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all[1] = "jwt+keys".to_owned();
    all.extend(["--provisioning", "on-proof", "--admin-api-key", ADMIN].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let made = server.client.bearing(ADMIN).post("/api/admin/keys", json!({"name": "all"})).await.expect(201).json();
    let program = server.client.bearing(made["secret"].as_str().unwrap());
    program.get("/ada").await.expect(404);
    program.post("/ada", json!({"text": "x"})).await.expect(404);
    server.client.bearing(key.token("ada")).get("/ada").await.expect(200);
    program.note("ada", "x").await;
    server.stop().await;
}

#[tokio::test]
async fn a_suspension_and_a_deletion_count_on_the_next_request_of_a_token_that_is_still_good() {
    let key = SigningKey::new("a");
    let server = Server::with_flags(&flags(&key)).await;
    let (ada, eve) = (server.client.bearing(key.token("ada")), server.client.bearing(key.token("eve")));
    ada.note("ada", "x").await;
    let id = "ada".parse().unwrap();
    server.app.store().suspend(&id, "unpaid", &author()).await.unwrap();
    assert_eq!(ada.get("/ada").await.expect(403).code(), "suspended");
    assert_eq!(told(&eve.get("/ada").await), told(&eve.get("/nobody").await), "nobody else's business");
    server.app.store().resume(&id, &author()).await.unwrap();
    ada.get("/ada/note_x").await.expect(404);
    server.app.store().delete(&id, &author()).await.unwrap();
    let gone = ada.post("/ada", json!({"text": "x"})).await.expect(404);
    assert_eq!(told(&gone), told(&eve.get("/nobody").await));
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_cached_until_it_expires_and_no_longer() {
    let key = SigningKey::new("a");
    let config = DoorConfig {
        auth: AuthMode::Jwt,
        issuer: Some(ISSUER.to_owned()),
        clerk_jwt_key: Some(key.pem().parse().unwrap()),
        jwks_url: None,
        jwks_grace: Duration::from_secs(3600),
        authorized_parties: List::default(),
        audience: List::default(),
        session_cookie: "__session".to_owned(),
        allowed_hosts: List::default(),
    };
    let (clock, now) = clock();
    let verifier = Verifier::new(&config, &clock).unwrap();
    let token = key.token("ada");
    let Verdict::Session(session) = verifier.verify(&token).await else { panic!("a good token") };
    for moment in [now.load(Ordering::Relaxed), session.until - 1] {
        now.store(moment, Ordering::Relaxed);
        let Verdict::Session(again) = verifier.verify(&token).await else { panic!("a good token") };
        assert!(Arc::ptr_eq(&session, &again), "cached");
    }
    now.store(session.until, Ordering::Relaxed);
    assert!(matches!(verifier.verify(&token).await, Verdict::Refused(_)));
}

#[tokio::test]
async fn no_log_has_a_token_or_a_key_at_any_level() {
    let (key, other) = (SigningKey::new("a"), SigningKey::new("a"));
    let mut all = flags(&key);
    all[1] = "jwt+keys".to_owned();
    all.extend(["--log", "trace", "--admin-api-key", ADMIN].map(str::to_owned));
    let folder = tempfile::TempDir::new().unwrap();
    let server = Process::start(folder.path(), &all.iter().map(String::as_str).collect::<Vec<_>>());
    let made = server.client.bearing(ADMIN).post("/api/admin/keys", json!({"name": "all"})).await.expect(201).json();
    let secret = made["secret"].as_str().unwrap().to_owned();
    let (good, forged) = (key.token("ada"), other.token("ada"));
    for shown in [&good, &secret] {
        server.client.bearing(shown).note("ada", "x").await;
    }
    for shown in [forged.as_str(), &secret[..secret.len() - 1], "Bearer-without-a-meaning"] {
        server.client.bearing(shown).get("/ada").await.expect(401);
        server.client.bearing(shown).get("/api/admin/keys").await.expect(401);
    }
    server
        .client
        .send(server.client.request("GET", "/ada").header("cookie", format!("__session={good}")))
        .await
        .expect(200);
    server.client.bearing(ADMIN).get("/api/admin/keys").await.expect(200);
    server.logged("the operator's routes were tried without the operator's key").await;
    let log = format!("{:?}", server.log());
    for hidden in [&good, &forged, &secret[..43], ADMIN, "Bearer-without-a-meaning"] {
        let signature = hidden.rsplit('.').next().unwrap();
        assert!(!log.contains(signature), "{hidden} is in the log");
    }
    assert!(log.len() > 1000, "there is a log to look at");
}

#[tokio::test]
async fn with_webhook_provisioning_a_token_creates_nobody() {
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all.extend(["--provisioning", "webhook"].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let ada = server.client.bearing(key.token("ada"));
    let foreign = told(&ada.get("/eve").await);
    assert_eq!(told(&ada.get("/ada").await), foreign);
    assert_eq!(told(&ada.post("/ada", json!({"text": "x"})).await), foreign);
    server.stop().await;
}

#[tokio::test]
async fn an_impersonation_is_in_the_audit_trail() {
    let key = SigningKey::new("a");
    let server = Server::with_flags(&flags(&key)).await;
    let token = key.token_with("ada", "act", json!({"sub": "user_support"}));
    let client = server.client.bearing(token);
    client.note("ada", "x").await;
    client.get("/ada").await.expect(200);
    let rows = server.app.store().catalog().query(|conn| {
        conn.query_row("SELECT count(*), max(actor) FROM audit WHERE target = 'ada'", [], |row| {
            Ok((row.get::<_, u32>(0)?, row.get::<_, Option<String>>(1)?))
        })
    });
    assert_eq!(rows.await.unwrap(), (1, Some("impersonator user_support".to_owned())));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impersonator_is_not_let_in_while_the_audit_row_fails() {
    let key = SigningKey::new("a");
    let server = Server::with_flags(&flags(&key)).await;
    let ada = server.client.bearing(key.token("ada"));
    ada.note("ada", "x").await;
    let support = server.client.bearing(key.token_with("ada", "act", json!({"sub": "user_support"})));
    let refuse = "CREATE TRIGGER no_audit BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'refused'); END";
    server.app.store().catalog().write(move |tx| tx.execute_batch(refuse)).await.unwrap();
    for _ in 0..2 {
        support.get("/ada").await.expect(500);
        support.post("/ada", json!({"text": "by support"})).await.expect(500);
    }
    assert_eq!((ada.texts("ada").await, impersonations(&server).await), (vec!["x".to_owned()], 0));

    server.app.store().catalog().write(|tx| tx.execute_batch("DROP TRIGGER no_audit")).await.unwrap();
    let again = server.client.bearing(key.token_with("ada", "act", json!({"sub": "user_other"})));
    for client in [support, again] {
        let crowd = join_all((0..20).map(|_| client.get("/ada"))).await;
        assert!(crowd.iter().all(|reply| reply.status == 200));
    }
    assert_eq!(impersonations(&server).await, 2, "one row a token");
    server.stop().await;
}

#[test]
fn unsafe_settings_are_refused() {
    let key = SigningKey::new("a");
    let data = tempfile::TempDir::new().unwrap();
    let pem = format!("--clerk-jwt-key={}", key.pem());
    let refuse = |flags: &[&str], hint: &str| {
        let out = cubby().arg("serve").arg("--data").arg(data.path()).args(flags).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(hint), "{flags:?}: {said}");
    };
    refuse(&["--listen", "0.0.0.0:0"], "CUBBY_AUTH");
    refuse(&["--auth", "jwt", &pem], "CUBBY_ISSUER");
    refuse(&["--auth", "jwt", "--issuer", ISSUER], "CLERK_JWT_KEY");
    refuse(&["--auth", "jwt", "--issuer", ISSUER, &pem, "--jwks-url", "https://x.example/jwks"], "keep one");
    refuse(&["--auth", "jwt", "--issuer", ISSUER, "--jwks-url", "http://x.example/jwks"], "https");
    refuse(&["--auth", "jwt", "--issuer", ISSUER, "--clerk-jwt-key", "secret"], "PEM");
    refuse(&["--auth", "jwt", "--issuer", ISSUER, &pem, "--session-cookie", "a=b"], "CUBBY_SESSION_COOKIE");
    refuse(&["--provisioning", "on-proof"], "CUBBY_AUTH=jwt");
    refuse(&["--clerk-webhook-secret", " "], "CLERK_WEBHOOK_SECRET is empty");
    let clerk = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let both = ["--clerk-webhook-secret", clerk, "--hookdeck-signing-secret", " "];
    refuse(&both, "HOOKDECK_SIGNING_SECRET is empty");
}
