//! What is done to a user: as a command, as a request, and through the library.

use std::path::Path;

use cubby::{
    Error, ErrorKind, Store,
    reconcile::{changes, doctor, plan},
    webhooks::{apply, event},
};
use serde_json::{Value, json};

use crate::{
    clerk,
    people::{World, Wrong, author, notes_of, tenant},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The server starts, which purges those whose retention is over.
    Restart,
    /// By a command, without a note.
    Create,
    /// A note.
    Write,
    Migrate,
    Suspend,
    Resume,
    Delete,
    Restore,
    Purge,
    Revive,
    /// Another's data, by one who has none.
    Adopt,
    /// Another's data instead of one's own.
    Replace,
    Doctor,
    Fix,
    /// The catalog is lost and made anew.
    Rebuild,
    /// A reconcile with a list that has the user.
    Listed,
    /// A reconcile with a list that does not.
    Unlisted,
    /// The message that the user was created.
    Created,
    /// The message that they were deleted.
    Deleted,
}

/// An act on a user; adoptions have another user from whom the data comes.
#[derive(Debug, Clone)]
pub struct Step {
    pub act: Act,
    pub on: String,
    pub from: String,
    /// Who else is on the provider's list.
    pub others: Vec<String>,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.act {
            Act::Adopt | Act::Replace => write!(f, "{:?}({} from {})", self.act, self.on, self.from),
            Act::Restart | Act::Doctor | Act::Fix | Act::Rebuild => write!(f, "{:?}", self.act),
            _ => write!(f, "{:?}({})", self.act, self.on),
        }
    }
}

/// A request, as the server takes it.
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub body: Option<Value>,
    pub headers: Vec<(&'static str, String)>,
}

/// The operator's key.
pub const ADMIN_KEY: &str = "0123456789abcdef0123456789abcdef";

impl Step {
    pub fn new(act: Act, on: &str) -> Self {
        Self { act, on: on.to_owned(), from: String::new(), others: Vec::new() }
    }

    pub fn from(mut self, from: &str) -> Self {
        self.from = from.to_owned();
        self
    }

    pub fn among(mut self, others: &[&str]) -> Self {
        self.others = others.iter().filter(|id| **id != self.on).map(|id| (*id).to_owned()).collect();
        self
    }

    /// Who is on the provider's list.
    pub fn list(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.others.iter().map(String::as_str).collect();
        if self.act == Act::Listed {
            ids.push(&self.on);
        }
        ids
    }

    /// It was asked for: from now on its effects may be there.
    pub fn begins(&self, world: &mut World) {
        match self.act {
            Act::Restart | Act::Doctor | Act::Fix => return,
            Act::Rebuild => {
                // With the catalog all that it said is lost.
                world.ids().iter().for_each(|id| world.told(id, None));
                return;
            }
            Act::Purge => world.purge_begins(&self.on),
            Act::Adopt | Act::Replace => {
                world.adoption_begins(&self.on, &self.from, self.act == Act::Replace);
                world.told(&self.from, None);
            }
            Act::Listed | Act::Unlisted => self.others.iter().for_each(|id| world.told(id, None)),
            _ => {}
        }
        world.told(&self.on, None);
    }

    /// It was answered that it is done. A note is told of apart.
    pub fn ended(&self, world: &mut World) {
        let state = match self.act {
            Act::Create | Act::Write | Act::Resume | Act::Restore | Act::Revive | Act::Adopt | Act::Replace => "active",
            Act::Suspend => "suspended",
            Act::Delete | Act::Purge | Act::Deleted => "deleted",
            Act::Restart
            | Act::Unlisted
            | Act::Migrate
            | Act::Doctor
            | Act::Fix
            | Act::Rebuild
            | Act::Listed
            | Act::Created => return,
        };
        world.told(&self.on, Some(state));
        match self.act {
            Act::Purge => world.purged(&self.on),
            Act::Adopt | Act::Replace => {
                world.adopted(&self.on, &self.from, self.act == Act::Replace);
                world.told(&self.from, Some("deleted"));
            }
            _ => {}
        }
    }

