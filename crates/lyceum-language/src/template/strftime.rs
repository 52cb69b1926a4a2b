//! `strftime_now`: the date that a template writes, from the time that the caller hands in.

use minijinja::{Error, ErrorKind, State, Value};

/// The variable that carries the time: seconds since 1970 in the time zone of the text.
pub(super) const NOW: &str = "__now__";

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

pub(super) fn strftime_now(state: &mut State<'_, '_>, format: &str) -> Result<String, Error> {
    let now = state.lookup(NOW).and_then(|now: Value| i64::try_from(now).ok()).unwrap_or(0);
    strftime(now, format).map_err(|what| Error::new(ErrorKind::InvalidOperation, what))
}

/// Python's `strftime` in the C locale; `%-d` and its like drop leading zeros.
fn strftime(now: i64, format: &str) -> Result<String, String> {
    let (days, second) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let weekday = (days + 4).rem_euclid(7);
    let day_of_year = days - days_before(year) + 1;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let twelve = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        let bare = code == Some('-');
        if bare {
            code = chars.next();
        }
        let number = |n: i64, width: usize| if bare { n.to_string() } else { format!("{n:0width$}") };
        let text = match code {
            Some('Y') => year.to_string(),
            Some('y') => number(year.rem_euclid(100), 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('e') => format!("{day:2}"),
            Some('H') => number(hour, 2),
            Some('I') => number(twelve, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('j') => number(day_of_year, 3),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
            Some('B') => MONTHS[month as usize - 1].to_owned(),
            Some('b' | 'h') => MONTHS[month as usize - 1][..3].to_owned(),
            Some('A') => DAYS[weekday as usize].to_owned(),
            Some('a') => DAYS[weekday as usize][..3].to_owned(),
            Some('w') => weekday.to_string(),
            Some('u') => (if weekday == 0 { 7 } else { weekday }).to_string(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('R') => format!("{hour:02}:{minute:02}"),
            Some('D') => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
            Some('%') => "%".to_owned(),
            Some(other) => return Err(format!("strftime_now: %{other} is not supported")),
            None => return Err("strftime_now: the format ends within a code".to_owned()),
        };
        out.push_str(&text);
    }
    Ok(out)
}

/// Year, month and day of a day since 1970 (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Days from 1970 to the first of January of a year.
fn days_before(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + (before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400)) - 477
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_are_those_of_python() {
        // 1,732,665,600 is 2024-11-27 00:00:00, a Wednesday and the 332nd day.
        let now = 1_732_665_600 + 13 * 3600 + 5 * 60 + 9;
        assert_eq!(strftime(now, "%d %b %Y").unwrap(), "27 Nov 2024");
        assert_eq!(
            strftime(now, "%A, %B %-d, %y %I:%M:%S %p %j").unwrap(),
            "Wednesday, November 27, 24 01:05:09 PM 332"
        );
        assert_eq!(strftime(951_782_400, "%F %a").unwrap(), "2000-02-29 Tue");
        assert_eq!(strftime(-1, "%F %T %j").unwrap(), "1969-12-31 23:59:59 365");
        assert!(strftime(0, "%Q").unwrap_err().contains("%Q"));
        assert!(strftime(0, "100%").is_err());
    }
}
