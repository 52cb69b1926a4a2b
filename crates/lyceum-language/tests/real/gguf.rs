//! The metadata of a GGUF file, as far as a vocabulary needs it. A reader for these tests: it trusts its file.

use lyceum_language::tokenizer::{GgufVocabulary, TokenKind};
use std::collections::HashMap;
use std::path::Path;

#[derive(Clone, Debug)]
pub enum Value {
    Number(i64),
    Float(f32),
    Text(String),
    List(Vec<Value>),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        head
    }

    fn number(&mut self, n: usize) -> u64 {
        self.take(n).iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    fn text(&mut self) -> String {
        let n = self.number(8) as usize;
        String::from_utf8_lossy(self.take(n)).into_owned()
    }

    fn value(&mut self, kind: u64) -> Value {
        match kind {
            0 | 7 => Value::Number(self.number(1) as i64),
            1 => Value::Number(self.number(1) as i8 as i64),
            2 => Value::Number(self.number(2) as i64),
            3 => Value::Number(self.number(2) as i16 as i64),
            4 => Value::Number(self.number(4) as i64),
            5 => Value::Number(self.number(4) as i32 as i64),
            6 => Value::Float(f32::from_bits(self.number(4) as u32)),
            8 => Value::Text(self.text()),
            9 => {
                let (kind, n) = (self.number(4), self.number(8));
                Value::List((0..n).map(|_| self.value(kind)).collect())
            }
            10 | 11 => Value::Number(self.number(8) as i64),
            12 => Value::Float(f64::from_bits(self.number(8)) as f32),
            other => panic!("GGUF value type {other}"),
        }
    }
}

pub fn metadata(path: &Path) -> HashMap<String, Value> {
    let bytes = std::fs::read(path).unwrap();
    let mut reader = Reader(&bytes);
    assert_eq!(reader.take(4), b"GGUF");
    let _version = reader.number(4);
    let _tensors = reader.number(8);
    let n = reader.number(8);
    (0..n)
        .map(|_| {
            let key = reader.text();
            let kind = reader.number(4);
            (key, reader.value(kind))
        })
        .collect()
}

pub fn text(metadata: &HashMap<String, Value>, key: &str) -> Option<String> {
    match metadata.get(key) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    }
}

pub fn vocabulary(path: &Path) -> GgufVocabulary {
    let metadata = metadata(path);
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let list = |key: &str| match get(key) {
        Some(Value::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    let texts =
        |key: &str| list(key).into_iter().filter_map(|v| if let Value::Text(t) = v { Some(t) } else { None });
    let number = |key: &str| if let Some(Value::Number(n)) = get(key) { Some(*n) } else { None };
    let id = |key: &str| number(key).map(|n| n as u32);
    let flag = |key: &str| number(key).map(|n| n != 0);
    GgufVocabulary {
        model: text(&metadata, "tokenizer.ggml.model").unwrap(),
        pre: text(&metadata, "tokenizer.ggml.pre"),
        tokens: texts("tokens").collect(),
        scores: list("scores")
            .into_iter()
            .filter_map(|v| if let Value::Float(f) = v { Some(f) } else { None })
            .collect(),
        kinds: list("token_type")
            .into_iter()
            .filter_map(|v| if let Value::Number(n) = v { TokenKind::of_number(n) } else { None })
            .collect(),
        merges: texts("merges").collect(),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        eot: id("eot_token_id"),
        unk: id("unknown_token_id"),
        cls: id("cls_token_id"),
        sep: id("seperator_token_id"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
    }
}
