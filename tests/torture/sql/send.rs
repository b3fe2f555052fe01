//! What is sent, and what its answer means.

use serde_json::{Value, json};

use crate::http::{Http, Reply};

pub fn pipeline_path(tenant: &str) -> String {
    format!("/{tenant}/sql/v2/pipeline")
}

pub fn pipeline(baton: Option<&str>, requests: &[Value]) -> Value {
    json!({ "baton": baton, "requests": requests })
}

pub fn execute(sql: &str) -> Value {
    json!({"type": "execute", "stmt": {"sql": sql}})
}

pub fn close() -> Value {
    json!({"type": "close"})
}

/// A statement that writes one row.
pub fn bound(sql: &str, name: &str, number: u64, total: u64, text: &str) -> Value {
    let integer = |value: u64| json!({"type": "integer", "value": value.to_string()});
    let string = |value: &str| json!({"type": "text", "value": value});
    json!({"sql": sql, "args": [string(name), integer(number), integer(total), string(text)], "want_rows": false})
}

/// A transaction as clients' `batch()` sends it.
pub fn batch(statements: impl Iterator<Item = Value>) -> Value {
    let mut steps = vec![json!({"stmt": {"sql": "BEGIN"}})];
    let ok = |step: usize| json!({"type": "ok", "step": step});
    for stmt in statements.chain([json!({"sql": "COMMIT"})]) {
        let condition = ok(steps.len() - 1);
        steps.push(json!({ "condition": condition, "stmt": stmt }));
    }
    let failed = json!({"type": "not", "cond": ok(steps.len() - 1)});
    steps.push(json!({"condition": failed, "stmt": {"sql": "ROLLBACK"}}));
    json!({ "steps": steps })
}

/// What an answer to writes says.
pub enum Said {
    /// All of it was done; the baton to go on with.
    Ok(Option<String>),
    /// Nothing of it was done, and why.
    Failed(String),
    Unknown,
    Unsent,
}

impl Said {
    pub fn of(reply: &Reply) -> Self {
        match reply {
            Reply::Cut => Self::Unknown,
            Reply::Refused => Self::Unsent,
            Reply::Answer(answer) if answer.status >= 500 => Self::Unknown,
            // Of rows there are none here, so only an error has a message.
            Reply::Answer(answer) if answer.status != 200 || answer.text().contains(r#""message":"#) => {
                Self::Failed(answer.text())
            }
            Reply::Answer(answer) => Self::Ok(answer.json()["baton"].as_str().map(str::to_owned)),
        }
    }
}

/// Removes a user's transactions.
pub fn empty(http: &mut Http, tenant: &str) -> Result<(), String> {
    let statements = ["DELETE FROM parts", "UPDATE counted SET transactions = 0"];
    let batch = batch(statements.iter().map(|sql| json!({ "sql": sql })));
    let reply =
        http.post(&pipeline_path(tenant), &pipeline(None, &[json!({"type": "batch", "batch": batch}), close()]));
    match Said::of(&reply) {
        Said::Ok(_) => Ok(()),
        _ => Err(format!("EMPTY: {tenant}: {reply}")),
    }
}
