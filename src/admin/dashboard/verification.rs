//! A verification that an operator has started on a page: it goes on when the page is left, and what it found is kept until the
//! server ends.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    http::Method,
};
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::AbortHandle;

use super::{operator::Operator, view};
use crate::{
    admin::replica::VerifyLine,
    app::App,
    clock::Millis,
    http::{problem::Problem, segment::encode},
    replica::verify::{Finding, Verified},
};

const ROUTE: &str = "/api/admin/replica/verify";

/// The newest one.
#[derive(Default)]
pub(super) struct Verification(Mutex<Option<Run>>);

struct Run {
    began: Millis,
    ended: Option<Millis>,
    line: VerifyLine,
    task: Option<AbortHandle>,
}

/// One as the page shows it.
pub(super) struct Shown {
    pub(super) running: bool,
    pub(super) state: &'static str,
    pub(super) tag: &'static str,
    pub(super) words: String,
    pub(super) checked: u64,
    pub(super) total: u64,
    pub(super) error: String,
    pub(super) times: String,
    pub(super) findings: Vec<Found>,
    /// Tenants who are not whole and not named.
    pub(super) more: u64,
}

/// A tenant who is not whole.
pub(super) struct Found {
    pub(super) id: String,
    pub(super) href: String,
    pub(super) verdict: &'static str,
    pub(super) why: String,
}

impl Verification {
    /// Starts one.
    ///
    /// # Errors
    /// The problem that the route answers.
    pub(super) async fn start(self: &Arc<Self>, operator: &Operator, draft: &Value) -> Result<(), Problem> {
        let answer = operator.pass(Method::POST, ROUTE, Body::from(draft.to_string())).await?;
        let app = operator.seat.app.clone();
        let line = VerifyLine { verified: Verified::default(), is_over: false, error: None };
        *self.0.lock() = Some(Run { began: app.clock().now(), ended: None, line, task: None });
        let task = tokio::spawn(follow(self.clone(), app, answer.into_body()));
        if let Some(run) = self.0.lock().as_mut() {
            run.task = Some(task.abort_handle());
        }
        Ok(())
    }

    /// Stops the one that is under way. False if there is none.
    pub(super) fn stop(&self, now: Millis) -> bool {
        let mut run = self.0.lock();
        let Some(run) = run.as_mut().filter(|run| run.ended.is_none()) else { return false };
        if let Some(task) = &run.task {
            task.abort();
        }
        run.end(now, "it was stopped");
        true
    }

    /// The newest one.
    pub(super) fn shown(&self) -> Option<Shown> {
        self.0.lock().as_ref().map(shown)
    }

    fn note(&self, piece: &Bytes) {
        let lines = piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let last = lines.filter_map(|line| serde_json::from_slice::<VerifyLine>(line).ok()).next_back();
        if let (Some(line), Some(run)) = (last, self.0.lock().as_mut().filter(|run| run.ended.is_none())) {
            run.line = line;
        }
    }

    fn end(&self, now: Millis, why: &str) {
        if let Some(run) = self.0.lock().as_mut() {
            run.end(now, why);
        }
    }
}

impl Run {
    /// It is over; `why` is the reason if the answer did not come to its end.
    fn end(&mut self, now: Millis, why: &str) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(now);
        if !self.line.is_over {
            self.line.error = Some(why.to_owned());
        }
    }
}

/// Reads what the route answers until it is over, or the server is shutting down, which does not wait for it.
async fn follow(of: Arc<Verification>, app: App, body: Body) {
    let mut pieces = body.into_data_stream();
    loop {
        let piece = tokio::select! {
            biased;
            () = app.door().until_draining() => break,
            piece = pieces.next() => piece,
        };
        let Some(Ok(piece)) = piece else { break };
        of.note(&piece);
    }
    of.end(app.clock().now(), "it was cut short");
}

fn shown(run: &Run) -> Shown {
    let VerifyLine { verified, error, .. } = &run.line;
    let (running, failed) = (run.ended.is_none(), error.is_some());
    let (state, tag) = match (verified.is_good(), failed) {
        _ if running => ("running", "running"),
        (false, _) => ("not whole", "failed"),
        (true, true) => ("not ended", "failed"),
        (true, false) => ("whole", "good"),
    };
    let named = u64::try_from(verified.named.len()).unwrap_or(u64::MAX);
    let not_whole = verified.different + verified.broken + verified.unsettled;
    Shown {
        running,
        state,
        tag,
        words: format!(
            "{} of {} compared: {} the same, {} different, {} that cannot be restored, {} of which nothing can be said",
            view::number(verified.checked),
            view::number(verified.total),
            view::number(verified.whole),
            view::number(verified.different),
            view::number(verified.broken),
            view::number(verified.unsettled)
        ),
        checked: verified.checked,
        total: verified.total.max(verified.checked).max(1),
        error: error.as_deref().map(view::long).unwrap_or_default(),
        times: match run.ended {
            Some(ended) => format!("{} to {}", view::time(run.began), view::time(ended)),
            None => format!("since {}", view::time(run.began)),
        },
        findings: verified.named.iter().map(found).collect(),
        more: not_whole.saturating_sub(named),
    }
}

fn found(of: &Finding) -> Found {
    Found {
        id: view::cell(&of.id),
        href: format!("/admin/tenants/{}", encode(&of.id)),
        verdict: of.verdict.as_str(),
        why: view::reason(&of.why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Verification {
        let line = serde_json::from_str(line).unwrap();
        Verification(Mutex::new(Some(Run { began: 0, ended: None, line, task: None })))
    }

    const BEGUN: &str = "{\"total\":4,\"checked\":0,\"whole\":0,\"different\":0,\"broken\":0,\"unsettled\":0,\
                         \"named\":[],\"is_over\":false,\"error\":null}";

    #[test]
    fn the_last_line_counts_and_one_that_was_cut_short_is_not_whole() {
        let run = of(BEGUN);
        let last = BEGUN.replace("\"whole\":0", "\"whole\":4").replace("\"checked\":0", "\"checked\":4");
        let whole = last.replace("\"is_over\":false", "\"is_over\":true");
        run.note(&Bytes::from(format!("{BEGUN}\n{whole}\n")));
        assert!(run.shown().unwrap().running);
        run.end(1000, "cut");
        let seen = run.shown().unwrap();
        assert_eq!((seen.running, seen.state, seen.error.as_str(), seen.checked), (false, "whole", "", 4));

        let run = of(BEGUN);
        run.note(&Bytes::from(format!("{last}\n")));
        run.end(1000, "cut");
        assert_eq!((run.shown().unwrap().state, run.shown().unwrap().error), ("not ended", "cut".to_owned()));
        assert!(!run.stop(2000), "it is over");
        let run = of(BEGUN);
        assert!(run.stop(2000) && !run.shown().unwrap().running);
        run.note(&Bytes::from(format!("{whole}\n")));
        assert_eq!(run.shown().unwrap().checked, 0, "what comes after the end is of no use");
    }
}
