//! One catalog for all tenants: a thread that commits every row that has queued up at once.

use rusqlite::Connection;
use std::{
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

struct Row {
    user: String,
    done: Sender<()>,
}

pub struct Catalog(Sender<Row>);

pub struct Handle(Sender<Row>);

impl Catalog {
    pub fn start(path: &Path) -> Self {
        let connection = Connection::open(path).expect("open the catalog");
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                 CREATE TABLE tenants (id TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID;",
            )
            .expect("the catalog's schema is valid");
        let (sender, receiver) = channel();
        thread::spawn(move || serve(&connection, &receiver));
        Self(sender)
    }

    pub fn handle(&self) -> Handle {
        Handle(self.0.clone())
    }
}

impl Handle {
    /// Returns once the row is committed.
    pub fn add(&self, user: &str) {
        let (done, committed) = channel();
        self.0.send(Row { user: user.to_owned(), done }).expect("the catalog is there");
        committed.recv().expect("the catalog commits");
    }
}

fn serve(connection: &Connection, rows: &Receiver<Row>) {
    while let Ok(first) = rows.recv() {
        let batch: Vec<Row> = std::iter::once(first).chain(rows.try_iter()).collect();
        let commit = || -> rusqlite::Result<()> {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let mut insert = connection.prepare_cached("INSERT INTO tenants VALUES (?1, 'active')")?;
            for row in &batch {
                insert.execute([&row.user])?;
            }
            connection.execute_batch("COMMIT")
        };
        commit().expect("commit the catalog");
        for row in batch {
            // A worker that has gone no longer needs the answer.
            let _ = row.done.send(());
        }
    }
}
