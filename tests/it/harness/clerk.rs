//! Clerk, as far as its published OpenAPI document describes it: `GET /users`, `/users/count` and
//! `/users/{id}`, with its paging, its errors, and its bad days.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

pub const KEY: &str = "sk_test_0123456789";

/// What the next request meets instead of an answer.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// 429, to come back after so many seconds.
    TooMany(u64),
    /// An error of the server's own, with a body that is not JSON.
    Broken,
    /// Half an answer, then the connection is cut.
    CutOff,
    /// 200 with something that is no list of users.
    Nonsense,
    /// A good answer that comes when [`Clerk::let_go`] says so.
    Slow,
    /// No answer at all.
    Silence,
    /// A 404 of something on the way, not of Clerk.
    LostOnTheWay,
    /// The key is no longer good.
    Forbidden,
}

#[derive(Default)]
pub struct World {
    /// In the order of creation.
    pub users: Vec<Value>,
    pub faults: VecDeque<Fault>,
    /// Met by every request once `faults` is empty.
    pub always: Option<Fault>,
    /// So many requests are answered well before `faults` and `always` are met.
    pub well: usize,
    /// Deleted as soon as they were listed: before somebody can go on from there.
    pub vanish: Vec<String>,
    /// A page after a user who is gone is empty, instead of an error.
    pub lenient: bool,
    /// Pages have at most so many users, whatever is asked for, and whatever comes after them.
    pub short: Option<usize>,
    /// Every page is the first one.
    pub circular: bool,
    /// Every path and query asked for.
    pub asked: Vec<String>,
    /// When each was.
    pub asked_at: Vec<std::time::Instant>,
    /// Claims this many users more than there are.
    pub overcount: u64,
    /// Leaves these out of lists, although they exist.
    pub unlisted: Vec<String>,
    /// The next list is made up at once, and answered when [`Clerk::let_go`] says so.
    pub hold_list: bool,
    /// Told when an answer is held back, and when it may go.
    slow: Arc<[Notify; 2]>,
}

#[derive(Clone)]
pub struct Clerk {
    pub world: Arc<Mutex<World>>,
    pub address: SocketAddr,
}

impl Clerk {
    pub async fn start() -> Self {
        let world = Arc::<Mutex<World>>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/v1/users", get(list))
            .route("/v1/users/count", get(count))
            .route("/v1/users/{id}", get(one))
            .with_state(world.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { world, address }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The flags with which a server, or a command, asks this one.
    pub fn flags(&self) -> Vec<String> {
        ["--clerk-secret-key", KEY, "--clerk-api-url", &self.url()].map(str::to_owned).to_vec()
    }

    pub fn add(&self, user: Value) {
        self.world.lock().users.push(user);
    }

    pub fn remove(&self, id: &str) {
        self.world.lock().users.retain(|user| user["id"] != id);
    }

    pub fn fault(&self, faults: &[Fault]) {
        self.world.lock().faults.extend(faults);
    }

    /// Waits until a slow answer is asked for, and lets it go.
    pub async fn let_go(&self) {
        self.let_go_after(async {}).await;
    }

    /// The same, with something to do meanwhile.
    pub async fn let_go_after(&self, meanwhile: impl Future<Output = ()>) {
        let slow = self.world.lock().slow.clone();
        slow[0].notified().await;
        meanwhile.await;
        slow[1].notify_one();
    }

    /// How many requests were made for paths that start so.
    pub fn asked(&self, start: &str) -> usize {
        self.world.lock().asked.iter().filter(|path| path.starts_with(start)).count()
    }
}

type Shared = State<Arc<Mutex<World>>>;

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({
        "errors": [{"message": message, "long_message": message, "code": code, "meta": {}}],
        "clerk_trace_id": "trace_1",
    });
    (status, Json(body)).into_response()
}

/// What every request goes through; `Err` is the answer.
async fn enter(world: &Arc<Mutex<World>>, path: String, headers: &HeaderMap) -> Result<(), Response> {
    let fault = {
        let mut world = world.lock();
        world.asked.push(path);
        world.asked_at.push(std::time::Instant::now());
        match world.well.checked_sub(1) {
            Some(left) => {
                world.well = left;
                None
            }
            None => world.faults.pop_front().or(world.always),
        }
    };
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != &format!("Bearer {KEY}")) {
        return Err(error(StatusCode::UNAUTHORIZED, "authentication_invalid", "The provided Secret Key is invalid."));
    }
    assert!(headers.contains_key("clerk-api-version"), "the version is pinned");
    match fault {
        None => Ok(()),
        Some(Fault::TooMany(seconds)) => {
            let mut response = error(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests.");
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            Err(response)
        }
        Some(Fault::Broken) => Err((StatusCode::BAD_GATEWAY, "<html>bad gateway</html>").into_response()),
        Some(Fault::CutOff) => {
            let parts = [Ok(Bytes::from_static(b"[{\"id\":\"user_")), Err(std::io::Error::other("cut"))];
            Err(Body::from_stream(futures_util::stream::iter(parts)).into_response())
        }
        Some(Fault::Nonsense) => Err(Json(json!({"users": "many"})).into_response()),
        Some(Fault::Slow) => {
            let slow = world.lock().slow.clone();
            slow[0].notify_one();
            slow[1].notified().await;
            Ok(())
        }
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Forbidden) => Err(error(StatusCode::FORBIDDEN, "authorization_invalid", "Unauthorized request.")),
        Some(Fault::LostOnTheWay) => Err((StatusCode::NOT_FOUND, "no such page").into_response()),
    }
}

