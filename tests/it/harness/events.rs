//! A client of server-sent events.

use serde_json::Value;

/// One event, as the client has it.
#[derive(Debug)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: Value,
}

/// An answer that lasts.
pub struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    pub fn of(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, text: String::new() }
    }

    /// The next event; none when the server has ended the answer.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let mut fields = block.lines().filter_map(|line| line.split_once(": "));
                    fields.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
                };
                let event = field("event").map(|name| Event {
                    id: field("id").unwrap_or_default(),
                    name,
                    data: serde_json::from_str(&field("data").unwrap()).unwrap(),
                });
                self.text = rest.to_owned();
                // Else it was a comment.
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let piece = self.response.chunk().await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    pub async fn next(&mut self) -> Event {
        self.event().await.expect("an event")
    }

    /// Why it ended; nothing comes after that. Events before it are skipped.
    pub async fn end(&mut self) -> String {
        loop {
            let event = self.next().await;
            if event.name == "end" {
                assert!(self.event().await.is_none());
                return event.data["why"].as_str().unwrap().to_owned();
            }
        }
    }
}
