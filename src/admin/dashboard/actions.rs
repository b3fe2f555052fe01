//! What the forms of a tenant's page do: each is one request to the operators' routes.

use axum::{
    body::Body,
    http::Method,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    operator::{Asked, Change, Operator},
    sessions::Notice,
    view,
};
use crate::{
    admin::{migrations::Migrated, quota::OwnQuota},
    catalog::model::Row,
    config::Size,
    http::{
        problem::Problem,
        segment::{Segment, encode, parameters},
    },
};

/// A form's address.
#[derive(Deserialize)]
pub(super) struct Target {
    user_id: String,
    action: String,
}

/// What the forms have.
#[derive(Deserialize)]
pub(super) struct Fields {
    #[serde(default)]
    reason: String,
    /// The id, typed by the operator, where something is lost by the action.
    #[serde(default)]
    confirm: String,
    /// Whose data is adopted, and whether what there is is given up.
    #[serde(default)]
    from: String,
    #[serde(default)]
    replace: bool,
    /// A quota; empty for none of its own.
    #[serde(default)]
    bytes: String,
    #[serde(default)]
    rate: String,
}

/// `POST /admin/tenants/{user_id}/{action}`: calls the route of the action and leads back to the tenant.
pub(super) async fn change(Segment(target): Segment<Target>, change: Change<Fields>) -> Response {
    let Change { operator, form } = change;
    let Target { user_id: id, action } = target;
    let page = format!("/admin/tenants/{}", encode(&id));
    let route = format!("/api{page}");
    let loses = matches!(action.as_str(), "delete" | "purge") || (action == "adopt" && form.replace);
    if loses && form.confirm.trim() != id {
        let why = "Nothing was changed: the id that was typed is not this tenant's.";
        return operator.then(&page, Notice::failed(why));
    }
    let (method, path, body) = match action.as_str() {
        "migrate" => {
            let done = operator.call::<Migrated>(Method::POST, &format!("{route}/migrate"), None).await;
            return operator.then(&page, told(done.map(|done| migrated(&done))));
        }
        "quota" => {
            let done = quota(&operator, &route, &form).await;
            return operator.then(&page, done);
        }
        "delete" => (Method::DELETE, route, None),
        "purge" => (Method::POST, format!("{route}/purge"), Some(json!({"yes": true}))),
        "suspend" => (Method::POST, format!("{route}/suspend"), Some(json!({"reason": form.reason.trim()}))),
        "adopt" => {
            let body = json!({"from": form.from.trim(), "replace": form.replace});
            (Method::POST, format!("{route}/adopt"), Some(body))
        }
        "resume" | "restore" | "revive" => (Method::POST, format!("{route}/{action}"), None),
        _ => return Problem::no_route().into_response(),
    };
    let done = operator.call::<Row>(method, &path, body).await;
    operator.then(&page, told(done.map(|row| outcome(&action, &row))))
}

fn told(done: Result<String, Problem>) -> Notice {
    match done {
        Ok(text) => Notice::done(text),
        Err(problem) => Notice::refused(&problem),
    }
}

/// The state that a tenant is in now, and what is next.
fn outcome(action: &str, row: &Row) -> String {
    let state = if row.purged.is_some() { "purged" } else { row.state.as_str() };
    let next = match (action, row.purge_after) {
        ("suspend", _) => "Its reads and writes are refused with the reason, until it is resumed.".to_owned(),
        ("delete", Some(until)) => {
            format!("Its file is kept until {}; a restoration brings it back.", view::time(until))
        }
        ("purge", _) => "Nothing is left of its data. It can be revived, empty.".to_owned(),
        ("revive", _) => "It has an empty database.".to_owned(),
        ("restore", _) => "It has the data that it had.".to_owned(),
        ("adopt", _) => "It has the data of the other id, of which nothing is left there.".to_owned(),
        _ => String::new(),
    };
    format!("The tenant is {state} now. {next}").trim_end().to_owned()
}

fn migrated(done: &Migrated) -> String {
    match done.from {
        Some(from) => format!("The database has schema {} now; it had {from}.", done.schema),
        None => format!("The database has schema {}, the newest, and had it before.", done.schema),
    }
}

/// Sets both bounds as the form has them.
async fn quota(operator: &Operator, route: &str, form: &Fields) -> Notice {
    let bytes = match form.bytes.trim() {
        "" => Value::Null,
        text => match text.parse::<Size>() {
            Ok(size) => json!(size.0),
            Err(why) => return Notice::failed(format!("Nothing was changed: the size: {why}.")),
        },
    };
    let rate = Some(form.rate.trim()).filter(|rate| !rate.is_empty());
    let body = json!({"bytes": bytes, "rate": rate});
    let done = operator.call::<OwnQuota>(Method::POST, &format!("{route}/quota"), Some(body)).await;
    told(done.map(|OwnQuota { quota, .. }| {
        let bytes = match quota.bytes {
            None => "as much as the settings say".to_owned(),
            Some(0) => "without a bound".to_owned(),
            Some(bytes) => format!("up to {}", view::size(bytes)),
        };
        let rate = quota.rate.map_or("at the rate of the settings".to_owned(), |rate| format!("at {rate}"));
        format!("The tenant may store {bytes}, and make requests {rate}.")
    }))
}

/// In which form, and of which table.
#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    format: String,
    #[serde(default)]
    table: String,
}

/// `GET /admin/tenants/{user_id}/export`: the answer of the route, for the browser to save.
pub(super) async fn export(
    operator: Operator,
    Segment(id): Segment,
    Asked(Wanted { format, table }): Asked<Wanted>,
) -> Result<Response, Problem> {
    let query = parameters(&[("format", &format), ("table", table.trim())]);
    let route = format!("/api/admin/tenants/{}/export?{}", encode(&id), query.trim_start_matches('&'));
    operator.pass(Method::GET, &route, Body::empty()).await
}
