//! How often tenants are used, counted in memory until it is written to the catalog.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    catalog::usage::{Count, DayUse},
    clock::day::Day,
    tenants::id::TenantId,
};

/// How often the counts of databases that stay open are taken.
const TAKE_EVERY: Duration = Duration::from_secs(60);

/// Rows that wait while the catalog cannot be written.
const MOST: usize = 100_000;

/// How often one open database was used since that was last taken.
pub struct Uses {
    requests: AtomicU64,
    writes: AtomicU64,
    /// The number of the day since which it is counted.
    since: AtomicI64,
}

impl Uses {
    /// Of a database that is opened on this day.
    pub fn new(today: Day) -> Self {
        Self { requests: AtomicU64::default(), writes: AtomicU64::default(), since: AtomicI64::new(today.number()) }
    }

    /// Counts a request.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a write that was committed.
    pub fn write(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since this was last called, and the day of that.
    pub fn take(&self, today: Day) -> (Day, Count) {
        let since = Day::from_number(self.since.swap(today.number(), Ordering::Relaxed));
        let [requests, writes] = [&self.requests, &self.writes].map(|count| count.swap(0, Ordering::Relaxed));
        (since, Count { requests, writes })
    }
}

/// What waits to be written.
pub struct Waiting {
    rows: Mutex<HashMap<(Day, TenantId), (u64, Count)>>,
    taken: Mutex<(Instant, Day)>,
}

impl Waiting {
    /// Nothing, on this day.
    pub fn new(today: Day) -> Self {
        Self { rows: Mutex::default(), taken: Mutex::new((Instant::now(), today)) }
    }

    /// Whether the counts of all that are open are to be taken now: once a minute, and when a day has begun.
    pub fn is_due(&self, today: Day) -> bool {
        let mut taken = self.taken.lock();
        let due = taken.0.elapsed() >= TAKE_EVERY || taken.1 != today;
        if due {
            *taken = (Instant::now(), today);
        }
        due
    }

    /// Adds what was counted of a tenant, whose file has this size.
    pub fn add(&self, day: Day, id: &TenantId, bytes: u64, count: Count) {
        let mut rows = self.rows.lock();
        let row = rows.entry((day, id.clone())).or_default();
        row.0 = bytes;
        row.1.add(count);
    }

    /// All that waits.
    pub fn take(&self) -> Vec<DayUse> {
        let row = |((day, user_id), (bytes, count))| DayUse { day, user_id, bytes, count };
        self.rows.lock().drain().map(row).collect()
    }

    /// Keeps what could not be written, up to a bound. `false` if some of it is lost.
    pub fn put_back(&self, rows: impl IntoIterator<Item = DayUse>) -> bool {
        let mut waiting = self.rows.lock();
        let mut kept = true;
        for row in rows {
            let key = (row.day, row.user_id);
            if waiting.len() >= MOST && !waiting.contains_key(&key) {
                kept = false;
                continue;
            }
            // A size that came meanwhile is newer.
            waiting.entry(key).or_insert((row.bytes, Count::default())).1.add(row.count);
        }
        kept
    }

    /// Drops what waits of a tenant.
    pub fn forget(&self, id: &TenantId) {
        self.rows.lock().retain(|(_, of), _| of != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_written_is_added_to_what_came_meanwhile() {
        let (day, ada) = (Day::from_number(7), "ada".parse::<TenantId>().unwrap());
        let waiting = Waiting::new(day);
        let count = |requests, writes| Count { requests, writes };
        waiting.add(day, &ada, 10, count(1, 1));
        waiting.add(day, &ada, 20, count(2, 0));
        let taken = waiting.take();
        assert_eq!(taken, [DayUse { day, user_id: ada.clone(), bytes: 20, count: count(3, 1) }]);
        waiting.add(day, &ada, 30, count(4, 4));
        assert!(waiting.put_back(taken));
        assert_eq!(waiting.take(), [DayUse { day, user_id: ada.clone(), bytes: 30, count: count(7, 5) }]);
        waiting.add(day, &ada, 30, count(1, 0));
        waiting.forget(&ada);
        assert_eq!(waiting.take(), []);
    }

    #[test]
    fn counts_are_taken_when_a_day_has_begun_and_belong_to_the_one_before() {
        let [seventh, eighth] = [7, 8].map(Day::from_number);
        let waiting = Waiting::new(seventh);
        assert_eq!([seventh, eighth, eighth].map(|day| waiting.is_due(day)), [false, true, false]);
        let uses = Uses::new(seventh);
        uses.request();
        assert_eq!(uses.take(eighth), (seventh, Count { requests: 1, writes: 0 }));
        uses.write();
        assert_eq!(uses.take(eighth), (eighth, Count { requests: 0, writes: 1 }));
    }

    #[test]
    fn what_waits_is_bounded() {
        let (day, waiting) = (Day::from_number(7), Waiting::new(Day::from_number(7)));
        let row = |n: usize| DayUse {
            day,
            user_id: format!("u{n}").parse().unwrap(),
            bytes: 1,
            count: Count { requests: 1, writes: 0 },
        };
        assert!(waiting.put_back((0..MOST).map(row)));
        assert!(waiting.put_back([row(0)]), "one that waits already");
        assert!(!waiting.put_back([row(MOST)]));
        assert_eq!(waiting.take().len(), MOST);
    }
}
