//! Request bodies: bounded in bytes, depth and time, then parsed into wire types whose errors name the field.

use crate::error::ApiError;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use lyceum_types::limits;
use lyceum_types::short::short;
use serde::de::DeserializeOwned;

/// A JSON body as `T`.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        parse(&read_json(request).await?).map(Json)
    }
}

/// The whole body of a request that says it is JSON.
pub async fn read_json(request: Request) -> Result<Bytes, ApiError> {
    if !is_of_type(&request, &["application/json", "application/x-www-form-urlencoded"]) {
        return Err(ApiError::wrong_media_type());
    }
    read(request).await
}

/// A body as it came: JSON, with raw bytes behind it where a header says so.
pub struct Raw(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let types = ["application/json", "application/x-www-form-urlencoded", "application/octet-stream"];
        if !is_of_type(&request, &types) {
            return Err(ApiError::wrong_media_type());
        }
        read(request).await.map(Raw)
    }
}

/// Whether the body says that it is one of these; one that does not say it decides by itself (curl -d says
/// that it is a form).
fn is_of_type(request: &Request, types: &[&str]) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_none_or(|value| {
        value.to_str().is_ok_and(|text| {
            let essence = text.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
            types.contains(&essence.as_str())
        })
    })
}

/// The whole body, within its bound and in time.
pub async fn read(request: Request) -> Result<Bytes, ApiError> {
    if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING).filter(|e| *e != "identity") {
        return Err(ApiError::compressed(&String::from_utf8_lossy(encoding.as_bytes())));
    }
    // What is announced as too large is not waited for.
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limits::BODY_BYTES_MAX as u64) {
        return Err(ApiError::too_large(limits::BODY_BYTES_MAX));
    }
    let read = axum::body::to_bytes(request.into_body(), limits::BODY_BYTES_MAX);
    match tokio::time::timeout(limits::BODY_TIMEOUT, read).await {
        Err(_) => Err(ApiError::too_slow()),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let too_large = std::error::Error::source(&error)
                .is_some_and(|cause| cause.to_string().contains("length limit exceeded"));
            Err(if too_large {
                ApiError::too_large(limits::BODY_BYTES_MAX)
            } else {
                ApiError::unreadable("incomplete_body", "the request body ended early")
            })
        }
    }
}

/// A body's JSON object as `T`; an error names the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let is_list = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    // serde reads a list as the fields of a struct in their order, and no order is part of the API.
    if is_list && depth(bytes) <= limits::JSON_DEPTH_MAX {
        return Err(ApiError::unreadable("invalid_type", "invalid type: sequence, expected an object"));
    }
    parse_part(bytes)
}

/// The JSON of a part of a body as `T`; an error names the field within it.
pub fn parse_part<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if depth(bytes) > limits::JSON_DEPTH_MAX {
        let message = format!("the JSON is nested deeper than {} levels", limits::JSON_DEPTH_MAX);
        return Err(ApiError::unreadable("json_too_deep", message));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(value) => value,
        Err(error) => return Err(explain(&error)),
    };
    match deserializer.end() {
        Ok(()) => Ok(value),
        Err(error) => Err(ApiError::unreadable("invalid_json", format!("the body is not JSON: {error}"))),
    }
}

fn explain(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let message = short(&error.inner().to_string()).into_owned();
    let path = match error.path().to_string() {
        // "?" is a place that has no name yet: what stands there is no key.
        path if path == "." => String::new(),
        path if path == "?" || path.ends_with(".?") => {
            path.trim_end_matches('?').trim_end_matches('.').to_owned()
        }
        path => short(&path).into_owned(),
    };
    if !error.inner().is_data() {
        let message = format!("the body is not JSON: {message}");
        // NaN and numbers beyond all bounds stand at a field; a body that is cut off stands nowhere.
        if path.is_empty() || error.inner().is_eof() {
            return ApiError::unreadable("invalid_json", message);
        }
        return ApiError::field(path.clone(), "invalid_json", format!("{path}: {message}"));
    }
    // serde names a missing or unknown field in its message only.
    let named = |prefix: &str| Some(message.strip_prefix(prefix)?.split('`').next()?.to_owned());
    let join = |field: String| match path.as_str() {
        "" => field,
        path if path == field || path.ends_with(&format!(".{field}")) => path.to_owned(),
        path => format!("{path}.{field}"),
    };
    let (param, code) = if let Some(field) = named("unknown field `") {
        (join(field), "unknown_parameter")
    } else if let Some(field) = named("missing field `") {
        (join(field), "missing_required_parameter")
    } else if let Some(field) = named("duplicate field `") {
        (join(field), "duplicate_parameter")
    } else {
        (path, "invalid_type")
    };
    // The line and column of a one-line body help nobody once the field is named.
    let message = without_types(message.split(" at line ").next().unwrap_or(&message));
    if param.is_empty() {
        return ApiError::unreadable(code, message);
    }
    ApiError::field(param.clone(), code, format!("{param}: {message}"))
}