    /// The command line, without the data folder. `provider` is the address of Clerk's double.
    pub fn command(&self, provider: std::net::SocketAddr) -> Vec<String> {
        let on = self.on.as_str();
        let words: Vec<&str> = match self.act {
            Act::Restart => vec!["serve"],
            Act::Create | Act::Write | Act::Created => vec!["tenants", "create", on],
            Act::Migrate => vec!["migrate", "--all"],
            Act::Suspend => vec!["tenants", "suspend", on, "--reason", "for a moment"],
            Act::Resume => vec!["tenants", "resume", on],
            Act::Delete | Act::Deleted => vec!["tenants", "delete", on],
            Act::Restore => vec!["tenants", "restore", on],
            Act::Purge => vec!["tenants", "purge", on, "--yes"],
            Act::Revive => vec!["tenants", "revive", on],
            Act::Adopt => vec!["tenants", "adopt", on, "--from", &self.from],
            Act::Replace => vec!["tenants", "adopt", on, "--from", &self.from, "--replace"],
            Act::Doctor => vec!["doctor"],
            Act::Fix => vec!["doctor", "--fix"],
            Act::Rebuild => vec!["doctor", "--rebuild-catalog"],
            Act::Listed | Act::Unlisted => vec!["sync", "--force", "--clerk-secret-key", clerk::KEY],
        };
        let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        if matches!(self.act, Act::Listed | Act::Unlisted) {
            words.extend(["--clerk-api-url".to_owned(), clerk::listing(provider, &self.list())]);
        }
        words
    }

    /// The request to a running server; `note` is the text of a note to write. None for what only a command does.
    pub fn request(&self, note: Option<&str>) -> Option<Request> {
        let on = &self.on;
        let admin = |method, end: &str, body| Request {
            method,
            path: format!("/api/admin/tenants/{on}{end}"),
            body,
            headers: vec![("authorization", format!("Bearer {ADMIN_KEY}"))],
        };
        let message = |kind: &str| {
            let body = clerk::message(kind, on);
            // A sender's retry has the same id; two events have not.
            let headers = clerk::signed(&format!("msg_{:x}", rand_id()), &body);
            Request { method: "POST", path: "/webhooks/clerk".into(), body: Some(body), headers }
        };
        Some(match self.act {
            Act::Write => {
                Request { method: "POST", path: format!("/{on}"), body: Some(json!({"text": note?})), headers: vec![] }
            }
            Act::Create => Request { path: "/api/admin/tenants".into(), ..admin("POST", "", Some(json!({"id": on}))) },
            Act::Suspend => admin("POST", "/suspend", Some(json!({"reason": "for a moment"}))),
            Act::Resume => admin("POST", "/resume", None),
            Act::Delete => admin("DELETE", "", None),
            Act::Restore => admin("POST", "/restore", None),
            Act::Purge => admin("POST", "/purge", Some(json!({"yes": true}))),
            Act::Revive => admin("POST", "/revive", None),
            Act::Adopt => admin("POST", "/adopt", Some(json!({"from": self.from, "replace": false}))),
            Act::Replace => admin("POST", "/adopt", Some(json!({"from": self.from, "replace": true}))),
            Act::Listed | Act::Unlisted => {
                Request { path: "/api/admin/sync-users?force=true".into(), ..admin("POST", "", None) }
            }
            Act::Created => message("user.created"),
            Act::Deleted => message("user.deleted"),
            Act::Restart | Act::Migrate | Act::Doctor | Act::Fix | Act::Rebuild => return None,
        })
    }

    /// Does it through the library and tells the world what came of it.
    pub async fn perform(&self, store: &Store, world: &mut World, wrong: &mut Wrong) {
        let (note, text) = world.draft(&self.on);
        let before = world.clone();
        self.begins(world);
        match self.through(store, &text).await {
            Ok(()) => {
                self.ended(world);
                if self.act == Act::Write {
                    world.wrote(&self.on, note);
                }
                if matches!(self.act, Act::Restore | Act::Revive | Act::Listed | Act::Resume)
                    && let Ok(found) = notes_of(store, &tenant(&self.on)).await
                {
                    world.settled(&self.on, &found);
                }
            }
            Err(error) if is_refusal(&error) => *world = before,
            Err(error) => wrong.push(("ERROR", format!("{self}: {error}: {}", error.detail()))),
        }
    }

