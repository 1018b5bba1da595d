//! What a scalar means: the core schema, and the words and numbers of YAML 1.1 that `kubectl`
//! takes, so that a file means the same here as on a cluster.

use granit_parser::Tag;
use serde_json::{Number, Value};

/// What to say about a tag that is none of the core schema's.
pub const FOREIGN_TAG: &str = "has a tag that is not used here; remove the tag";

/// The value of `text`; the error says what to write.
pub fn resolve(text: &str, plain: bool, tag: Option<&Tag>) -> Result<Value, &'static str> {
    match tag.map(Tag::core_suffix) {
        Some(Some("str")) => Ok(text.into()),
        // `!` alone says: not plain.
        Some(None) if tag.is_some_and(|tag| tag.handle().is_empty() && tag.suffix() == "!") => {
            Ok(text.into())
        }
        Some(Some("null" | "bool" | "int" | "float")) => untagged(text),
        Some(_) => Err(FOREIGN_TAG),
        None if plain => untagged(text),
        None => Ok(text.into()),
    }
}

fn untagged(text: &str) -> Result<Value, &'static str> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => {
            return Ok(true.into());
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => {
            return Ok(false.into());
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => {
            return Err("is not a number that JSON knows; write a number or put it in quotes");
        }
        _ => {}
    }
    Ok(number(text).map_or_else(|| text.into(), Value::Number))
}

fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let (radix, body) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', rest @ ..] if !rest.is_empty() && rest.iter().all(u8::is_ascii_digit) => (8, &digits[1..]),
        _ => (10, digits),
    };
    let body: String = body.chars().filter(|c| *c != '_').collect();
    if body.starts_with('+') || body.starts_with('-') {
        return None;
    }
    match u64::from_str_radix(&body, radix) {
        Ok(whole) if !negative => Some(whole.into()),
        Ok(whole) => 0_i64.checked_sub_unsigned(whole).map(Number::from),
        Err(_) if radix != 10 => None,
        Err(_) => float(&body, negative),
    }
}

/// `1.5`, `.5`, `1e3`, and whole numbers beyond 64 bits.
fn float(body: &str, negative: bool) -> Option<Number> {
    let shaped = body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let digits = body.bytes().any(|b| b.is_ascii_digit());
    let number: f64 = body.parse().ok().filter(|_| shaped && digits)?;
    Number::from_f64(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_mean_what_kubectl_takes_them_for() {
        let cases = [
            ("5", json!(5)),
            ("-5", json!(-5)),
            ("+5", json!(5)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("017", json!(15)),
            ("1_000", json!(1000)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            (".5", json!(0.5)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("99999999999999999999", json!(1e20)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("~", Value::Null),
            ("", Value::Null),
            ("1.2.3", json!("1.2.3")),
            ("1e", json!("1e")),
            ("0x", json!("0x")),
            ("089", json!("089")),
            ("-", json!("-")),
            ("+-5", json!("+-5")),
            (".", json!(".")),
            ("127.0.0.1:9092", json!("127.0.0.1:9092")),
            ("2026-12-31T00:00:00Z", json!("2026-12-31T00:00:00Z")),
            ("inf", json!("inf")),
            ("1e999", json!("1e999")),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text, true, None), Ok(expected), "{text}");
            assert_eq!(resolve(text, false, None), Ok(json!(text)), "{text}");
        }
        assert!(resolve(".nan", true, None).is_err());
    }
}
