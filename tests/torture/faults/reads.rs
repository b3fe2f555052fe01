//! Power cuts while flushes take long: what a read gave is there afterwards, although its writer was not answered yet.

use super::{Report, Setup, power};
use crate::{load::Plan, server::Launch};

/// So that at any moment some commit is read and not flushed yet.
const SLOW: &str = "fdatasync:delay_enter=5000";

pub fn run(setup: &Setup) -> Report {
    power::cuts(setup, &Plan::new(setup.seed, 6), |data| {
        let server = match setup.control {
            true => Launch::broken("early-read", data, &power::FLAGS),
            false => Launch::real(&setup.program, data, &power::FLAGS),
        };
        server.tampered(SLOW)
    })
}