    /// Does it through the library, with a note's text if it is one that is to be written.
    pub async fn through(&self, store: &Store, text: &str) -> cubby::Result<()> {
        let id = tenant(&self.on);
        let who = author();
        match self.act {
            Act::Restart => store.purge_due().await.map(drop),
            Act::Create => store.lease_or_create(&id).await.map(drop),
            Act::Write => write(store, &id, text).await,
            Act::Migrate => store.migrate(&id, &who).await.map(drop),
            Act::Suspend => store.suspend(&id, "for a moment", &who).await.map(drop),
            Act::Resume => store.resume(&id, &who).await.map(drop),
            Act::Delete => store.delete(&id, &who).await.map(drop),
            Act::Restore => store.restore(&id, &who).await.map(drop),
            Act::Purge => store.purge(&id, &who).await.map(drop),
            Act::Revive => store.revive(&id, &who).await.map(drop),
            Act::Adopt => store.adopt(&id, &tenant(&self.from), false, &who).await.map(drop),
            Act::Replace => store.adopt(&id, &tenant(&self.from), true, &who).await.map(drop),
            Act::Doctor | Act::Fix | Act::Rebuild => {
                let (examined, fix) = (store.clone(), (self.act != Act::Doctor).then(author));
                let done = tokio::task::spawn_blocking(move || doctor::examine(&examined, fix.as_ref(), || {})).await;
                done.map_err(|e| Error::internal(e.to_string()))?.map(drop)
            }
            Act::Listed | Act::Unlisted => self.reconcile(store).await,
            Act::Created => self.message(store, "user.created").await,
            Act::Deleted => self.message(store, "user.deleted").await,
        }
    }

    /// The steps of a reconcile, without the way there.
    async fn reconcile(&self, store: &Store) -> cubby::Result<()> {
        let list = self.list();
        let since = store.clock().now() + 1;
        let known = list.iter().map(|id| (*id).to_owned()).chain([self.on.clone()]);
        let mut ids: Vec<String> = known.collect();
        ids.sort();
        ids.dedup();
        for id in ids {
            let there = match list.contains(&id.as_str()) {
                true => Some(
                    serde_json::from_value::<cubby::identity::user::WireUser>(clerk::user(&id))
                        .unwrap()
                        .into_user(None)?,
                ),
                false => None,
            };
            let row = store.find(&tenant(&id)).await?;
            match plan::step(row.as_ref(), there.as_ref(), since) {
                Some(plan::Step::Create(user)) => drop(changes::create(store, user, since).await?),
                Some(plan::Step::Update(user)) => drop(changes::update(store, vec![user], since).await?),
                Some(plan::Step::Restore(user)) => drop(changes::restore(store, user, since).await?),
                Some(plan::Step::Delete(id)) => drop(changes::delete(store, &id, since).await?),
                None => {}
            }
        }
        Ok(())
    }

    async fn message(&self, store: &Store, kind: &str) -> cubby::Result<()> {
        let body = clerk::message(kind, &self.on).to_string().into_bytes();
        let id = format!("msg_{:x}", rand_id());
        apply::apply(store, &id, event::parse(&body), body.into(), None).await.map(drop)
    }
}

/// A refusal is a legal answer, and changes nothing; what else an operation fails with is neither.
pub fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Conflict | ErrorKind::UnknownTenant | ErrorKind::Suspended | ErrorKind::NotFound)
}

pub async fn write(store: &Store, id: &cubby::TenantId, text: &str) -> cubby::Result<()> {
    let (tenant, _) = store.lease_or_create(id).await?;
    let text = text.to_owned();
    tenant
        .write(move |tx| {
            // Of this process alone: the server makes its own.
            let note = format!("note_{:016}", rand_id());
            Ok(tx.execute("INSERT INTO notes VALUES (?1, ?2, 1, 1)", rusqlite::params![note, text])?)
        })
        .await
        .map(drop)
}

/// Different each time in this process.
fn rand_id() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Removes the catalog, as if its disk page were lost.
pub fn lose_catalog(data: &Path) {
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(data.join(format!("catalog.db{ending}")));
    }
}
