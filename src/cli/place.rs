//! Where an operator's command does its work: on the data folder, or through the server that holds
//! it.

use reqwest::Method;
use serde_json::{Value, json};

use super::remote::{Remote, segment};
use crate::{
    admin::{
        keys::{self, KeyDraft, Keys, NewKey, OneKey},
        tenants::{self, Created, OneTenant, TenantDraft, Tenants},
    },
    catalog::{
        model::{Row, State},
        queries,
    },
    config::{DataConfig, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
    tenants::{id::TenantId, lifecycle::purge::Author, store::Store},
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
                let result = tenants::create(store, draft).await;
                recorded(store, "tenants create", Some(target), result).await
            }
            Self::Server(server) => server.call(Method::POST, "/api/admin/tenants", Some(json!(draft))).await,
        }
    }

    pub async fn act(&self, id: &TenantId, action: Action) -> Result<Row> {
        let verb = action.verb();
        match self {
            Self::Folder(store) => {
                let result = match action {
                    Action::Suspend(reason) => store.suspend(id, &reason).await,
                    Action::Resume => store.resume(id).await,
                    Action::Delete => store.delete(id).await,
                    Action::Restore => store.restore(id).await,
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
                let result = keys::create(store.catalog(), draft, store.clock().now()).await.map(|(new, _)| new);
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
                let result = keys::revoke(store.catalog(), id, store.clock().now()).await;
                recorded(store, "keys revoke", Some(id.to_owned()), result).await
            }
            Self::Server(server) => {
                server.call(Method::POST, &format!("/api/admin/keys/{}/revoke", segment(id)), None::<Value>).await
            }
        }
    }
}

/// Who the audit trail says it was, of what is done on the folder itself.
pub(super) fn author() -> Author {
    Author { actor: format!("uid {}", rustix::process::getuid().as_raw()), origin: Some("command line".to_owned()) }
}

/// Writes an action into the audit trail, as the server does for those that come through it.
pub(super) async fn recorded<T>(store: &Store, action: &str, target: Option<String>, result: Result<T>) -> Result<T> {
    let said = match &result {
        Ok(_) => "done".to_owned(),
        Err(error) => format!("failed: {}", error.message()),
    };
    let (author, now, action) = (author(), store.clock().now(), action.to_owned());
    let written = store.catalog().write(move |tx| {
        queries::audit(tx, now, &author.actor, &action, target.as_deref(), author.origin.as_deref(), &said)
    });
    let written = written.await;
    let value = result?;
    written.map_err(|e| Error::new(e.kind(), "done, but it could not be written to the audit trail").with_source(e))?;
    Ok(value)
}

pub(super) fn tenant_path(id: &TenantId) -> String {
    format!("/api/admin/tenants/{}", segment(id.as_str()))
}
