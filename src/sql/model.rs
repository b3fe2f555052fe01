//! What clients send: the JSON of Hrana 1, 2 and 3.
//!
//! Lenient where real clients differ: fields may be absent, null or unknown, integers may be numbers, and base64 may lack
//! its padding. Types are told by `type`, wherever in the object it stands.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use super::value::Argument;
use crate::sqlite::guest::Value;

/// The most statements of one request, those in batches included. More take memory before they are run.
pub const MOST_STATEMENTS: usize = 20_000;

/// `POST v2/pipeline`, `v3/pipeline`.
#[derive(Debug, Deserialize)]
#[serde(expecting = r#"{"requests":[…]}, and the stream's baton"#)]
pub struct Pipeline {
    /// The stream to go on with; a new one if none.
    #[serde(default)]
    pub baton: Option<String>,
    /// What to do in it.
    #[serde(deserialize_with = "bounded")]
    pub requests: Vec<Request>,
}

/// `POST v3/cursor`.
#[derive(Debug, Deserialize)]
#[serde(expecting = r#"{"batch":{"steps":[…]}}, and the stream's baton"#)]
pub struct Cursor {
    /// The stream to go on with; a new one if none.
    #[serde(default)]
    pub baton: Option<String>,
    /// What to do in it.
    pub batch: Batch,
}

/// `POST v1/execute`.
#[derive(Debug, Deserialize)]
#[serde(expecting = r#"{"stmt":{"sql":"SELECT 1"}}"#)]
pub struct Execute {
    /// What to run.
    pub stmt: Stmt,
}

/// `POST v1/batch`.
#[derive(Debug, Deserialize)]
#[serde(expecting = r#"{"batch":{"steps":[{"stmt":{"sql":"SELECT 1"}}]}}"#)]
pub struct OneBatch {
    /// What to run.
    pub batch: Batch,
}

/// One request in a pipeline.
#[derive(Debug, Deserialize)]
#[serde(try_from = "WireRequest")]
pub enum Request {
    /// Ends the stream.
    Close,
    /// Runs a statement.
    Execute(Stmt),
    /// Runs statements under conditions.
    Batch(Batch),
    /// Runs statements without arguments, separated by semicolons.
    Sequence(Text),
    /// Tells what a statement is.
    Describe(Text),
    /// Keeps a text under a number.
    StoreSql(i64, String),
    /// Forgets it.
    CloseSql(i64),
    /// Tells whether no transaction is open.
    GetAutocommit,
}

/// SQL, or the number that it was stored under.
#[derive(Debug)]
pub enum Text {
    /// The SQL itself.
    Sql(String),
    /// The number.
    Stored(i64),
}

/// A statement.
#[derive(Debug, Deserialize)]
#[serde(try_from = "WireStmt")]
pub struct Stmt {
    /// Its text.
    pub text: Text,
    /// Arguments by position.
    pub args: Vec<Value>,
    /// Arguments by name.
    pub named: Vec<(String, Value)>,
    /// Whether its rows are wanted.
    pub want_rows: bool,
}

/// Statements under conditions.
#[derive(Debug, Deserialize)]
#[serde(expecting = r#"a batch, such as {"steps":[{"stmt":{"sql":"SELECT 1"}}]}"#)]
pub struct Batch {
    /// In order.
    #[serde(deserialize_with = "bounded")]
    pub steps: Vec<Step>,
}

/// A statement of a batch.
#[derive(Debug, Deserialize)]
#[serde(expecting = r#"a step of a batch, such as {"stmt":{"sql":"SELECT 1"}}"#)]
pub struct Step {
    /// It runs only if this holds.
    #[serde(default)]
    pub condition: Option<Condition>,
    /// What runs.
    pub stmt: Stmt,
}

/// A condition on what came before. A step that was skipped is neither ok nor an error.
#[derive(Debug, Deserialize)]
#[serde(try_from = "WireCondition")]
pub enum Condition {
    /// The step ran and succeeded.
    Ok(usize),
    /// The step ran and failed.
    Error(usize),
    /// The opposite.
    Not(Box<Self>),
    /// All hold.
    And(Vec<Self>),
    /// One holds.
    Or(Vec<Self>),
    /// No transaction is open.
    IsAutocommit,
}

#[derive(Deserialize)]
#[serde(expecting = r#"a request, such as {"type":"execute","stmt":{"sql":"SELECT 1"}}"#)]
struct WireRequest {
    r#type: String,
    #[serde(default)]
    stmt: Option<Stmt>,
    #[serde(default)]
    batch: Option<Batch>,
    #[serde(default)]
    sql: Option<String>,
    #[serde(default)]
    sql_id: Option<i64>,
}

impl TryFrom<WireRequest> for Request {
    type Error = String;

    fn try_from(wire: WireRequest) -> Result<Self, String> {
        let lacks = |field: &str| format!("a request {:?} has a field {field}", wire.r#type);
        Ok(match wire.r#type.as_str() {
            "close" => Self::Close,
            "execute" => Self::Execute(wire.stmt.ok_or_else(|| lacks("stmt"))?),
            "batch" => Self::Batch(wire.batch.ok_or_else(|| lacks("batch"))?),
            "sequence" => Self::Sequence(text(wire.sql, wire.sql_id)?),
            "describe" => Self::Describe(text(wire.sql, wire.sql_id)?),
            "store_sql" => {
                let id = wire.sql_id.ok_or_else(|| lacks("sql_id"))?;
                Self::StoreSql(id, wire.sql.ok_or_else(|| lacks("sql"))?)
            }
            "close_sql" => Self::CloseSql(wire.sql_id.ok_or_else(|| lacks("sql_id"))?),
            "get_autocommit" => Self::GetAutocommit,
            other => {
                return Err(format!(
                    "there is no request of the type {other:?}; there are execute, batch, sequence, describe, store_sql, \
                     close_sql, get_autocommit and close"
                ));
            }
        })
    }
}

