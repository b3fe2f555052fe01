//! An operator's work that goes on for a while, in alternate rounds with callers who are left alone.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Options,
    client::KEY,
    load::{Callers, Round},
    server::Server,
    table::{Table, spread},
};

/// What is asked of callers' p99 beside it.
const BAR: f64 = 2.0;

/// Between two rounds, what the one before has left to write is written.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Work that can be stopped and gone on with.
pub trait Work {
    /// Begins, or goes on.
    fn go_on(&mut self);
    /// Whether it has come to its end.
    fn is_over(&mut self) -> bool;
    /// Stops for a while; whether it did so before its end.
    fn pause(&mut self);
    /// How many tenants are done.
    fn done(&mut self) -> impl Future<Output = u64>;
}

/// A command of the release's binary for a server.
pub fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cubby"));
    command.args(arguments).args(["--url", &server.base, "--admin-api-key", KEY]);
    command.stdout(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// Ctrl-C.
pub fn interrupt(child: &mut Child) {
    if child.try_wait().unwrap().is_none() {
        let _ = kill_process(Pid::from_child(child), Signal::INT);
    }
    child.wait().unwrap();
}

/// Rounds with and without the work, first with callers at a steady rate, then with as many requests as there can be; at last
/// the work alone, to its end or for so long.
pub async fn measure(name: &str, options: &Options, callers: &Callers, work: &mut impl Work, table: &mut Table) {
    callers.round(None, 1.0).await;
    for (how, rate) in [(format!("{} requests/s", options.rate), Some(options.rate)), ("flat out".to_owned(), None)] {
        let (mut with, mut without, mut alone) = (Round::default(), Round::default(), Vec::new());
        let mut handled = 0;
        for _ in 0..options.rounds {
            let round = callers.round(rate, f64::from(options.seconds)).await;
            alone.push(round.p99()[0]);
            without.add(round);
            if work.is_over() {
                break;
            }
            let before = work.done().await;
            work.go_on();
            let running = callers.start(rate);
            let end = Instant::now() + Duration::from_secs(u64::from(options.seconds));
            while Instant::now() < end && !work.is_over() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            with.add(running.stop().await);
            work.pause();
            handled += work.done().await - before;
            tokio::time::sleep(SETTLE).await;
        }
        if with.reads.is_empty() {
            table.tell(&format!("{name}, {how}"), "over before a round began".to_owned());
            continue;
        }
        for ((what, with), without) in ["", ", reads", ", creates"].into_iter().zip(with.p99()).zip(without.p99()) {
            let times = with / without;
            let noise = if what.is_empty() {
                format!("; rounds alone differ by {:.0} %", spread(&alone) * 100.0)
            } else {
                String::new()
            };
            let figure = format!("p99 {with:.2} ms, alone {without:.2} ms: {times:.2}×{noise}");
            table.judge(&format!("{name}, {how}{what}"), figure, &format!("< {BAR} ×"), times < BAR);
        }
        let rates = format!("{:.0}/s of callers, alone {:.0}/s", with.rate(), without.rate());
        let figure = format!("{:.0} tenants/s beside {rates}", handled as f64 / with.seconds);
        table.tell(&format!("{name}, {how}, rates"), figure);
        assert_eq!(with.failed + without.failed, 0, "callers' requests failed");
    }
    let (before, began) = (work.done().await, Instant::now());
    if !work.is_over() {
        work.go_on();
        let end = began + Duration::from_secs(options.rest.into());
        while !work.is_over() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = began.elapsed().as_secs_f64();
        work.pause();
        let done = work.done().await - before;
        table.tell(&format!("{name}, nobody calls"), format!("{:.0} tenants/s, {done} of them", done as f64 / took));
    }
}
