//! Power cuts while the log's segments are used again all the time.

use super::{Report, Setup, power};
use crate::{load::Plan, server::Launch};

/// For the control: the flush after which a segment is free does nothing, so segments are used again too early.
const TOO_EARLY: &str = "syncfs:retval=0";

pub fn run(setup: &Setup) -> Report {
    power::cuts(setup, &Plan::new(setup.seed, 40), |data| {
        let server = Launch::real(&setup.program, data, &[&power::FLAGS[..], &["--log-segment", "64KiB"]].concat());
        if setup.control { server.tampered(TOO_EARLY) } else { server }
    })
}
