//! What an operator does, over HTTP or from the command line.
//!
//! [`guard`] checks the operator's key and records attempts that are refused; [`tenants`], [`quota`], [`browse`],
//! `export`, [`import`], [`bulk`], [`keys`], [`sync`], [`migrations`], `replica`, [`top`], [`usage`], [`audit`],
//! [`first_run`], `recent`, [`about`] and [`settings`] are the routes; [`dashboard`] is the pages over them.

pub mod about;
pub mod audit;
#[cfg(feature = "replicate")]
pub mod backups;
pub mod browse;
pub mod bulk;
mod call;
pub mod dashboard;
mod export;
pub mod first_run;
pub mod guard;
pub mod import;
pub(crate) mod in_process;
pub mod keys;
pub mod migrations;
pub mod quota;
mod recent;
#[cfg(feature = "replicate")]
pub mod replica;
pub mod settings;
pub mod sync;
pub mod tenants;
pub mod top;
pub mod usage;
pub mod watch;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// The operators' routes, behind the operator's key.
pub fn routes(app: &App) -> OpenApiRouter<App> {
    let routes = OpenApiRouter::new()
        .merge(tenants::routes())
        .merge(quota::routes())
        .merge(browse::routes())
        .merge(export::routes())
        .merge(import::routes())
        .merge(keys::routes())
        .merge(audit::routes())
        .merge(usage::routes())
        .merge(sync::routes())
        .merge(migrations::routes())
        .merge(bulk::routes())
        .merge(top::routes())
        .merge(first_run::routes())
        .merge(recent::routes())
        .merge(about::routes())
        .merge(settings::routes());
    #[cfg(feature = "replicate")]
    let routes = routes.merge(replica::routes()).merge(backups::routes());
    guard::protect(app, routes)
}
