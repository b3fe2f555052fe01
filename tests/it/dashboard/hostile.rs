//! Names that mean harm, on every page: nothing of them is a tag, turns text around or fills the page.

use cubby::catalog::{
    model::{Delivery, DeliveryOutcome, Profile},
    queries::deliveries,
};
use serde_json::json;

use super::{ADMIN, Browser, FLAGS};
use crate::harness::{Server, author};

const SCRIPT: &str = "<script>alert(1)</script>";
const ATTRIBUTE: &str = "\" autofocus onfocus=\"alert(1)";
const CLOSING: &str = "</textarea></pre></title><img src=x onerror=alert(1)>";
const BIDI: &str = "abc\u{202e}txt.exe\u{2066}";

#[tokio::test]
async fn hostile_names_are_text_on_every_page() {
    let server = Server::with(FLAGS).await;
    let operator = server.client.bearing(ADMIN);
    let long = "x".repeat(10_000);
    let names = [SCRIPT, ATTRIBUTE, CLOSING, BIDI, long.as_str(), "a\0b\r\n\u{1b}[2J"];
    for (at, name) in names.into_iter().enumerate() {
        let name = Some(name.to_owned());
        let profile = Profile {
            email: name.clone(),
            first_name: name.clone(),
            last_name: name.clone(),
            username: name.clone(),
            image_url: name.clone(),
            role: name.clone(),
            provider_metadata: name.clone(),
            ..Profile::default()
        };
        let id = format!("a|b+c@d:{at}");
        server.app.store().create(&id.parse().unwrap(), profile, &author()).await.unwrap();
        let path = format!("/api/admin/tenants/{}/suspend", cubby::http::segment::encode(&id));
        operator.post(&path, json!({"reason": name})).await;
        operator.post("/api/admin/keys", json!({"name": name})).await;
        let delivery = Delivery {
            svix_id: format!("msg_{at}/..?\"><b>"),
            kind: name.clone().unwrap(),
            tenant: Some(id.parse().unwrap()),
            received: 1,
            outcome: DeliveryOutcome::Rejected,
            duration_us: 1,
            error: name.clone(),
            answer: None,
            body: Some(json!({"data": {"name": name}}).to_string().into()),
        };
        server.app.store().catalog().write(move |tx| deliveries::record(tx, &delivery)).await.unwrap();
    }
    let browser = Browser::signed_in(server.address).await;
    let mut paths: Vec<String> = [
        "",
        "/first-run",
        "/migrations",
        "/tenants",
        "/bulk",
        "/bulk?action=suspend",
        "/sync",
        "/deliveries",
        "/keys",
        "/audit",
        "/settings",
        "/about",
    ]
    .map(|path| format!("/admin{path}"))
    .into();
    for at in 0..names.len() {
        paths.push(format!("/admin/tenants/a%7Cb%2Bc%40d%3A{at}"));
        paths.push(format!("/admin/deliveries/msg_{at}%2F..%3F%22%3E%3Cb%3E"));
    }
    for name in [SCRIPT, ATTRIBUTE, CLOSING, BIDI] {
        let name = cubby::http::segment::encode(name);
        for path in ["/tenants?q=", "/audit?target=", "/deliveries?outcome=failed&user="] {
            paths.push(format!("/admin{path}{name}"));
        }
        paths.push(format!("/admin/tenants/{name}"));
        paths.push(format!("/admin/deliveries/{name}"));
        paths.push(format!("/admin/sign-in?next={name}"));
        paths.push(format!("/admin/{name}"));
    }
    for path in paths {
        let page = browser.get(&path).await;
        assert!(page.text.starts_with("<!doctype html>"), "{path}: {}", page.text);
        for harm in ["<script>", "<img", "<b>", "onfocus=\"", " style=", "javascript:"] {
            assert!(!page.text.contains(harm), "{path} has {harm}: {}", page.text);
        }
        let shown = page.text.chars().find(|c| matches!(c, '\u{202e}' | '\u{2066}' | '\0' | '\u{1b}'));
        let in_field = path.contains("?q=") || path.contains("target=") || path.contains("user=");
        assert!(shown.is_none() || in_field, "{path} has {shown:?}");
        assert!(page.text.len() < 100_000, "{path} has {} bytes", page.text.len());
        let policy = page.header("content-security-policy");
        assert!(policy.contains("script-src 'self';") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
    }
    let shown = browser.get("/admin/tenants/a%7Cb%2Bc%40d%3A3").await.expect(200).text;
    assert!(shown.contains("abc\\u{202e}txt.exe"), "{shown}");
    server.stop().await;
}

#[tokio::test]
async fn pages_of_other_origins_neither_read_nor_use_the_dashboard() {
    let server = Server::with(&[FLAGS, &["--cors-origins", "https://app.example"]].concat()).await;
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin/keys").await.expect(200);
    let form = [("csrf", page.csrf()), ("name", "x")];
    for site in ["same-site", "cross-site"] {
        let headers = [("sec-fetch-site", site), ("sec-fetch-mode", "cors"), ("origin", "https://app.example")];
        let read = browser.get_with("/admin/keys", &headers).await.expect(403);
        assert!(read.text.contains("foreign_origin"), "{}", read.text);
        for header in ["access-control-allow-origin", "access-control-allow-credentials"] {
            assert_eq!(read.header(header), "", "{header}");
        }
        browser.post_with("/admin/keys/make", &form, &headers).await.expect(403);
        let link = [("sec-fetch-site", site), ("sec-fetch-mode", "navigate")];
        browser.get_with("/admin/keys", &link).await.expect(200);
        browser.post_with("/admin/keys/make", &form, &link).await.expect(403);
    }
    let own = [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors"), ("origin", "https://app.example")];
    let read = browser.get_with("/admin/keys", &own).await.expect(200);
    assert_eq!(read.header("access-control-allow-origin"), "");
    assert!(read.text.contains("There are no keys"), "{}", read.text);
    // The operators' routes take the key, which no browser sends by itself.
    let routes = browser.get_with("/api/admin/keys", &own).await.expect(401);
    assert_eq!(routes.header("access-control-allow-origin"), "https://app.example");
    server.stop().await;
}
