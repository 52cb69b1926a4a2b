//! From when to when a certificate holds: the one field of it that a server's operator must watch.
//!
//! Reads the outer structure of X.509 (RFC 5280, 4.1) in DER and nothing else; rustls has judged the rest.
//! ```text
//! Certificate ::= SEQUENCE { tbs SEQUENCE { version [0] OPTIONAL, serialNumber, signature, issuer,
//!                            validity SEQUENCE { notBefore Time, notAfter Time }, … }, … }
//! ```

use lyceum_types::clock::Timestamp;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Both moments are part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// That of a certificate in DER.
pub(super) fn of_der(der: &[u8]) -> Option<Validity> {
    let certificate = inside(der, SEQUENCE)?.0;
    let mut rest = inside(certificate, SEQUENCE)?.0;
    if rest.first() == Some(&VERSION) {
        rest = next(rest)?.2;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        rest = next(rest)?.2;
    }
    let (not_before, rest) = time(inside(rest, SEQUENCE)?.0)?;
    let (not_after, _) = time(rest)?;
    Some(Validity { not_before, not_after })
}

/// The content of the first element, which has this tag, and what stands behind it.
fn inside(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = next(der)?;
    (tag == wanted).then_some((content, rest))
}

/// Tag, content and what stands behind; lengths as DER writes them, in at most three bytes.
fn next(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let n_bytes = usize::from(first & 0x7f);
        if !(1..=3).contains(&n_bytes) || rest.len() < n_bytes {
            return None;
        }
        length = rest[..n_bytes].iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        rest = &rest[n_bytes..];
    }
    (length <= rest.len()).then(|| (tag, &rest[..length], &rest[length..]))
}

/// `YYMMDDHHMMSSZ` (1950 to 2049) or `YYYYMMDDHHMMSSZ`, as RFC 5280 allows them.
fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (tag, content, rest) = next(der)?;
    let digits = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, digits) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = digits[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let at = |i: usize| digits[2 * i..2 * i + 2].parse::<i64>().ok();
    let (month, day, hour, minute, second) = (at(0)?, at(1)?, at(2)?, at(3)?, at(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((Timestamp::from_millis(seconds * 1000), rest))
}

/// Days since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms"): years begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn both_ways_of_writing_a_time_are_read() {
        for (from, until, told) in [
            ((1975, 1, 1), (2049, 12, 31), ["1975-01-01T00:00:00Z", "2049-12-31T00:00:00Z"]),
            ((2024, 2, 29), (2050, 3, 1), ["2024-02-29T00:00:00Z", "2050-03-01T00:00:00Z"]),
        ] {
            let validity = of_der(&made(from, until)).unwrap();
            assert_eq!([validity.not_before.date_time(), validity.not_after.date_time()], told);
        }
    }

    #[test]
    fn bytes_that_are_cut_off_or_changed_are_no_panic() {
        let der = made((2024, 2, 29), (2050, 3, 1));
        for n in 0..der.len().min(200) {
            let _ = of_der(&der[..n]);
            let mut changed = der.clone();
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                changed[n] = byte;
                let _ = of_der(&changed);
            }
        }
        assert_eq!(of_der(&der[..40]), None);
    }
}
