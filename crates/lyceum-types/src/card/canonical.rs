//! One text for one JSON value, so that a signature does not depend on who wrote it down: RFC 8785 (JSON
//! Canonicalization Scheme). Names sorted by their UTF-16 units, no spaces, numbers as ECMAScript writes them.
//!
//! One difference: an integer beyond 2⁵³ keeps all its digits (the RFC would round it to a double), so that a
//! changed digit of a seed is seen.

use serde_json::{Number, Value};

/// The canonical text.
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => out.push_str(&value.to_string()),
        Value::Number(number) => out.push_str(&of_number(number)),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (i, name) in names.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(name.clone()).to_string());
                out.push(':');
                write(&fields[name], out);
            }
            out.push('}');
        }
    }
}

fn of_number(number: &Number) -> String {
    match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(whole), ..) => whole.to_string(),
        (_, Some(whole), _) => whole.to_string(),
        (_, _, Some(x)) => of_double(x),
        _ => number.to_string(),
    }
}

/// ECMAScript's `Number::toString` (ECMA-262, 6.1.6.1.20): the shortest digits `d₁…d_k` with
/// `x = 0.d₁…d_k · 10ⁿ`, plain for `-6 < n ≤ 21`, else with an exponent.
fn of_double(x: f64) -> String {
    if x == 0.0 {
        return "0".into();
    }
    let scientific = format!("{:e}", x.abs());
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} writes an exponent: bug");
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let exponent: i32 = exponent.parse().expect("{:e} writes a whole exponent: bug");
    let (k, n) = (digits.len() as i32, exponent + 1);
    let zeros = |count: i32| "0".repeat(count.max(0) as usize);
    let text = if k <= n && n <= 21 {
        format!("{digits}{}", zeros(n - k))
    } else if 0 < n && n <= 21 {
        format!("{}.{}", &digits[..n as usize], &digits[n as usize..])
    } else if -6 < n && n <= 0 {
        format!("0.{}{digits}", zeros(-n))
    } else {
        let sign = if n > 0 { '+' } else { '-' };
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        format!("{first}{point}{rest}e{sign}{}", (n - 1).abs())
    };
    if x < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// RFC 8785, appendix B and section 3.2.3.
    #[test]
    fn numbers_are_written_as_the_rfc_has_them() {
        for (bits, text) in [
            (0x0000_0000_0000_0000u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        ] {
            assert_eq!(of_double(f64::from_bits(bits)), text);
        }
    }

    #[test]
    fn order_and_spaces_do_not_count_and_values_do() {
        let read = |text: &str| canonical(&serde_json::from_str(text).unwrap());
        let one = read("{\"b\": [1.0, 4.50, \"\\u20ac\\n\"], \"a\": {\"\\r\": null, \"1\": true}}");
        assert_eq!(one, "{\"a\":{\"\\r\":null,\"1\":true},\"b\":[1,4.5,\"€\\n\"]}");
        assert_eq!(one, read("{\"a\":{\"1\":true,\"\\r\":null},\"b\":[1,4.5,\"€\\n\"]}"));
        assert_ne!(one, read("{\"a\":{\"1\":true,\"\\r\":null},\"b\":[4.5,1,\"€\\n\"]}"));
        assert_eq!(canonical(&json!(u64::MAX)), "18446744073709551615");
        // Section 3.2.3: by UTF-16 units, where a surrogate pair stands before U+FB33.
        let keys = canonical(&json!({"\u{fb33}": 1, "\u{1f600}": 2, "€": 3}));
        assert_eq!(keys, "{\"€\":3,\"\u{1f600}\":2,\"\u{fb33}\":1}");
    }
}
