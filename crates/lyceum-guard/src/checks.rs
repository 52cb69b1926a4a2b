//! Check digits. Each takes digits as numbers 0 to 9, the check digits last.

/// Luhn's sum (ISO/IEC 7812-1).
pub(crate) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &digit)| match (i % 2, u32::from(digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// `Σ weight · digit mod modulus`, over as many digits as there are weights.
pub(crate) fn weighted(digits: &[u8], weights: &[i32], modulus: i32) -> i32 {
    let sum: i32 = digits.iter().zip(weights).map(|(&digit, &weight)| i32::from(digit) * weight).sum();
    sum.rem_euclid(modulus)
}

/// ISO 7064 MOD 97-10 of letters and digits, letters as 10 to 35.
pub(crate) fn mod97(mut text: impl Iterator<Item = u8>) -> Option<u32> {
    text.try_fold(0u32, |rest, byte| match byte {
        b'0'..=b'9' => Some((rest * 10 + u32::from(byte - b'0')) % 97),
        b'A'..=b'Z' => Some((rest * 100 + u32::from(byte - b'A') + 10) % 97),
        _ => None,
    })
}

/// ISO 7064 MOD 11,10.
pub(crate) fn mod11_10(digits: &[u8]) -> bool {
    let Some((check, rest)) = digits.split_last() else { return false };
    let product = rest.iter().fold(10u32, |product, &digit| {
        let sum = (product + u32::from(digit)) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (11 - product) % 10 == u32::from(*check)
}

/// Verhoeff's scheme over the dihedral group of ten.
pub(crate) fn verhoeff(digits: &[u8]) -> bool {
    /// The group's product: rotations 0 to 4, reflections 5 to 9.
    fn product(a: u8, b: u8) -> u8 {
        match (a < 5, b < 5) {
            (true, true) => (a + b) % 5,
            (true, false) => 5 + (a + b) % 5,
            (false, true) => 5 + (a - b) % 5,
            (false, false) => (a + 5 - b) % 5,
        }
    }
    const PERMUTATION: [u8; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
    let permuted = |digit: u8, times: usize| (0..times % 8).fold(digit, |d, _| PERMUTATION[usize::from(d)]);
    let check =
        digits.iter().rev().enumerate().fold(0, |check, (i, &digit)| product(check, permuted(digit, i)));
    check == 0
}

/// Days of a month; None: no such month.
pub(crate) fn days(year: u32, month: u32) -> Option<u32> {
    Some(match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => return None,
    })
}

pub(crate) fn is_day(year: u32, month: u32, day: u32) -> bool {
    days(year, month).is_some_and(|days| (1..=days).contains(&day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(text: &str) -> Vec<u8> {
        text.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect()
    }

    /// A scheme accepts the number and none of those that differ in one digit.
    fn check(scheme: impl Fn(&[u8]) -> bool, number: &str) {
        let digits = digits(number);
        assert!(scheme(&digits), "{number}");
        for i in 0..digits.len() {
            for other in (0..10).filter(|&other| other != digits[i]) {
                let mut changed = digits.clone();
                changed[i] = other;
                assert!(!scheme(&changed), "{number}: digit {i} as {other}");
            }
        }
    }

    #[test]
    fn schemes_take_published_numbers_and_see_every_single_error() {
        check(luhn, "4111111111111111");
        check(luhn, "79927398713");
        check(verhoeff, "2363");
        check(verhoeff, "123456789010");
        check(mod11_10, "86095742719");
        check(mod11_10, "65929970489");
    }

    #[test]
    fn letters_count_in_mod_97() {
        // GB82 WEST 1234 5698 7654 32, as ISO 13616 moves its first four.
        assert_eq!(mod97("WEST12345698765432GB82".bytes()), Some(1));
        assert_eq!(mod97("west".bytes()), None);
    }

    #[test]
    fn years_leap() {
        assert!(is_day(2000, 2, 29) && is_day(2024, 2, 29) && !is_day(1900, 2, 29) && !is_day(2023, 2, 29));
        assert!(!is_day(2024, 13, 1) && !is_day(2024, 4, 31) && !is_day(2024, 4, 0));
    }
}
