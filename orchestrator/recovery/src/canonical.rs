//! The hash of a plan or a runbook: the same content gives the same hash on every site.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Hexadecimal SHA-256 of the canonical JSON of `value`: keys sorted, no white space, nulls left out.
///
/// A field that is absent and one that is null are the same to Kubernetes, so they hash the same.
///
/// # Errors
/// Only when `value` cannot be represented in JSON (a map whose keys are not strings).
pub fn hash_of<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    write_value(&serde_json::to_value(value)?, &mut text);
    Ok(hash_text(&text))
}

/// Hexadecimal SHA-256 of a text, as it stands.
#[must_use]
pub fn hash_text(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// The canonical JSON itself: what [`hash_of`] hashes.
///
/// # Errors
/// As [`hash_of`].
pub fn canonical_json<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    write_value(&serde_json::to_value(value)?, &mut text);
    Ok(text)
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            // Sorted here: whether serde_json keeps its maps sorted is another crate's feature flag.
            let mut fields: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            write_list(&fields, '{', '}', out, |(key, value), out| {
                out.push_str(&Value::String((*key).clone()).to_string());
                out.push(':');
                write_value(value, out);
            });
        }
        Value::Array(items) => write_list(items, '[', ']', out, write_value),
        other => out.push_str(&other.to_string()),
    }
}

fn write_list<T>(items: &[T], open: char, close: char, out: &mut String, each: impl Fn(&T, &mut String)) {
    out.push(open);
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        each(item, out);
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_of_keys_and_nulls_do_not_change_the_hash() {
        let a: Value = serde_json::from_str(r#"{"b":1,"a":[{"y":null,"x":"q\"u"}]}"#).unwrap();
        assert_eq!(canonical_json(&a).unwrap(), r#"{"a":[{"x":"q\"u"}],"b":1}"#);
        let b: Value = serde_json::from_str(r#"{"a":[{"x":"q\"u"}],"b":1,"c":null}"#).unwrap();
        assert_eq!(hash_of(&a).unwrap(), hash_of(&b).unwrap());
    }

    #[test]
    fn order_of_a_list_does() {
        assert_ne!(hash_of(&json!([1, 2])).unwrap(), hash_of(&json!([2, 1])).unwrap());
    }
}
