//! A machine on a connection, under the rules for guests.

use std::time::Instant;

use rusqlite::Connection;

use super::{
    machine::{Machine, Stop},
    queries,
    state::Place,
};
use crate::{
    error::Result,
    sqlite::guest::{Rules, SqlError, forget_rowid, guard},
};

/// A machine in the hands of a connection.
pub struct Running {
    /// The machine.
    pub machine: Machine,
    /// It only asks what statements are.
    pub only_describes: bool,
    /// The fatal error of its last run: the closure that ran it returned that.
    pub fatal: Option<SqlError>,
}

impl Running {
    /// Runs on a connection, and again after a change of its settings.
    ///
    /// # Errors
    /// The storage's, and what is fatal to the connection.
    pub fn on(&mut self, conn: &Connection, place: Place, rules: &Rules) -> Result<Stop> {
        self.fatal = None;
        let until = Instant::now() + rules.time;
        if place != Place::Session {
            forget_rowid(conn);
        }
        let before = schema_version(conn, rules)?;
        loop {
            let rules = Rules {
                foreign_keys: self.machine.state.foreign_keys,
                time: until.saturating_duration_since(Instant::now()),
                ..rules.clone()
            };
            let ran: Result<Stop, SqlError> = guard(conn, &rules, |guest| {
                let stop = self.machine.run(guest, place)?;
                if place == Place::Job && !self.machine.in_transaction() {
                    guest.check_deferred()?;
                }
                Ok(stop)
            })?;
            match ran {
                Ok(Stop::ForeignKeys) => {}
                Ok(stop) => {
                    self.machine.state.changed_schema |= before != schema_version(conn, &rules)?;
                    return Ok(stop);
                }
                Err(error) => {
                    self.fatal = Some(error.clone());
                    return Err(error.into());
                }
            }
        }
    }
}

/// Counts changes of the schema, where it may be changed.
fn schema_version(conn: &Connection, rules: &Rules) -> Result<Option<i64>> {
    Ok((rules.ddl && !rules.read_only).then(|| queries::schema_version(conn)).transpose()?)
}
