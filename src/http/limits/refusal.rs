//! What a request is answered that a limit refuses.

use axum::http::{HeaderValue, StatusCode, header};

use crate::http::problem::Problem;

/// 503: the server as a whole has too much to do.
pub fn overloaded(why: &'static str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", format!("{why}; try again in a moment"))
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

/// Whether a request was refused because the server as a whole has too much to do.
pub fn is_overloaded(problem: &Problem) -> bool {
    problem.code == "overloaded"
}

/// 429: one user or one address holds too much.
pub fn too_much(whose: &'static str, what: &'static str) -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_much_at_once",
        format!("too many {what} for one {whose}; wait for answers to arrive and read them, then try again"),
    )
    .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}
