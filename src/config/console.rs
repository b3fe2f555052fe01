//! Settings of the console of SQL.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

/// The prompt of the console.
#[derive(Debug, Clone, Args)]
pub struct ConsoleConfig {
    /// The file of the prompt's history; none if it is empty [default: cubby/sql_history in $XDG_STATE_HOME or
    /// ~/.local/state]
    #[arg(long, env = "CUBBY_SQL_HISTORY", value_name = "FILE")]
    pub history: Option<OsString>,

    /// Where programs keep what they know of their last use
    #[arg(long, env = "XDG_STATE_HOME", hide = true)]
    pub state_home: Option<OsString>,
}

impl ConsoleConfig {
    /// The file of the history, if there is to be one.
    pub fn history_file(&self) -> Option<PathBuf> {
        if let Some(file) = &self.history {
            return Some(PathBuf::from(file)).filter(|file| !file.as_os_str().is_empty());
        }
        // The base directory specification: a path that is not absolute is ignored.
        let state = self.state_home.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
        let state = state.or_else(|| Some(std::env::home_dir()?.join(".local/state")));
        Some(state?.join("cubby/sql_history"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_where_it_is_said_or_with_the_users_state() {
        let file = |history: Option<&str>, state: Option<&str>| {
            let of = |text: Option<&str>| text.map(OsString::from);
            ConsoleConfig { history: of(history), state_home: of(state) }.history_file()
        };
        assert_eq!(file(Some("h"), Some("/state")), Some("h".into()));
        assert_eq!(file(Some(""), Some("/state")), None);
        assert_eq!(file(None, Some("/state")), Some("/state/cubby/sql_history".into()));
        let home = file(None, None);
        assert_eq!(file(None, Some("state")), home);
        assert!(home.is_none_or(|home| home.ends_with(".local/state/cubby/sql_history")));
    }
}
