//! The boot of the machine.

use std::{num::NonZeroU16, sync::OnceLock};

use twox_hash::XxHash3_64;

/// A boot of the machine, as a hash of its id: two may have the same number. What a process has written, others read until
/// the machine stops, flushed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot(NonZeroU16);

impl Boot {
    /// The boot that a number stands for; none for 0.
    pub fn numbered(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number, which is never 0.
    pub fn number(self) -> u16 {
        self.0.get()
    }

    /// The one that the machine is in; none if the system does not say (`/proc/sys/kernel/random/boot_id` of Linux).
    pub fn current() -> Option<Self> {
        static CURRENT: OnceLock<Option<Boot>> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let id = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
            let [low, high, ..] = XxHash3_64::oneshot(&id).to_le_bytes();
            Self::numbered(u16::from_le_bytes([low, high]).max(1))
        })
    }
}
