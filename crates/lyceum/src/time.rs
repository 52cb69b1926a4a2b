//! Days and hours for people; programs get seconds since 1970.

use crate::failure::Failure;
use lyceum_types::clock::Timestamp;
use std::time::Duration;

/// `2026-11-23 17:39 UTC`
pub fn for_people(time: Timestamp) -> String {
    let text = time.date_time();
    match text.split_once('T') {
        Some((day, hour)) => format!("{day} {} UTC", hour.get(..5).unwrap_or(hour)),
        None => text,
    }
}

/// A time span as people write it: a number of seconds, minutes, hours or days, up to a century.
///
/// # Errors
/// It is none; `example` says how one is written.
pub fn duration(text: &str, example: &str) -> Result<Duration, Failure> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        (count > 0).then(|| count.checked_mul(*seconds)).flatten()
    });
    let century = 100 * 366 * 86_400;
    match parsed {
        Some(seconds) if seconds <= century => Ok(Duration::from_secs(seconds)),
        _ => Err(Failure::usage(
            format!("{text:?} is no duration"),
            "it is a number of seconds, minutes, hours or days",
            format!("write as in {example}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_have_their_dates() {
        let at = |seconds: i64| for_people(Timestamp::from_millis(seconds * 1000));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(1_700_000_000), "2023-11-14 22:13 UTC");
        assert_eq!(at(-1), "1969-12-31 23:59 UTC");
    }

    #[test]
    fn durations_have_a_unit_and_a_bound() {
        assert_eq!(duration("90s", "").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("2d", "").unwrap(), Duration::from_secs(172_800));
        for bad in ["", "90", "0d", "-1d", "1w", "99999999999999d", "d"] {
            assert_eq!(duration(bad, "").unwrap_err().exit.code(), 2, "{bad}");
        }
    }
}
