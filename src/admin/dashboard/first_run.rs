//! The first run: step by step from nothing to users with databases, a test of the endpoint, and a sample.

use askama::Template;
use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    deliveries::{self, Listed},
    operator::{Change, Operator},
    page::{Frame, html},
    sessions::Notice,
    view,
};
use crate::{
    admin::{first_run::FirstRun, tenants::Created},
    http::{
        problem::Problem,
        segment::{Segment, encode},
    },
};

/// Deliveries that are shown.
const RECENT: u32 = 5;

#[derive(Template)]
#[template(path = "first_run.html")]
struct Page {
    frame: Frame,
    found: FirstRun,
    sample_href: String,
    deliveries: Vec<deliveries::Line>,
}

/// `GET /admin/first-run`.
pub(super) async fn page(operator: Operator) -> Result<Response, Problem> {
    let found: FirstRun = operator.get("/api/admin/first-run").await?;
    let listed: Listed = operator.get(&format!("/api/admin/deliveries?limit={RECENT}")).await?;
    let page = Page {
        frame: operator.frame("First run", "/admin"),
        sample_href: format!("/admin/tenants/{}", encode(&found.sample)),
        found,
        deliveries: listed.deliveries.iter().map(deliveries::line).collect(),
    };
    Ok(html(StatusCode::OK, &page))
}

/// The forms have only their token.
#[derive(Deserialize)]
pub(super) struct Nothing {}

/// What the route of the test answers.
#[derive(Deserialize)]
struct Tested {
    delivery_id: String,
    status: u16,
    answer: Option<Value>,
    code: Option<String>,
    detail: Option<String>,
}

/// `POST /admin/first-run/{action}`: the test of the endpoint, or the sample.
pub(super) async fn change(Segment(action): Segment, Change { operator, .. }: Change<Nothing>) -> Response {
    let notice = match action.as_str() {
        "test" => match operator.call(Method::POST, "/api/admin/test-deliveries", None).await {
            Ok(tested) => told(&tested),
            Err(problem) => Notice::failed(format!("Nothing was sent: {}", view::long(&problem.detail))),
        },
        "sample" => match operator.call::<Created>(Method::POST, "/api/admin/sample-tenants", None).await {
            Ok(Created { id, created: true }) => Notice::done(format!("The tenant {id} is there now.")),
            Ok(Created { id, .. }) => Notice::done(format!("The tenant {id} was there already.")),
            Err(problem) => Notice::failed(format!("No tenant was made: {}", view::long(&problem.detail))),
        },
        _ => return Problem::no_route().into_response(),
    };
    operator.then("/admin/first-run", notice)
}

fn told(tested: &Tested) -> Notice {
    let id = view::cell(&tested.delivery_id);
    let answer = tested.answer.as_ref().and_then(|answer| answer["status"].as_str()).unwrap_or_default();
    match tested.status {
        200 => Notice::done(format!(
            "The endpoint works: delivery {id} was signed, sent, verified and recorded. It answered 200 {}, since a test \
             changes nobody.",
            view::cell(answer)
        )),
        status => Notice::failed(format!(
            "The endpoint refused delivery {id}: {status} {}: {}",
            view::optional(tested.code.as_deref()),
            tested.detail.as_deref().map(view::long).unwrap_or_default()
        )),
    }
}
