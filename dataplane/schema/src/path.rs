//! Paths inside a schema, as problems name places: `properties.total`, `allOf[2]`, `patternProperties["^x "]`.

use serde_json::Value;
use sluice_config::shown::clip;

/// The path of the field `name` below `at`.
pub(crate) fn field(at: &str, name: &str) -> String {
    let plain = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$'));
    match (plain, at) {
        (true, "") => name.to_owned(),
        (true, at) => format!("{at}.{name}"),
        (false, at) => format!("{at}[{:?}]", clip(name)),
    }
}

/// The path of item `index` of the list `at`.
pub(crate) fn item(at: &str, index: usize) -> String {
    format!("{at}[{index}]")
}

/// The path `inner` below `at`.
pub(crate) fn below(at: &str, inner: &str) -> String {
    let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
    format!("{at}{dot}{inner}")
}

/// The path of what the JSON pointer leads to in `root`.
pub(crate) fn of(root: &Value, pointer: &str) -> String {
    let (mut at, mut value) = (String::new(), Some(root));
    for token in pointer.split('/').skip(1) {
        let name = token.replace("~1", "/").replace("~0", "~");
        match (value, name.parse::<usize>()) {
            (Some(Value::Array(items)), Ok(index)) => {
                at = item(&at, index);
                value = items.get(index);
            }
            _ => {
                at = field(&at, &name);
                value = value.and_then(|value| value.get(&name));
            }
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_pointer_becomes_a_path() {
        let root =
            json!({"allOf": [{}, {"properties": {"a b": {}, "7": {}, "x/y": {}}}], "$defs": {"a": {}}});
        for (pointer, path) in [
            ("", ""),
            ("/$defs/a", "$defs.a"),
            ("/allOf/1/properties/7", "allOf[1].properties.7"),
            ("/allOf/1/properties/a b", "allOf[1].properties[\"a b\"]"),
            ("/allOf/1/properties/x~1y/type", "allOf[1].properties[\"x/y\"].type"),
        ] {
            assert_eq!(super::of(&root, pointer), path);
        }
        assert_eq!(super::below("payload", "[\"a b\"]"), "payload[\"a b\"]");
        assert_eq!(super::below("payload", "$defs.a"), "payload.$defs.a");
        assert_eq!(super::below("payload", ""), "payload");
    }
}
