//! A stranger on the network: a proxy, or a server that is not ours. Answers every request alike and
//! keeps what it was sent.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// See the module's documentation. Listens until the test's process ends.
pub struct Trap {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Trap {
    /// One that answers with this, which is to begin with a status such as `404 Not Found`.
    pub fn answering(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let (keep, answer) = (heard.clone(), format!("HTTP/1.1 {answer}\r\nconnection: close\r\n\r\n"));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // Kept before it is answered: whoever has the answer finds it here.
                let request = head(&stream);
                keep.lock().unwrap().push(request);
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        Self { address, heard }
    }

    pub fn start() -> Self {
        Self::answering("404 Not Found\r\ncontent-length: 0")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was sent so far, a request each.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// What is sent up to the end of the header, or until the other side has had enough.
fn head(mut stream: &TcpStream) -> String {
    let _ = stream.set_read_timeout(Some(super::PATIENCE));
    let (mut request, mut bytes) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(count @ 1..) => request.extend_from_slice(&bytes[..count]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&request).into_owned()
}
