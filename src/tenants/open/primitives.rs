//! What [`slots`](super::slots) is built from. The model in `tests/it/model.rs` compiles that same
//! file over primitives of its own, whose every step a scheduler decides.

pub use std::sync::atomic::{AtomicU64, AtomicUsize};

pub use parking_lot::Mutex;
pub use tokio::sync::{Notify, futures::OwnedNotified};

pub use crate::tenants::id::TenantId;
