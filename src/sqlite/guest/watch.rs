//! What the judge of a guest's statements shares with the guest.

use std::{rc::Rc, sync::Arc};

use parking_lot::Mutex;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::{
    authorize::{self, Effect, Refusal},
    inline,
    model::Rules,
};
use crate::sqlite::{authorizer::Judge, touched};

/// What is known of the statement that is prepared, and of those before it.
#[derive(Default)]
pub(super) struct Watch {
    /// This program's own statement is prepared.
    pub own: bool,
    /// Why the statement is refused.
    pub refusal: Option<Refusal>,
    /// A table of [`Refusal::unless_exists`] that exists.
    pub exists: Option<String>,
    /// The statement may take long, and may not here.
    pub elsewhere: bool,
    /// How many functions the statement calls, and `LIKE` and `GLOB` among them.
    pub calls: (usize, usize),
    /// The pragmas that were set.
    pub set: Vec<String>,
    /// What `PRAGMA foreign_keys` was set to.
    pub foreign_keys: Option<bool>,
}

/// The most functions that a statement may call, and the most of `LIKE` and `GLOB`. SQLite looks at the clock between two
/// rows and not between two functions: each may take milliseconds on the largest values, and these a second.
const MOST_CALLS: (usize, usize) = (4000, 20);

/// Judges a guest's statements by these rules.
pub(super) fn judge(watch: Arc<Mutex<Watch>>, rules: Rules, inline: bool) -> Judge {
    Rc::new(move |context: &AuthContext<'_>| {
        let mut watch = watch.lock();
        if watch.own {
            return Authorization::Allow;
        }
        if let AuthAction::Function { function_name } = context.action
            && !watch.may_call(function_name)
        {
            return Authorization::Deny;
        }
        match authorize::judge(context, &rules) {
            Ok(_) if inline && !inline::is_cheap(&context.action) => {
                watch.elsewhere = true;
                Authorization::Deny
            }
            Ok(effect) => {
                touched::note(context);
                if let Effect::Sets(pragma, value) = effect {
                    watch.sets(pragma, value);
                }
                // Row by row, so that the clock is looked at.
                match context.action {
                    AuthAction::Delete { .. } if inline => Authorization::Ignore,
                    _ => Authorization::Allow,
                }
            }
            Err(refusal) if refusal.unless_exists.is_some() && refusal.unless_exists == watch.exists => {
                Authorization::Allow
            }
            Err(refusal) => {
                // The first one is told; after it SQLite may go on to ask.
                watch.refusal.get_or_insert(refusal);
                Authorization::Deny
            }
        }
    })
}

impl Watch {
    /// Counts a function.
    fn may_call(&mut self, name: &str) -> bool {
        let slow = ["like", "glob"].iter().any(|slow| slow.eq_ignore_ascii_case(name));
        self.calls = (self.calls.0 + 1, self.calls.1 + usize::from(slow));
        let may = self.calls.0 <= MOST_CALLS.0 && self.calls.1 <= MOST_CALLS.1;
        if !may {
            let (functions, patterns) = MOST_CALLS;
            let message = format!(
                "a statement may call {functions} functions, LIKE and GLOB {patterns} times; make several of it"
            );
            self.refusal.get_or_insert(Refusal { message, code: "SQLITE_AUTH", unless_exists: None });
        }
        may
    }

    fn sets(&mut self, pragma: &str, value: &str) {
        let pragma = pragma.to_ascii_lowercase();
        if pragma == "foreign_keys" {
            let on = ["1", "on", "yes", "true"].iter().any(|word| word.eq_ignore_ascii_case(value));
            self.foreign_keys = Some(on);
        }
        if !self.set.contains(&pragma) {
            self.set.push(pragma);
        }
    }
}
