//! The audit trail: who did what to whom, from where, and with which result.
//!
//! A change and its line are one commit: a change calls [`Author::record`] inside its own transaction, so that
//! neither is there without the other.

/// Who changes something, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// Who: the operator, a system user, a part of this program.
    pub actor: String,
    /// From where: an address, or the command line.
    pub origin: Option<String>,
}

impl Author {
    /// The holder of the operator's key, at an address.
    pub fn operator(address: &impl ToString) -> Self {
        Self { actor: "operator".to_owned(), origin: Some(address.to_string()) }
    }

    /// The system user who runs a command on the data folder.
    pub fn command_line() -> Self {
        let actor = format!("uid {}", rustix::process::getuid().as_raw());
        Self { actor, origin: Some("command line".to_owned()) }
    }

    /// A part of this program that acts by itself, such as `retention`.
    pub fn program(part: &str) -> Self {
        Self { actor: part.to_owned(), origin: None }
    }
}
