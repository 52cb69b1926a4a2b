//! Wall-clock time as an argument: what is stored takes its time from the caller, so tests choose it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds, as OpenAI's `created` counts them.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment and `duration`, at most the end of time.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// `2026-11-23T17:39:05Z` (RFC 3339).
    pub fn date_time(self) -> String {
        let seconds = self.seconds();
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// The calendar month of a moment, UTC: from its first millisecond to the one after its last.
pub fn month(now: Timestamp) -> (i64, i64) {
    const DAY: i64 = 86_400_000;
    let today = now.millis().div_euclid(DAY);
    let first = today - (civil(today).2 - 1);
    // The first of a month and 31 days is in the next month, whatever its length.
    let next = first + 31 - (civil(first + 31).2 - 1);
    (first * DAY, next * DAY)
}

/// Year, month and day of a number of days since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms"): years begin in March, so that the leap day is their last.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_where_the_one_before_ends() {
        let day = |text: &str| {
            let at = (0..40_000).map(|day| Timestamp::from_millis(day * 86_400_000));
            at.into_iter().find(|at| at.date_time().starts_with(text)).map(Timestamp::millis)
        };
        for (now, first, next) in [
            ("2024-02-29", "2024-02-01", "2024-03-01"),
            ("2026-11-01", "2026-11-01", "2026-12-01"),
            ("2026-12-31", "2026-12-01", "2027-01-01"),
            ("2027-02-28", "2027-02-01", "2027-03-01"),
        ] {
            let now = Timestamp::from_millis(day(now).unwrap() + 86_399_999);
            assert_eq!(month(now), (day(first).unwrap(), day(next).unwrap()));
        }
    }
}
