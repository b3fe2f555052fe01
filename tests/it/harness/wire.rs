//! Requests byte by byte, for what a well-behaved client cannot say.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use super::PATIENCE;

/// An answer as it came over the socket.
#[derive(Debug, Clone)]
pub struct RawReply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// A connection of one's own.
pub struct Wire(TcpStream);

impl Wire {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.write_all(bytes).unwrap();
        self
    }

    /// Everything until the server closes the connection.
    pub fn rest(mut self) -> RawReply {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        RawReply { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// Says that nothing more will be sent.
    pub fn finish(self) -> Self {
        self.0.shutdown(Shutdown::Write).unwrap();
        self
    }
}

/// One request with a target that is sent as it stands. Blocks: call it from `spawn_blocking`.
pub fn exchange(address: SocketAddr, method: &str, target: &[u8]) -> RawReply {
    let mut request = format!("{method} ").into_bytes();
    request.extend_from_slice(target);
    request.extend_from_slice(b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    if method == "POST" {
        let body = br#"{"text":"x"}"#;
        request.extend_from_slice(b"content-type: application/json\r\n");
        request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
    } else {
        request.extend_from_slice(b"\r\n");
    }
    let mut wire = Wire::connect(address);
    wire.send(&request);
    wire.rest()
}
