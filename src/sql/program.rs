//! What one request asks for, with stored SQL filled in: nothing of it depends on what statements do.

use std::sync::Arc;

use super::{
    model::{Batch, Condition, Request, Stmt, Text},
    texts::Texts,
};
use crate::sqlite::guest::{
    Kind, Sql, SqlError, Statement,
    text::{self, seems_to_read as reads},
};

/// What is to be done, in order.
#[derive(Debug)]
pub struct Program {
    /// One for each request.
    pub orders: Vec<Order>,
    /// Whether the stream ends with it.
    pub closes: bool,
}

/// One request.
#[derive(Debug)]
pub enum Order {
    /// A statement.
    Execute(Statement<'static>),
    /// Statements under conditions.
    Batch(Vec<Step>),
    /// Statements without arguments, separated by semicolons.
    Sequence(Arc<str>),
    /// What a statement is.
    Describe(Arc<str>),
    /// Whether no transaction is open.
    Autocommit,
    /// It is done already; its type is the answer.
    Done(&'static str),
    /// It cannot be done.
    Failed(SqlError),
}

/// A statement of a batch.
#[derive(Debug)]
pub struct Step {
    /// It runs only if this holds.
    pub condition: Option<Condition>,
    /// What runs; an error if its stored SQL is not there.
    pub statement: Result<Statement<'static>, SqlError>,
}

/// The most bytes of stored SQL in one request, each use of a text counted: all of them are looked at before anything
/// is run.
const MOST_STORED: usize = 16 << 20;

impl Program {
    /// Of a pipeline. Texts are stored and forgotten here, in the order of the requests.
    pub fn of(requests: Vec<Request>, texts: &mut Texts) -> Self {
        let (mut closes, mut room) = (false, MOST_STORED);
        let mut orders = Vec::with_capacity(requests.len());
        for request in requests {
            if closes {
                let why = "the stream was closed by a request before this one";
                orders.push(Order::Failed(SqlError::new("STREAM_CLOSED", why)));
                continue;
            }
            let failed = Order::Failed;
            orders.push(match request {
                Request::Close => {
                    closes = true;
                    Order::Done("close")
                }
                Request::Execute(stmt) => statement(stmt, texts, &mut room).map_or_else(failed, Order::Execute),
                Request::Batch(batch) => Order::Batch(steps(batch, texts, &mut room)),
                Request::Sequence(sql) => resolve(sql, texts, &mut room).map_or_else(failed, Order::Sequence),
                Request::Describe(sql) => resolve(sql, texts, &mut room).map_or_else(failed, Order::Describe),
                Request::StoreSql(id, sql) => texts.store(id, sql).map_or_else(failed, |()| Order::Done("store_sql")),
                Request::CloseSql(id) => {
                    texts.forget(id);
                    Order::Done("close_sql")
                }
                Request::GetAutocommit => Order::Autocommit,
            });
        }
        Self { orders, closes }
    }

    /// Of one batch.
    pub fn batch(batch: Batch, texts: &Texts) -> Self {
        Self { orders: vec![Order::Batch(steps(batch, texts, &mut { MOST_STORED }))], closes: false }
    }

    /// Whether every statement from `order` on looks as if it only read. SQLite is asked when it runs.
    pub fn seems_to_read(&self, order: usize) -> bool {
        self.orders[order.min(self.orders.len())..].iter().all(|order| match order {
            Order::Execute(statement) => reads(&statement.sql),
            Order::Batch(steps) => {
                steps.iter().all(|step| step.statement.as_ref().map_or(true, |statement| reads(&statement.sql)))
            }
            Order::Sequence(sql) => text::split(sql).all(reads),
            Order::Describe(_) | Order::Autocommit | Order::Done(_) | Order::Failed(_) => true,
        })
    }

    /// Whether it looks as if it left a transaction open: the last statement that controls one begins it.
    pub fn leaves_open(&self) -> bool {
        let mut open = false;
        let mut look = |sql: &str| match text::transaction_verb(sql) {
            Some(Kind::Begin(_) | Kind::Savepoint) => open = true,
            Some(_) => open = false,
            None => {}
        };
        for order in &self.orders {
            match order {
                Order::Execute(statement) => look(&statement.sql),
                Order::Batch(steps) => {
                    steps.iter().filter_map(|step| step.statement.as_ref().ok()).for_each(|s| look(&s.sql));
                }
                Order::Sequence(sql) => text::split(sql).for_each(&mut look),
                _ => {}
            }
        }
        open
    }

    /// Whether it looks as if it only read, and changed nothing of its stream.
    pub fn only_reads(&self) -> bool {
        let reads_by_itself = |sql: &str| reads(sql) && text::transaction_verb(sql).is_none() && !text::is_pragma(sql);
        self.orders.iter().all(|order| match order {
            Order::Execute(statement) => reads_by_itself(&statement.sql),
            Order::Batch(steps) => {
                steps.iter().filter_map(|step| step.statement.as_ref().ok()).all(|s| reads_by_itself(&s.sql))
            }
            Order::Sequence(sql) => text::split(sql).all(reads_by_itself),
            _ => true,
        })
    }

    /// Whether it runs nothing: it only asks what statements are.
    pub fn only_describes(&self) -> bool {
        self.orders.iter().all(|order| !matches!(order, Order::Execute(_) | Order::Batch(_) | Order::Sequence(_)))
    }

    /// Whether nothing in it needs the database.
    pub fn is_idle(&self) -> bool {
        self.orders.iter().all(|order| matches!(order, Order::Autocommit | Order::Done(_) | Order::Failed(_)))
    }

    /// Whether it is one statement, which is then undone with its whole job if it fails.
    pub fn is_single(&self) -> bool {
        let mut heavy = self.orders.iter().filter(|order| !matches!(order, Order::Done(_) | Order::Autocommit));
        match (heavy.next(), heavy.next()) {
            (Some(Order::Execute(_)), None) => true,
            (Some(Order::Batch(steps)), None) => steps.len() == 1,
            _ => false,
        }
    }
}

fn steps(batch: Batch, texts: &Texts, room: &mut usize) -> Vec<Step> {
    let step =
        |step: super::model::Step| Step { condition: step.condition, statement: statement(step.stmt, texts, room) };
    batch.steps.into_iter().map(step).collect()
}

fn statement(stmt: Stmt, texts: &Texts, room: &mut usize) -> Result<Statement<'static>, SqlError> {
    Ok(Statement {
        sql: Sql::Shared(resolve(stmt.text, texts, room)?),
        positional: stmt.args,
        named: stmt.named,
        want_rows: stmt.want_rows,
    })
}

fn resolve(text: Text, texts: &Texts, room: &mut usize) -> Result<Arc<str>, SqlError> {
    match text {
        Text::Sql(sql) => Ok(sql.into()),
        Text::Stored(id) => {
            let sql = texts.find(id)?;
            let Some(left) = room.checked_sub(sql.len()) else {
                let why =
                    format!("the stored SQL of one request is longer than {MOST_STORED} bytes; send fewer at once");
                return Err(SqlError::new("SQL_STORE_FULL", why));
            };
            *room = left;
            Ok(sql.clone())
        }
    }
}
