//! An identity provider for tests: keys, tokens signed with them, and a place that publishes them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256},
};
use axum::{Router, extract::State, routing::get};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{DecodingKey, jwk::Jwk};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

pub const ISSUER: &str = "https://issuer.example";

/// A key of the issuer's.
pub struct SigningKey {
    signer: Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>,
    /// The public half: SubjectPublicKeyInfo.
    der: Vec<u8>,
    pub alg: &'static str,
    pub kid: &'static str,
}

fn der(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
    key.as_der().unwrap().as_ref().to_vec()
}

impl SigningKey {
    /// An RSA key, as most issuers have them.
    pub fn new(kid: &'static str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = der(pair.public_key());
        let signer = move |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        };
        Self { signer: Box::new(signer), der, alg: "RS256", kid }
    }

    pub fn es256(kid: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let der = der(pair.public_key());
        let signer = move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        Self { signer: Box::new(signer), der, alg: "ES256", kid }
    }

    pub fn ed25519(kid: &'static str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let der = der(pair.public_key());
        let signer = move |message: &[u8]| pair.sign(message).as_ref().to_vec();
        Self { signer: Box::new(signer), der, alg: "EdDSA", kid }
    }

    /// The public half, as `CLERK_JWT_KEY` wants it.
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(&self.der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The public half, as a key set has it.
    pub fn jwk(&self) -> Value {
        let pem = self.pem();
        let key = match self.alg {
            "RS256" => DecodingKey::from_rsa_pem(pem.as_bytes()),
            "ES256" => DecodingKey::from_ec_pem(pem.as_bytes()),
            _ => DecodingKey::from_ed_pem(pem.as_bytes()),
        };
        let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&key.unwrap(), None).unwrap()).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.alg);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A signed token with exactly this header and these claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let signature = (self.signer)(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A session token as Clerk makes them.
    pub fn token(&self, user: &str) -> String {
        self.sign(&self.header(), &claims(user))
    }

    /// A session token with one claim changed.
    pub fn token_with(&self, user: &str, name: &str, value: Value) -> String {
        let mut claims = claims(user);
        claims[name] = value;
        self.sign(&self.header(), &claims)
    }

    pub fn header(&self) -> Value {
        json!({"alg": self.alg, "typ": "JWT", "kid": self.kid, "cat": "cl_B7d4PD111AAA"})
    }
}

/// One part of a token.
pub fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// Good claims: each test long enough, so that none depends on how fast it runs.
pub fn claims(user: &str) -> Value {
    json!({"iss": ISSUER, "sub": user, "sid": "sess_1", "iat": now(), "nbf": now() - 10, "exp": now() + 3600})
}

/// Flags of a server that believes `key`.
pub fn flags(key: &SigningKey) -> Vec<String> {
    ["--auth", "jwt", "--issuer", ISSUER, &format!("--clerk-jwt-key={}", key.pem())].map(str::to_owned).to_vec()
}

/// A key set at an address, which counts how often it is asked.
pub struct Publisher {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    asked: AtomicU64,
    answer: Mutex<(u16, String)>,
    /// Whether answers are held back.
    held: watch::Sender<bool>,
}

impl Publisher {
    pub async fn start(keys: &[&SigningKey]) -> Self {
        let shared =
            Arc::new(Shared { asked: AtomicU64::new(0), answer: Mutex::default(), held: watch::Sender::new(false) });
        let answer = async |State(shared): State<Arc<Shared>>| {
            shared.asked.fetch_add(1, Ordering::SeqCst);
            let _ = shared.held.subscribe().wait_for(|held| !held).await;
            let (status, body) = shared.answer.lock().clone();
            let location = [("location", "/elsewhere")];
            (axum::http::StatusCode::from_u16(status).unwrap(), location, body)
        };
        let elsewhere = async |State(shared): State<Arc<Shared>>| {
            // Only a client that follows redirects comes here.
            shared.asked.fetch_add(1_000_000, Ordering::SeqCst);
        };
        let routes = Router::new().route("/jwks", get(answer)).route("/elsewhere", get(elsewhere));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        tokio::spawn(axum_serve(listener, routes.with_state(shared.clone())));
        let this = Self { url, shared };
        this.publish(keys);
        this
    }

    pub fn publish(&self, keys: &[&SigningKey]) {
        self.publish_jwks(&keys.iter().map(|key| key.jwk()).collect::<Vec<_>>());
    }

    pub fn publish_jwks(&self, keys: &[Value]) {
        self.answer(200, json!({"keys": keys}).to_string());
    }

    pub fn answer(&self, status: u16, body: String) {
        *self.shared.answer.lock() = (status, body);
    }

    /// Holds answers back, or lets them go.
    pub fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// Flags of a server that asks here.
    pub fn flags(&self) -> Vec<String> {
        ["--auth", "jwt", "--issuer", ISSUER, "--jwks-url", &self.url].map(str::to_owned).to_vec()
    }
}

async fn axum_serve(listener: tokio::net::TcpListener, routes: Router) {
    use hyper_util::{rt::TokioIo, service::TowerToHyperService};
    while let Ok((stream, _)) = listener.accept().await {
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
