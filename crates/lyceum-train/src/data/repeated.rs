//! Keys that stand twice in an object of JSON: readers take the first or the last of them without a word.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;
use std::fmt;

/// A key that stands in its object more than once.
#[derive(Debug, PartialEq)]
pub(crate) struct Repeated {
    /// Where, as a JSON pointer.
    pub pointer: String,
    pub message: String,
}

impl Repeated {
    pub const CODE: &'static str = "duplicate_key";
    pub const HINT: &'static str = "keep one of them: which one would be read is for no reader to say";
}

/// The keys that stand twice; text that is no JSON has none.
pub(crate) fn repeated_keys(json: &[u8]) -> Vec<Repeated> {
    let mut walk = Walk { path: String::new(), found: Vec::new() };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    match walk.deserialize(&mut deserializer) {
        Ok(()) => walk.found,
        Err(_) => Vec::new(),
    }
}

/// A key within a JSON pointer.
pub(crate) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A walk over a value, which stands at `path`.
struct Walk {
    path: String,
    found: Vec<Repeated>,
}

impl Walk {
    /// Goes on at a place below, by `step`.
    fn within<E>(&mut self, step: &str, walk: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        let above = self.path.len();
        self.path.push('/');
        self.path.push_str(step);
        let walked = walk(self);
        self.path.truncate(above);
        walked
    }
}

impl<'de> DeserializeSeed<'de> for &mut Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Walk {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let (mut n, mut is_over) = (0, false);
        while !is_over {
            self.within(&n.to_string(), |walk| {
                is_over = list.next_element_seed(walk)?.is_none();
                Ok(())
            })?;
            n += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut times: HashMap<String, u64> = HashMap::new();
        while let Some(key) = object.next_key::<String>()? {
            self.within(&escaped(&key), |walk| object.next_value_seed(walk))?;
            let Some(n) = times.get_mut(&key) else {
                times.insert(key, 1);
                continue;
            };
            *n += 1;
            if *n == 2 {
                let pointer = format!("{}/{}", self.path, escaped(&key));
                let message = format!("\"{key}\" stands more than once in the same object");
                self.found.push(Repeated { pointer, message });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::repeated_keys;

    #[test]
    fn each_key_that_stands_twice_is_found_once_at_its_place() {
        let found = |text: &str| -> Vec<String> {
            repeated_keys(text.as_bytes()).into_iter().map(|repeated| repeated.pointer).collect()
        };
        assert_eq!(found(r#"{"a": 1, "b": {"a": 2}, "c": [{"a": null}, {"a": 1.5}]}"#), [""; 0]);
        assert_eq!(found(r#"{"a": 1, "a": 1, "a": 1}"#), ["/a"]);
        assert_eq!(
            found(r#"{"\u0061": 1, "b": [0, {"x/y": true, "x/y": -1}], "a": 2}"#),
            ["/b/1/x~1y", "/a"]
        );
        assert_eq!(found(r#"{"a": 1, "a": "#), [""; 0]);
    }
}
