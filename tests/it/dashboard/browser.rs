//! A browser without a window.

use std::{collections::BTreeMap, net::SocketAddr, sync::Mutex};

use reqwest::{header, redirect::Policy};

pub const ADMIN: &str = "an operator's key of some length";
pub const FLAGS: &[&str] = &["--admin-api-key", ADMIN];

pub struct Browser {
    http: reqwest::Client,
    base: String,
    cookies: Mutex<BTreeMap<String, String>>,
}

/// What came back.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub location: String,
    pub text: String,
    pub set_cookies: Vec<String>,
    headers: header::HeaderMap,
}

impl Page {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// The token of its forms.
    pub fn csrf(&self) -> &str {
        let after = self.text.split("name=\"csrf\" value=\"").nth(1).expect("a form with a token");
        after.split('"').next().unwrap()
    }
}

impl Browser {
    pub fn new(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        Self { http, base: format!("http://{address}"), cookies: Mutex::default() }
    }

    pub async fn signed_in(address: SocketAddr) -> Self {
        let browser = Self::new(address);
        browser.sign_in(ADMIN, "/admin").await.expect(303);
        browser
    }

    /// Signs in as the form does.
    pub async fn sign_in(&self, key: &str, next: &str) -> Page {
        let page = self.get("/admin/sign-in").await.expect(200);
        self.submit(&page, "/admin/sign-in", &[("key", key), ("next", next)]).await
    }

    pub async fn get(&self, path: &str) -> Page {
        self.get_with(path, &[]).await
    }

    /// With headers that a browser adds.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Page {
        let request = self.http.get(format!("{}{path}", self.base));
        self.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    /// Sends a form that is on a page.
    pub async fn submit(&self, page: &Page, action: &str, fields: &[(&str, &str)]) -> Page {
        let fields: Vec<_> = [("csrf", page.csrf())].into_iter().chain(fields.iter().copied()).collect();
        self.post(action, &fields).await
    }

    /// Sends a form as another site may.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.post_with(path, fields, &[]).await
    }

    /// The same with headers that a browser adds.
    pub async fn post_with(&self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Page {
        let encode = |text: &str| cubby::http::segment::encode(text).replace("%20", "+");
        let pairs = fields.iter().map(|(name, value)| format!("{name}={}", encode(value)));
        let request = self.http.post(format!("{}{path}", self.base));
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.send(request.body(pairs.collect::<Vec<_>>().join("&"))).await
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Page {
        let cookies: Vec<String> =
            self.cookies.lock().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let response = request.header(header::COOKIE, cookies.join("; ")).send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let set = headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned());
        let set_cookies: Vec<String> = set.collect();
        for cookie in &set_cookies {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            let mut kept = self.cookies.lock().unwrap();
            match cookie.contains("Max-Age=0;") {
                true => drop(kept.remove(name)),
                false => drop(kept.insert(name.to_owned(), value.to_owned())),
            }
        }
        let location = headers.get(header::LOCATION).map_or("", |value| value.to_str().unwrap()).to_owned();
        Page { status, location, text, set_cookies, headers }
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method.parse().unwrap(), format!("{}{path}", self.base))
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.lock().unwrap().get(name).cloned()
    }

    pub fn set_cookie(&self, name: &str, value: &str) {
        self.cookies.lock().unwrap().insert(name.to_owned(), value.to_owned());
    }
}