/// What is expected, without the name that it has here: `struct Body` is an object to everybody else.
fn without_types(message: &str) -> String {
    let Some((before, named)) = message.split_once("expected struct ") else { return message.to_owned() };
    let behind = named.find(|c: char| !(c.is_alphanumeric() || c == '_')).map_or("", |end| &named[end..]);
    let behind = if behind.starts_with(" with ") { "" } else { behind };
    format!("{before}expected an object{behind}")
}

/// The deepest nesting of arrays and objects; reads brackets outside strings only.
fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for &byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing is looked at")]
    struct Outer {
        count: u32,
        inner: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing is looked at")]
    struct Inner {
        name: String,
    }

    fn refused(text: &str) -> (Option<String>, &'static str) {
        let error = parse::<Outer>(text.as_bytes()).unwrap_err();
        assert_eq!(error.status, 400);
        (error.detail.param, error.detail.code.unwrap())
    }

    #[test]
    fn each_wrong_field_is_named_with_its_path() {
        let check = |text, param: &str, code| assert_eq!(refused(text), (Some(param.into()), code), "{text}");
        check(r#"{"count":1,"extra":2}"#, "extra", "unknown_parameter");
        check(r#"{"count":"1"}"#, "count", "invalid_type");
        check(r#"{"count":-1}"#, "count", "invalid_type");
        check(r#"{"count":1.5}"#, "count", "invalid_type");
        check(r#"{}"#, "count", "missing_required_parameter");
        check(r#"{"count":1,"count":2}"#, "count", "duplicate_parameter");
        check(r#"{"count":1,"inner":[{"name":"a"},{"name":3}]}"#, "inner[1].name", "invalid_type");
        check(r#"{"count":1,"inner":[{"nam":"a"}]}"#, "inner[0].nam", "unknown_parameter");
        check(r#"{"count":1,"inner":[{}]}"#, "inner[0].name", "missing_required_parameter");
        check(r#"{"count":1,"inner":7}"#, "inner", "invalid_type");
    }

    #[test]
    fn what_is_not_json_is_said_to_be_so() {
        for text in ["", "{", "{\"count\":1} x", "\u{1}", "{\"inner\":[{", "{bad", "{'count':1}"] {
            assert_eq!(refused(text), (None, "invalid_json"), "{text:?}");
        }
        for text in ["NaN", "Infinity", "-Infinity", "nan"] {
            let text = format!("{{\"count\":{text}}}");
            assert_eq!(refused(&text), (Some("count".into()), "invalid_json"), "{text:?}");
        }
        assert_eq!(refused("[1]").1, "invalid_type");
        let told = |text: &str| parse::<Outer>(text.as_bytes()).unwrap_err().detail.message;
        assert_eq!(told("null"), "invalid type: null, expected an object");
        for list in ["[]", "[1, []]", " \n[1, []]", "["] {
            assert_eq!(told(list), "invalid type: sequence, expected an object", "{list}");
        }
        assert_eq!(
            told(r#"{"count":1,"inner":[true]}"#),
            "inner[0]: invalid type: boolean `true`, expected an object"
        );
    }

    #[test]
    fn depth_is_bounded_before_anything_is_built_and_brackets_in_strings_do_not_count() {
        let deep =
            format!("{}{}", "[".repeat(limits::JSON_DEPTH_MAX + 1), "]".repeat(limits::JSON_DEPTH_MAX + 1));
        assert_eq!(refused(&deep), (None, "json_too_deep"));
        assert_eq!(depth(br#"{"a":"[[[[\"[[["}"#), 1);
        assert_eq!(depth(br#"[[],[[]]]"#), 3);
    }
}
