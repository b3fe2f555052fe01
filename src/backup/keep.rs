//! Which backups are kept: a pure decision.

use crate::{
    clock::{Millis, day::Day},
    config::replicate::Keep,
};

/// Which of these backups, by when each began, are to go: all but the newest of each day that is kept, today included, the
/// newest of each week from Monday on, this one included, the newest of all, and those that are newer than `now`, whose
/// clock was another.
pub fn to_go(backups: &[Millis], keep: Keep, now: Millis) -> Vec<bool> {
    let is_newest = |at: Millis, among: &dyn Fn(Millis) -> bool| {
        among(at) && !backups.iter().any(|other| *other > at && *other <= now && among(*other))
    };
    let newest = backups.iter().copied().filter(|at| *at <= now).max();
    let is_kept = |at: Millis| {
        let of_day = |other: Millis| Day::of(other) == Day::of(at);
        let of_week = |other: Millis| week(other) == week(at);
        let days = Day::of(now).number() - Day::of(at).number();
        let weeks = week(now) - week(at);
        at > now
            || Some(at) == newest
            || (days < i64::from(keep.days) && is_newest(at, &of_day))
            || (weeks < i64::from(keep.weeks) && is_newest(at, &of_week))
    };
    backups.iter().map(|at| !is_kept(*at)).collect()
}

/// The number of the week of ISO 8601 since that of 1970-01-01, a Thursday.
fn week(at: Millis) -> i64 {
    (Day::of(at).number() + 3).div_euclid(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        let time = humantime::parse_rfc3339(text).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        i64::try_from(time.as_millis()).unwrap()
    }

    fn left(backups: &[&str], days: u32, weeks: u32, now: &str) -> Vec<String> {
        let times: Vec<Millis> = backups.iter().map(|text| at(text)).collect();
        let go = to_go(&times, Keep { days, weeks }, at(now));
        backups.iter().zip(go).filter(|(_, go)| !go).map(|(text, _)| (*text).to_owned()).collect()
    }

    #[test]
    fn the_newest_of_each_day_and_each_week_is_left() {
        // 2026-11-23 is a Monday.
        let all = [
            "2026-11-23T06:00:00Z",
            "2026-11-23T05:00:00Z",
            "2026-11-22T23:59:59Z",
            "2026-11-22T00:00:00Z",
            "2026-11-21T10:00:00Z",
            "2026-11-16T10:00:00Z",
            "2026-11-15T10:00:00Z",
            "2026-11-14T10:00:00Z",
            "2026-10-01T10:00:00Z",
        ];
        let now = "2026-11-23T07:15:00Z";
        assert_eq!(left(&all, 2, 0, now), [all[0], all[2]]);
        assert_eq!(left(&all, 0, 3, now), [all[0], all[2], all[6]]);
        assert_eq!(left(&all, 3, 2, now), [all[0], all[2], all[4]]);
        assert_eq!(left(&all, 1000, 1000, now), [all[0], all[2], all[4], all[5], all[6], all[7], all[8]]);
    }

    #[test]
    fn the_newest_is_always_left_however_old_and_so_is_what_another_clock_made() {
        let all = ["2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"];
        assert_eq!(left(&all, 0, 0, "2026-11-23T07:15:00Z"), [all[0]]);
        assert_eq!(left(&all, 7, 4, "2026-11-23T07:15:00Z"), [all[0]]);
        let all = ["2027-01-01T00:00:00Z", "2026-11-23T07:00:00Z", "2026-11-23T06:00:00Z"];
        assert_eq!(left(&all, 1, 0, "2026-11-23T07:15:00Z"), [all[0], all[1]]);
        assert_eq!(left(&[], 7, 4, "2026-11-23T07:15:00Z"), [""; 0]);
    }

    #[test]
    fn whatever_there_is_the_newest_stays_and_more_days_never_take_more() {
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = move |end: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) % end
        };
        let now = at("2026-11-23T07:15:00Z");
        for _ in 0..500 {
            let count = random(30);
            let times: Vec<Millis> =
                (0..count).map(|_| now - i64::try_from(random(90 * 86_400_000)).unwrap()).collect();
            let (days, weeks) = (u32::try_from(random(20)).unwrap(), u32::try_from(random(8)).unwrap());
            let go = to_go(&times, Keep { days, weeks }, now);
            if let Some(newest) = times.iter().max() {
                assert!(times.iter().zip(&go).any(|(time, go)| time == newest && !go));
            }
            let more = to_go(&times, Keep { days: days + 1, weeks: weeks + 1 }, now);
            assert!(go.iter().zip(&more).all(|(less, more)| *less || !*more));
            let left = go.iter().filter(|go| !**go).count();
            assert!(left <= days as usize + weeks as usize + 1, "{left}");
        }
    }
}
