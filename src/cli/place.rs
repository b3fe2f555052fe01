//! Where an operator's command does its work: on the data folder, or through the server that holds
//! it.

use reqwest::Method;
use rusqlite::Transaction;
use serde_json::{Value, json};

use super::remote::{Remote, segment};
use crate::{
    admin::{
        keys::{self, KeyDraft, Keys, NewKey, OneKey},
        tenants::{self, Created, OneTenant, TenantDraft, Tenants},
    },
    catalog::{
        audit::Author,
        model::{Row, State},
    },
    config::{DataConfig, door::RemoteConfig},
    error::{ErrorKind, Result},
    tenants::{id::TenantId, store::Store},
};

/// One of the two.
pub enum Place {
    /// The folder itself, which no server holds.
    Folder(Store),
    /// The server that holds it.
    Server(Remote),
}

/// Whether a command may be the first on a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// It makes something, and so perhaps the folder too.
    MayBeNew,
    /// It looks for something that would not be in a new one.
    MustExist,
}

/// What may be done to a tenant.
#[derive(Debug, Clone)]
pub enum Action {
    Suspend(String),
    Resume,
    Delete,
    Restore,
}

impl Action {
    fn verb(&self) -> &'static str {
        match self {
            Self::Suspend(_) => "suspend",
            Self::Resume => "resume",
            Self::Delete => "delete",
            Self::Restore => "restore",
        }
    }
}

impl Place {
    /// The folder if nobody holds it, else the server that does.
    pub fn reach(data: &DataConfig, remote: &RemoteConfig, folder: Folder) -> Result<Self> {
        // A folder that is not there is not made where a server was named.
        if remote.url.is_some() && !data.data.join("catalog.db").exists() {
            let why = format!("there is no data folder {}", data.data.display());
            return Ok(Self::Server(Remote::new(remote, &why)?));
        }
        let opened = match folder {
            Folder::MustExist => super::open(data),
            Folder::MayBeNew => super::open_or_make(data),
        };
        match opened {
            Ok(store) => Ok(Self::Folder(store)),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                Ok(Self::Server(Remote::new(remote, error.message())?))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets the folder go.
    pub async fn leave(self) {
        if let Self::Folder(store) = self {
            super::close(store).await;
        }
    }

    pub async fn list(&self, state: Option<State>, after: Option<&TenantId>, limit: u32) -> Result<Tenants> {
        match self {
            Self::Folder(store) => {
                let tenants = store.list(state, after.cloned(), limit).await?;
                Ok(Tenants { tenants, counts: store.counts().await? })
            }
            Self::Server(server) => {
                let state = state.map_or(String::new(), |state| format!("&state={state}"));
                let after = after.map_or(String::new(), |after| format!("&after={}", segment(after.as_str())));
                let path = format!("/api/admin/tenants?limit={limit}{state}{after}");
                server.call(Method::GET, &path, None).await
            }
        }
    }

    pub async fn show(&self, id: &TenantId) -> Result<OneTenant> {
        match self {
            Self::Folder(store) => tenants::describe(store, id).await,
            Self::Server(server) => server.call(Method::GET, &tenant_path(id), None).await,
        }
    }

    pub async fn create(&self, draft: TenantDraft) -> Result<Created> {
        match self {
            Self::Folder(store) => {
                let target = draft.id.clone();
                let result = tenants::create(store, draft, &Author::command_line()).await;
                recorded(store, "tenants create", Some(target), result).await
            }
            Self::Server(server) => server.call(Method::POST, "/api/admin/tenants", Some(json!(draft))).await,
        }
    }

    pub async fn act(&self, id: &TenantId, action: Action) -> Result<Row> {
        let verb = action.verb();
        match self {
            Self::Folder(store) => {
                let author = Author::command_line();
                let result = match action {
                    Action::Suspend(reason) => store.suspend(id, &reason, &author).await,
                    Action::Resume => store.resume(id, &author).await,
                    Action::Delete => store.delete(id, &author).await,
                    Action::Restore => store.restore(id, &author).await,
                };
                recorded(store, &format!("tenants {verb}"), Some(id.to_string()), result).await
            }
            Self::Server(server) => {
                let path = tenant_path(id);
                match action {
                    Action::Delete => server.call(Method::DELETE, &path, None).await,
                    Action::Suspend(reason) => {
                        server.call(Method::POST, &format!("{path}/suspend"), Some(json!({"reason": reason}))).await
                    }
                    Action::Resume | Action::Restore => {
                        server.call(Method::POST, &format!("{path}/{verb}"), None).await
                    }
                }
            }
        }
    }

    pub async fn create_key(&self, draft: KeyDraft) -> Result<NewKey> {
        match self {
            Self::Folder(store) => {
                let result = keys::create(store.catalog(), draft, store.clock().now(), &Author::command_line())
                    .await
                    .map(|(new, _)| new);
                let target = result.as_ref().ok().map(|new| new.key.id.clone());
                recorded(store, "keys create", target, result).await
            }
            Self::Server(server) => server.call(Method::POST, "/api/admin/keys", Some(json!(draft))).await,
        }
    }

    pub async fn list_keys(&self) -> Result<Keys> {
        match self {
            Self::Folder(store) => keys::list(store.catalog()).await,
            Self::Server(server) => server.call(Method::GET, "/api/admin/keys", None).await,
        }
    }

    pub async fn revoke_key(&self, id: &str) -> Result<OneKey> {
        match self {
            Self::Folder(store) => {
                let result = keys::revoke(store.catalog(), id, store.clock().now(), &Author::command_line()).await;
                recorded(store, "keys revoke", Some(id.to_owned()), result).await
            }
            Self::Server(server) => {
                server.call(Method::POST, &format!("/api/admin/keys/{}/revoke", segment(id)), None::<Value>).await
            }
        }
    }
}

/// Records what failed, as the server does for the attempts that it refuses.
pub(super) async fn recorded<T>(store: &Store, action: &str, target: Option<String>, result: Result<T>) -> Result<T> {
    let Err(failed) = &result else { return result };
    let (said, now, action) = (format!("failed: {}", failed.message()), store.clock().now(), action.to_owned());
    let record = move |tx: &Transaction| Author::command_line().record(tx, now, &action, target.as_deref(), &said);
    if let Err(error) = store.catalog().write(record).await {
        tracing::error!(error = %error, "a failed attempt could not be recorded in the audit trail");
    }
    result
}

pub(super) fn tenant_path(id: &TenantId) -> String {
    format!("/api/admin/tenants/{}", segment(id.as_str()))
}