fn text(sql: Option<String>, id: Option<i64>) -> Result<Text, String> {
    match (sql, id) {
        (Some(sql), None) => Ok(Text::Sql(sql)),
        (None, Some(id)) => Ok(Text::Stored(id)),
        (Some(_), Some(_)) => Err("give sql or sql_id, not both".to_owned()),
        (None, None) => Err("the SQL is missing: give sql, or the sql_id of a stored one".to_owned()),
    }
}

#[derive(Deserialize)]
#[serde(expecting = r#"a statement, such as {"sql":"SELECT 1"}"#)]
struct WireStmt {
    #[serde(default)]
    sql: Option<String>,
    #[serde(default)]
    sql_id: Option<i64>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    named_args: Option<Vec<NamedArgument>>,
    #[serde(default)]
    want_rows: Option<bool>,
}

#[derive(Deserialize)]
#[serde(expecting = r#"a named argument, such as {"name":"a","value":{"type":"integer","value":"1"}}"#)]
struct NamedArgument {
    name: String,
    value: Argument,
}

impl TryFrom<WireStmt> for Stmt {
    type Error = String;

    fn try_from(wire: WireStmt) -> Result<Self, String> {
        let named = wire.named_args.unwrap_or_default().into_iter().map(|named| (named.name, named.value.0));
        Ok(Self {
            text: text(wire.sql, wire.sql_id)?,
            args: wire.args.unwrap_or_default().into_iter().map(|argument| argument.0).collect(),
            named: named.collect(),
            want_rows: wire.want_rows.unwrap_or(true),
        })
    }
}

#[derive(Deserialize)]
#[serde(expecting = r#"a condition, such as {"type":"ok","step":0}"#)]
struct WireCondition {
    r#type: String,
    #[serde(default)]
    step: Option<usize>,
    #[serde(default)]
    cond: Option<Box<Condition>>,
    #[serde(default)]
    conds: Option<Vec<Condition>>,
}

impl TryFrom<WireCondition> for Condition {
    type Error = String;

    fn try_from(wire: WireCondition) -> Result<Self, String> {
        let lacks = |field: &str| format!("a condition {:?} has a field {field}", wire.r#type);
        Ok(match wire.r#type.as_str() {
            "ok" => Self::Ok(wire.step.ok_or_else(|| lacks("step"))?),
            "error" => Self::Error(wire.step.ok_or_else(|| lacks("step"))?),
            "not" => Self::Not(wire.cond.ok_or_else(|| lacks("cond"))?),
            "and" => Self::And(wire.conds.ok_or_else(|| lacks("conds"))?),
            "or" => Self::Or(wire.conds.ok_or_else(|| lacks("conds"))?),
            "is_autocommit" => Self::IsAutocommit,
            other => {
                return Err(format!(
                    "there is no condition of the type {other:?}; there are ok, error, not, and, or and is_autocommit"
                ));
            }
        })
    }
}

/// How many statements something counts as.
trait Counted {
    fn count(&self) -> usize {
        1
    }
}

impl Counted for Step {}

impl Counted for Request {
    fn count(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.steps.len().max(1),
            _ => 1,
        }
    }
}

/// A list of at most [`MOST_STATEMENTS`].
fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de> + Counted>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de> + Counted> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a list of at most {MOST_STATEMENTS} statements; send more in several requests")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let (mut list, mut count) = (Vec::new(), 0);
            while let Some(item) = items.next_element::<T>()? {
                count += item.count();
                if count > MOST_STATEMENTS {
                    return Err(serde::de::Error::invalid_length(count, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(List(PhantomData))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_null_and_unknown_fields_are_fine() {
        let body = json!({
            "baton": null, "replication_index": null,
            "requests": [
                {"type": "execute", "sql": null, "sql_id": null, "batch": null,
                 "stmt": {"sql": "SELECT 1", "sql_id": null, "args": null, "replication_index": null}},
                {"type": "batch", "batch": {"replication_index": null, "steps": [
                    {"condition": null, "stmt": {"sql_id": 3}},
                    {"condition": {"type": "not", "cond": {"type": "and", "conds": [
                        {"type": "ok", "step": 0}, {"type": "or", "conds": []}, {"type": "is_autocommit"}]}},
                     "stmt": {"sql": "x", "named_args": [{"name": "a", "value": {"type": "null"}}], "want_rows": false}},
                ]}},
                {"type": "store_sql", "sql_id": 1, "sql": "SELECT 2"}, {"type": "close_sql", "sql_id": 1},
                {"type": "describe", "sql_id": 1}, {"type": "sequence", "sql": ";"}, {"type": "get_autocommit"},
                {"type": "close"},
            ],
        });
        let body: Pipeline = serde_json::from_value(body).unwrap();
        assert_eq!(body.requests.len(), 8);
        for bad in [
            json!({"type": "execute"}),
            json!({"type": "execute", "stmt": {}}),
            json!({"type": "execute", "stmt": {"sql": "x", "sql_id": 1}}),
            json!({"type": "drop"}),
            json!({}),
        ] {
            assert!(serde_json::from_value::<Request>(bad.clone()).is_err(), "{bad}");
        }
    }
}
