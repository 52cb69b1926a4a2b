//! Days and hours for people; programs get seconds since 1970.

use lyceum_types::clock::Timestamp;

/// `2026-11-23 17:39 UTC`
pub fn for_people(time: Timestamp) -> String {
    let text = time.date_time();
    match text.split_once('T') {
        Some((day, hour)) => format!("{day} {} UTC", hour.get(..5).unwrap_or(hour)),
        None => text,
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
}
