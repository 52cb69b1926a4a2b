//! What of JSON Schema can be guaranteed, checked by name before anything is compiled.

use crate::LanguageError;
use serde_json::Value as Json;

/// A schema is at most this long, in bytes of compact JSON.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
const DEPTH_MAX: usize = 64;
/// OpenAI's bounds of strict schemas.
const STRICT_DEPTH_MAX: usize = 10;
const STRICT_PROPERTIES_MAX: usize = 5000;
const STRICT_ENUM_MAX: usize = 1000;
const STRICT_NAME_CHARS_MAX: usize = 120_000;

/// Keywords that validate something which a grammar here does not.
const NOT_COMPILED: [&str; 19] = [
    "not",
    "if",
    "then",
    "else",
    "oneOf",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "x-guidance",
    "$vocabulary",
];
/// Keywords beyond those which OpenAI's strict subset leaves out.
const NOT_STRICT: [&str; 7] = [
    "allOf",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "prefixItems",
    "additionalItems",
    "$anchor",
];

/// Schemas inside a schema: under one, a list, or a map.
const ONE: [&str; 3] = ["items", "additionalProperties", "additionalItems"];
const LIST: [&str; 4] = ["anyOf", "allOf", "prefixItems", "items"];
const MAP: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Refuses what cannot be guaranteed. `at` is the JSON pointer of the schema.
///
/// # Errors
/// The place and the keyword.
pub fn check_schema(schema: &Json, at: &str) -> Result<(), LanguageError> {
    let n_bytes = schema.to_string().len();
    if n_bytes > SCHEMA_BYTES_MAX {
        return Err(LanguageError::bound(format!("a schema of {n_bytes} bytes"), SCHEMA_BYTES_MAX));
    }
    walk(schema, at, 0, &mut |schema, at, depth| {
        if depth > DEPTH_MAX {
            return Err(LanguageError::bound(format!("the depth of the schema at {at}"), DEPTH_MAX));
        }
        let Some(members) = schema.as_object() else {
            return match schema {
                Json::Bool(_) => Ok(()),
                _ => Err(LanguageError::grammar(place(at), "a schema is an object or a boolean")),
            };
        };
        for (keyword, value) in members {
            let harmless = keyword == "uniqueItems" && value == false;
            if NOT_COMPILED.contains(&keyword.as_str()) && !harmless {
                return Err(LanguageError::grammar(
                    place(at),
                    format!("the keyword {keyword:?} is not supported"),
                ));
            }
            if keyword == "$ref" && !value.as_str().is_some_and(|to| to.starts_with('#')) {
                return Err(LanguageError::grammar(place(at), "$ref points outside the schema"));
            }
        }
        Ok(())
    })
}

/// Refuses what OpenAI's strict subset does not have: objects whose properties are not all required or that may
/// have others, a root that is no object, further keywords, sizes.
///
/// # Errors
/// The place and the rule.
pub fn check_strict(schema: &Json) -> Result<(), LanguageError> {
    if schema["type"] != "object" {
        return Err(LanguageError::grammar("/", "in strict mode the root is of type object"));
    }
    if schema.get("anyOf").is_some() {
        return Err(LanguageError::grammar("/", "in strict mode the root has no anyOf"));
    }
    let (mut n_properties, mut n_enum, mut n_chars) = (0, 0, 0);
    walk(schema, "", 0, &mut |schema, at, depth| {
        let refused = |what: String| Err(LanguageError::grammar(place(at), what));
        // The root's definitions do not nest in it.
        if depth > STRICT_DEPTH_MAX {
            return Err(LanguageError::bound(
                format!("the depth of the strict schema at {at}"),
                STRICT_DEPTH_MAX,
            ));
        }
        let Some(members) = schema.as_object() else {
            return refused("in strict mode a schema is an object".into());
        };
        if let Some(keyword) = members.keys().find(|keyword| NOT_STRICT.contains(&keyword.as_str())) {
            return refused(format!("the keyword {keyword:?} is not part of strict mode"));
        }
        let values = members.get("enum").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        n_enum += values.len();
        n_chars += values.iter().filter_map(Json::as_str).map(str::len).sum::<usize>();
        let types = |name: &str| match &schema["type"] {
            Json::Array(types) => types.iter().any(|one| one == name),
            one => one == name,
        };
        if !types("object") && members.get("properties").is_none() {
            return Ok(());
        }
        if schema.get("additionalProperties") != Some(&Json::Bool(false)) {
            return refused("in strict mode additionalProperties is false".into());
        }
        let empty = serde_json::Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        if let Some(name) = properties.keys().find(|name| !required.contains(&name.as_str())) {
            return refused(format!("in strict mode every property is required; {name:?} is not"));
        }
        if let Some(name) = required.iter().find(|name| !properties.contains_key(**name)) {
            return refused(format!("{name:?} is required and is no property"));
        }
        n_properties += properties.len();
        n_chars += properties.keys().map(String::len).sum::<usize>();
        Ok(())
    })?;
    for (what, n, max) in [
        ("properties", n_properties, STRICT_PROPERTIES_MAX),
        ("values of enums", n_enum, STRICT_ENUM_MAX),
        ("characters of names and values", n_chars, STRICT_NAME_CHARS_MAX),
    ] {
        if n > max {
            return Err(LanguageError::bound(format!("{n} {what} of a strict schema"), max));
        }
    }
    Ok(())
}

fn place(at: &str) -> String {
    if at.is_empty() { "/".to_owned() } else { at.to_owned() }
}

type Check<'a> = dyn FnMut(&Json, &str, usize) -> Result<(), LanguageError> + 'a;

/// Calls `check` with every schema in a schema, its place and its depth of nesting. Definitions begin anew.
fn walk(schema: &Json, at: &str, depth: usize, check: &mut Check<'_>) -> Result<(), LanguageError> {
    check(schema, at, depth)?;
    let Some(members) = schema.as_object() else { return Ok(()) };
    for (keyword, value) in members {
        let here = format!("{at}/{keyword}");
        match value {
            Json::Array(list) if LIST.contains(&keyword.as_str()) => {
                // Alternatives stand on one level.
                let inner = if matches!(keyword.as_str(), "anyOf" | "allOf") { depth } else { depth + 1 };
                // A chain of alternatives nests all the same.
                let inner = if here.len() > 16 * DEPTH_MAX { depth + 1 } else { inner };
                for (i, one) in list.iter().enumerate() {
                    walk(one, &format!("{here}/{i}"), inner, check)?;
                }
            }
            Json::Object(map) if MAP.contains(&keyword.as_str()) => {
                let inner = if keyword == "$defs" || keyword == "definitions" { 0 } else { depth + 1 };
                for (name, one) in map {
                    walk(one, &format!("{here}/{name}"), inner, check)?;
                }
            }
            Json::Object(_) if ONE.contains(&keyword.as_str()) => walk(value, &here, depth + 1, check)?,
            _ => {}
        }
    }
    Ok(())
}
