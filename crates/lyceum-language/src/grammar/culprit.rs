//! Where in a schema stands what cannot be compiled: the library says why and not where, so parts of the schema are
//! compiled alone, down to the smallest that fails.

use super::{GrammarCompiler, json_rule};
use crate::LanguageError;
use serde_json::{Value as Json, json};

/// Parts that are compiled in search of the one that fails: some steps of halving at each level of a schema.
const TRIES_MAX: usize = 48;

/// What is wrong with the smallest part that fails alone, and its JSON pointer. None where it is the whole.
pub(super) fn find(compiler: &GrammarCompiler, schema: &Json) -> Option<LanguageError> {
    let mut tries = 0;
    let mut error_of = |part: &Json| {
        tries += 1;
        (tries <= TRIES_MAX)
            .then(|| compiler.compile_rules("json_schema", rules(part, schema)).err())
            .flatten()
    };
    let (mut at, mut part, mut found) = (String::new(), schema.clone(), None);
    loop {
        let children = children(&part, &at);
        let any_of = |group: &[(String, Json)]| json!({"anyOf": group.iter().map(|(_, child)| child).collect::<Vec<&Json>>()});
        // Halves of the children, as long as one fails.
        let mut group = &children[..];
        while group.len() > 1 {
            let (left, right) = group.split_at(group.len() / 2);
            group = if error_of(&any_of(left)).is_some() { left } else { right };
        }
        let [(place, child)] = group else { return found };
        let Some(LanguageError::Grammar { what, .. }) = error_of(child) else { return found };
        found = Some(LanguageError::grammar(place.clone(), what));
        (at, part) = (place.clone(), child.clone());
    }
}

/// The rule of a part; its references find the definitions of the whole.
fn rules(part: &Json, whole: &Json) -> String {
    let mut part = part.clone();
    if let Some(members) = part.as_object_mut() {
        for defined in ["$defs", "definitions"] {
            if let Some(all) = whole.get(defined) {
                members.entry(defined).or_insert_with(|| all.clone());
            }
        }
    }
    format!("start: {}", json_rule(&part))
}

/// The schemas of what a schema describes, with their pointers.
fn children(schema: &Json, at: &str) -> Vec<(String, Json)> {
    let mut children = Vec::new();
    for (keyword, value) in schema.as_object().into_iter().flatten() {
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties", Json::Object(all)) => {
                let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
                let one = |(name, one): (&String, &Json)| {
                    (format!("{at}/{keyword}/{}", escaped(name)), one.clone())
                };
                children.extend(all.iter().map(one));
            }
            ("anyOf" | "allOf" | "prefixItems", Json::Array(all)) => {
                let one = |(i, one): (usize, &Json)| (format!("{at}/{keyword}/{i}"), one.clone());
                children.extend(all.iter().enumerate().map(one));
            }
            ("items" | "additionalProperties", Json::Object(_)) => {
                children.push((format!("{at}/{keyword}"), value.clone()));
            }
            _ => {}
        }
    }
    children
}
