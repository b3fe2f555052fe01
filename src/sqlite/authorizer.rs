//! The one authorizer of a connection: it asks whoever judges the statements of the calling thread.
//!
//! To set or remove an authorizer makes SQLite prepare all statements anew that a connection has cached. So it is set
//! once and stays; what changes is the judge, which is the thread's, as a connection is used by one thread at a time.
//! Nothing else may call [`Connection::authorizer`].

use std::{cell::RefCell, rc::Rc};

use rusqlite::{
    Connection,
    hooks::{AuthContext, Authorization},
};

/// Judges what a statement does that is prepared. Where nobody does, everything is allowed.
pub(super) type Judge = Rc<dyn Fn(&AuthContext<'_>) -> Authorization>;

thread_local! {
    /// Who judges on this thread, and the statements of which connection.
    static JUDGE: RefCell<Option<(usize, Judge)>> = const { RefCell::new(None) };
}

/// Sets it on a connection. What is cached there is prepared, and so asked about, anew.
pub(super) fn install(conn: &Connection) -> rusqlite::Result<()> {
    let own = id(conn);
    conn.authorizer(Some(move |context: AuthContext<'_>| {
        let judge =
            JUDGE.with_borrow(|judge| judge.as_ref().filter(|(conn, _)| *conn == own).map(|(_, judge)| judge.clone()));
        judge.map_or(Authorization::Allow, |judge| judge(&context))
    }))
}

/// Runs `work`, in which `judge` judges what is prepared on this connection, which has the authorizer.
pub(super) fn judged_by<T>(conn: &Connection, judge: Judge, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<(usize, Judge)>);
    impl Drop for Restore {
        fn drop(&mut self) {
            JUDGE.set(self.0.take());
        }
    }
    let _restore = Restore(JUDGE.replace(Some((id(conn), judge))));
    work()
}

/// Tells one connection from another for as long as it is open.
fn id(conn: &Connection) -> usize {
    // SAFETY: the handle is not used, only compared.
    unsafe { conn.handle() }.addr()
}
