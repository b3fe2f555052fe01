//! HTTP over a connection that is kept, as lean as can be: what a load generator takes, the server cannot have.

use std::net::SocketAddr;

use reqwest::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::server::Server;

/// The operator's key of the servers here.
pub const KEY: &str = "the-key-of-a-benchmark-that-nobody-else-has";

/// A connection.
pub struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(64 << 10) }
    }

    /// The status and the body of an answer, all of which has come.
    pub async fn ask(&mut self, request: &[u8]) -> (u16, &[u8]) {
        self.stream.write_all(request).await.unwrap();
        self.buffer.clear();
        let head = loop {
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server closed the connection");
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = std::str::from_utf8(&self.buffer[..head]).unwrap();
        let status = text[9..12].parse().unwrap();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap_or_else(|| panic!("an answer without a length: {text}")).parse().unwrap();
        while self.buffer.len() < head + length {
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server closed the connection");
        }
        (status, &self.buffer[head..])
    }
}

pub fn get(path: &str, address: SocketAddr, header: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{header}\r\n").into_bytes()
}

pub fn post(path: &str, address: SocketAddr, body: &str) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n");
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

pub fn address(server: &Server) -> SocketAddr {
    server.base.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Follows nothing, so that what a page leads to is seen.
pub fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// The cookie of an operator who has signed in by the form.
pub async fn sign_in(http: &reqwest::Client, server: &Server) -> String {
    let url = format!("{}/admin/sign-in", server.base);
    let form = cookie(&http.get(&url).send().await.unwrap(), "cubby_sign_in");
    let (_, token) = form.split_once('=').unwrap();
    let body = format!("csrf={token}&key={KEY}&next=/admin");
    let kind = "application/x-www-form-urlencoded";
    let answer = http.post(&url).header(COOKIE, &form).header(CONTENT_TYPE, kind).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 303, "signed in");
    cookie(&answer, "cubby_operator")
}

/// A cookie that an answer sets, as a request sends it back.
fn cookie(answer: &reqwest::Response, name: &str) -> String {
    let all = answer.headers().get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap());
    let mut pairs = all.map(|text| text.split(';').next().unwrap());
    pairs.find(|pair| pair.split_once('=').is_some_and(|(is, _)| is == name)).unwrap().to_owned()
}
