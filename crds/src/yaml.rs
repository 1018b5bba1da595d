//! Writes JSON values as YAML a person likes to read. Reading YAML is the command line's business.

use serde_json::Value;

/// `value` as one YAML document, ending with a line break.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Writes `value` at `indent`; the cursor stands where its first line begins.
fn write(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (index, (key, value)) in fields.iter().enumerate() {
                if index > 0 {
                    text.extend(std::iter::repeat_n(' ', indent));
                }
                text.push_str(&scalar(key));
                text.push(':');
                nested(value, indent, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.extend(std::iter::repeat_n(' ', indent));
                }
                text.push_str("- ");
                write(item, indent + 2, text);
            }
        }
        Value::String(string) => line(&scalar(string), text),
        other => line(&other.to_string(), text),
    }
}

/// Writes what stands after `key:`.
fn nested(value: &Value, indent: usize, text: &mut String) {
    let inner = match value {
        Value::Object(fields) if !fields.is_empty() => indent + 2,
        Value::Array(items) if !items.is_empty() => indent,
        _ => {
            text.push(' ');
            return write(value, indent, text);
        }
    };
    text.push('\n');
    text.extend(std::iter::repeat_n(' ', inner));
    write(value, inner, text);
}

fn line(scalar: &str, text: &mut String) {
    text.push_str(scalar);
    text.push('\n');
}

/// `string` as it is where no reader can take it for something else, else in double quotes.
fn scalar(string: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && string.chars().all(|c| c == ' ' || c.is_alphanumeric() || "-_./()=*+,;:'<>§".contains(c))
        && !string.contains(": ")
        && !string.ends_with([':', ' '])
        && !WORDS.contains(&string.to_ascii_lowercase().as_str());
    if plain { string.to_owned() } else { Value::from(string).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_values_are_indented_and_ambiguous_strings_quoted() {
        let value = json!({
            "a": {"b": [1, {"c": "d", "e": []}, "yes"], "f": {}},
            "g": "5", "h": "it: is", "i": "x # y", "j": "two\nlines", "k": [["l"]],
        });
        let expected = r#"a:
  b:
  - 1
  - c: d
    e: []
  - "yes"
  f: {}
g: "5"
h: "it: is"
i: "x # y"
j: "two\nlines"
k:
- - l
"#;
        assert_eq!(to_yaml(&value), expected);
    }
}