/// The query, decoded as a web server decodes it: a bare `+` is a space.
fn decode(query: Option<&str>) -> BTreeMap<String, Vec<String>> {
    let text =
        |part: &str| percent_encoding::percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.entry(text(name)).or_default().push(text(value));
    }
    found
}

async fn list(State(shared): Shared, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    if let Err(answer) = enter(&shared, format!("/users?{}", query.clone().unwrap_or_default()), &headers).await {
        return answer;
    }
    let query = decode(query.as_deref());
    let first = |name: &str| query.get(name).and_then(|values| values.first()).map(String::as_str);
    // More than 500 is not refused: it is as if nothing had been asked for.
    let limit = first("limit").and_then(|text| text.parse().ok()).filter(|n| (1..=500).contains(n)).unwrap_or(10);
    let offset: usize = first("offset").and_then(|text| text.parse().ok()).unwrap_or(0);
    let ascending = match first("order_by").unwrap_or("-created_at") {
        "created_at" | "+created_at" => true,
        "-created_at" => false,
        other => {
            return error(StatusCode::UNPROCESSABLE_ENTITY, "form_param_value_invalid", &format!("order_by {other:?}"));
        }
    };
    let (page, held) = {
        let mut world = shared.lock();
        let mut users: Vec<&Value> = world.users.iter().collect();
        users.retain(|user| !world.unlisted.iter().any(|id| user["id"] == **id));
        if let Some(ids) = query.get("user_id") {
            if ids.len() > 100 {
                return error(StatusCode::UNPROCESSABLE_ENTITY, "form_param_exceeds_allowed_size", "at most 100 ids");
            }
            users = world.users.iter().filter(|user| ids.iter().any(|id| user["id"] == **id)).collect();
        }
        if !ascending {
            users.reverse();
        }
        if let Some(after) = first("starting_after").filter(|_| !world.circular) {
            if offset > 0 {
                return error(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "form_param_value_invalid",
                    "starting_after with an offset",
                );
            }
            let Some(at) = users.iter().position(|user| user["id"] == after) else {
                if world.lenient {
                    return Json(json!([])).into_response();
                }
                return error(StatusCode::NOT_FOUND, "resource_not_found", "no such cursor");
            };
            users.drain(..=at);
        }
        let limit = world.short.map_or(limit, |short| short.min(limit));
        let page: Vec<Value> = users.into_iter().skip(offset).take(limit).cloned().collect();
        let (listed, vanish) =
            (page.iter().map(|user| &user["id"]).collect::<Vec<_>>(), std::mem::take(&mut world.vanish));
        let (gone, left) = vanish.into_iter().partition(|id| listed.iter().any(|listed| *listed == id));
        let gone: Vec<String> = gone;
        world.vanish = left;
        world.users.retain(|user| !gone.iter().any(|id| user["id"] == **id));
        let held = std::mem::take(&mut world.hold_list).then(|| world.slow.clone());
        (page, held)
    };
    if let Some(slow) = held {
        slow[0].notify_one();
        slow[1].notified().await;
    }
    Json(page).into_response()
}

async fn count(State(world): Shared, headers: HeaderMap) -> Response {
    if let Err(answer) = enter(&world, "/users/count".into(), &headers).await {
        return answer;
    }
    let world = world.lock();
    Json(json!({"object": "total_count", "total_count": world.users.len() as u64 + world.overcount})).into_response()
}

async fn one(State(world): Shared, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if let Err(answer) = enter(&world, format!("/users/{id}"), &headers).await {
        return answer;
    }
    match world.lock().users.iter().find(|user| user["id"] == *id) {
        Some(user) => Json(user.clone()).into_response(),
        None => error(StatusCode::NOT_FOUND, "resource_not_found", "No user was found with that id."),
    }
}
