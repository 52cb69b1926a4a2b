//! Changes to files, drawn from a seed: bits, cuts, lengths, depth, doubles, types.

use lyceum_nn::gguf::Value as Meta;
use serde_json::{Value, json};

/// SplitMix64 (Steele et al. 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    /// Changes bytes among the first `head`; what was done.
    pub fn bytes(&mut self, bytes: &mut Vec<u8>, head: usize) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..=self.below(3) {
            let n = bytes.len().min(head).max(1);
            let at = self.below(n);
            let (what, n) = match self.below(6) {
                0 if bytes.len() > 1 => {
                    bytes.truncate(at.max(1));
                    ("cut", at)
                }
                1 => {
                    let huge =
                        [u64::MAX, 1 << 62, 1 << 40, 1 << 32, u64::from(u32::MAX), 1 << 20][self.below(6)];
                    for (to, from) in bytes.iter_mut().skip(at).zip(huge.to_le_bytes()) {
                        *to = from;
                    }
                    ("length", huge as usize)
                }
                2 => {
                    let end = (at + 1 + self.below(64)).min(bytes.len());
                    let twice = bytes[at.min(end)..end].to_vec();
                    bytes.splice(at.min(end)..at.min(end), twice);
                    ("twice", end)
                }
                3 => {
                    let end = (at + 1 + self.below(64)).min(bytes.len());
                    bytes.drain(at.min(end)..end);
                    ("taken out", end)
                }
                _ => {
                    let bit = self.below(8);
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << bit;
                    }
                    ("bit", bit)
                }
            };
            told.push(format!("{what} {n} at {at}"));
        }
        told
    }

    /// Changes a JSON document: a value becomes another, a key stands twice, or it is no JSON any more.
    pub fn json(&mut self, bytes: &mut Vec<u8>) -> Vec<String> {
        if self.below(5) == 0 {
            return self.bytes(bytes, usize::MAX);
        }
        let mut document: Value = serde_json::from_slice(bytes).unwrap();
        let mut told = Vec::new();
        let mut text = None;
        for _ in 0..=self.below(2) {
            let paths = paths(&document);
            let path = paths[self.below(paths.len())].clone();
            let odd = self.odd_value();
            let node = document.pointer_mut(&path).unwrap();
            match self.below(8) {
                0 => {
                    if let Some(members) = node.as_object_mut().filter(|members| !members.is_empty()) {
                        let key = members.keys().nth(self.below(members.len())).unwrap().clone();
                        members.remove(&key);
                        told.push(format!("{path} without {key}"));
                        continue;
                    }
                    *node = Value::Null;
                }
                1 => {
                    // The same key twice, the second time with another value.
                    let key = path.rsplit('/').next().unwrap_or_default().to_owned();
                    let marker = "\u{1}twice";
                    if let Some(parent) = path.rsplit_once('/').map(|(parent, _)| parent.to_owned())
                        && let Some(members) = document.pointer_mut(&parent).and_then(Value::as_object_mut)
                    {
                        members.insert(marker.into(), odd.clone());
                        let written = document.to_string();
                        let marker = Value::from(marker).to_string();
                        text = Some(written.replace(&marker, &Value::from(key).to_string()));
                        told.push(format!("{path} twice, as {odd:.40}"));
                        break;
                    }
                    *node_at(&mut document, &path) = odd;
                }
                2 => {
                    let depth = [100, 200, 10_000][self.below(3)];
                    *node = json!("\u{1}deep");
                    let (open, close) = [("[", "]"), ("{\"a\":", "}")][self.below(2)];
                    let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                    let marker = Value::from("\u{1}deep").to_string();
                    text = Some(document.to_string().replace(&marker, &deep));
                    told.push(format!("{path} {depth} deep"));
                    break;
                }
                3 => {
                    if let Some(values) = node.as_array_mut().filter(|values| !values.is_empty()) {
                        let again = values[0].clone();
                        values.extend(std::iter::repeat_n(again, 2000));
                        told.push(format!("{path} 2000 times longer"));
                        continue;
                    }
                    *node = odd;
                }
                _ => {
                    told.push(format!("{path} as {:.40}", odd.to_string()));
                    *node = odd;
                }
            }
        }
        *bytes = text.unwrap_or_else(|| document.to_string()).into_bytes();
        told
    }

    fn odd_value(&mut self) -> Value {
        match self.below(14) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(-1),
            3 => json!(0),
            4 => json!(u64::MAX),
            5 => json!(1u64 << 40),
            6 => json!(1e308),
            7 => json!("NaN"),
            8 => json!(""),
            9 => json!([]),
            10 => json!({}),
            11 => json!("x".repeat(100_000)),
            12 => json!([[0, u64::MAX], {"a": null}]),
            _ => json!(i64::from(i32::MAX)),
        }
    }

    /// Changes an entry of a GGUF file's metadata.
    pub fn metadata(&mut self, metadata: &mut Vec<(String, Meta)>) -> String {
        let at = self.below(metadata.len());
        let key = metadata[at].0.clone();
        let odd = match self.below(16) {
            0 => {
                metadata.remove(at);
                return format!("without {key}");
            }
            1 => {
                let again = metadata[at].clone();
                metadata.push(again);
                return format!("{key} twice");
            }
            2 => Meta::U64(u64::MAX),
            3 => Meta::U32(0),
            4 => Meta::U32(1 << 30),
            5 => Meta::I32(-1),
            6 => Meta::F32(f32::NAN),
            7 => Meta::F32(f32::INFINITY),
            8 => Meta::Bool(true),
            9 => Meta::String("\u{0}{{ 1 / 0 }}".repeat(9)),
            10 => Meta::Integers(vec![i64::MIN; 300]),
            11 => Meta::Floats(vec![f32::NAN; 300]),
            12 => Meta::Strings(vec![String::new(); 300]),
            13 => Meta::Strings(vec!["a b".into(); 5]),
            _ => match &mut metadata[at].1 {
                Meta::Strings(all) if !all.is_empty() => {
                    let i = self.below(all.len());
                    all[i] = ["", "a", "zz qq ww", "\u{fffd}", "<0xZZ>"][self.below(5)].into();
                    return format!("{key}[{i}] another");
                }
                Meta::Integers(all) if !all.is_empty() => {
                    let i = self.below(all.len());
                    all[i] = [-1, 0, 7, i64::MAX][self.below(4)];
                    return format!("{key}[{i}] another");
                }
                Meta::U32(n) => {
                    *n = n.wrapping_mul(3).wrapping_add(1);
                    return format!("{key} = {n}");
                }
                _ => Meta::Strings(Vec::new()),
            },
        };
        let told = format!("{key} = {odd:?}");
        metadata[at].1 = odd;
        told.chars().take(200).collect()
    }

    /// Changes a template's letters, or makes it work without an end.
    pub fn template(&mut self, source: &mut String) -> String {
        const WORK: [&str; 8] = [
            "{% for a in range(100000000) %}x{% endfor %}",
            "{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
            "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
            "{{ 'x' * 1000000000000 }}",
            "{{ messages[0].content | replace('', 'x' * 1000000) }}",
            "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
            "{{ '%1000000000d' | format(1) }}{{ (9 ** 9) ** 9 }}",
            "{{ [1, 2, 3] | tojson(indent=1000000000) }}",
        ];
        if self.below(6) == 0 {
            let (work, at) = (WORK[self.below(WORK.len())], self.below(3));
            let at = [0, source.len(), source.find("%}").map_or(0, |at| at + 2)][at];
            source.insert_str(at, work);
            return format!("{work} at {at}");
        }
        if self.below(8) == 0 {
            let n = 1 + self.below(5000);
            let (open, close) = [("(", ")"), ("[", "]"), ("{% if 1 %}", "{% endif %}")][self.below(3)];
            *source = match open {
                "{% if 1 %}" => format!("{}{source}{}", open.repeat(n), close.repeat(n)),
                _ => format!("{{{{ {}1{} }}}}{source}", open.repeat(n), close.repeat(n)),
            };
            return format!("{open} {n} deep");
        }
        let mut letters: Vec<char> = source.chars().collect();
        for _ in 0..=self.below(5) {
            let (from, to) = (self.below(letters.len()), self.below(letters.len()));
            match self.below(3) {
                0 => letters[from] = "{}%|'[]().-x".chars().nth(self.below(12)).unwrap(),
                1 => drop(letters.drain(from.min(to)..(from.min(to) + 9).min(letters.len()))),
                _ => letters.insert(from, letters[to]),
            }
        }
        *source = letters.into_iter().collect();
        source.clone()
    }
}

/// Every place of a document, as JSON pointers.
fn paths(document: &Value) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![(String::new(), document)];
    while let Some((path, value)) = open.pop() {
        let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
        match value {
            Value::Object(members) => {
                open.extend(members.iter().map(|(key, value)| (format!("{path}/{}", escaped(key)), value)));
            }
            Value::Array(values) => {
                open.extend(values.iter().enumerate().map(|(i, value)| (format!("{path}/{i}"), value)));
            }
            _ => {}
        }
        all.push(path);
    }
    all
}

fn node_at<'a>(document: &'a mut Value, path: &str) -> &'a mut Value {
    document.pointer_mut(path).unwrap()
}
