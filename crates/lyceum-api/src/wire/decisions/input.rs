//! What a decision is about: a text, or one user message with one part.

use crate::error::ApiError;
use base64::Engine as _;
use lyceum_service::Content;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text, or one message {\"role\": \"user\", \"content\": …}")]
#[schema(as = DecisionInput)]
pub enum InputBody {
    Text(String),
    #[schema(value_type = Vec<Message>)]
    Messages(Vec<Value>),
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecisionMessage)]
pub struct Message {
    /// `message`
    #[serde(rename = "type")]
    pub kind: Option<MessageType>,
    pub role: Role,
    pub content: ContentBody,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    User,
    System,
    Developer,
    Assistant,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or a list of parts")]
#[schema(as = DecisionContent)]
pub enum ContentBody {
    Text(String),
    #[schema(value_type = Vec<Part>)]
    Parts(Vec<Value>),
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", deny_unknown_fields)]
#[schema(as = DecisionPart)]
#[expect(dead_code, reason = "accepted, without effect")]
pub enum Part {
    #[serde(rename = "input_text")]
    Text { text: String, prompt_cache_breakpoint: Option<Breakpoint> },
    /// `image_url` is a base64 data URL; nothing is fetched.
    #[serde(rename = "input_image")]
    Image { image_url: String, detail: Option<Detail>, prompt_cache_breakpoint: Option<Breakpoint> },
    /// The features of one row of a table.
    #[serde(rename = "input_json")]
    Json { data: Value },
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Breakpoint {
    #[serde(rename = "mode")]
    _mode: BreakpointMode,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakpointMode {
    Explicit,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    Low,
    High,
    Auto,
    Original,
}

/// One thing is read: what else stands in the input would change an answer, so it is refused here and not dropped.
pub(super) fn content(input: InputBody) -> Result<Content, ApiError> {
    let messages = match input {
        InputBody::Text(text) => return Ok(Content::Text(text)),
        InputBody::Messages(messages) => messages,
    };
    let [message] = <[Value; 1]>::try_from(messages).map_err(|messages: Vec<Value>| {
        let message = format!("input: {} items; decisions read one user message", messages.len());
        ApiError::field("input", "unsupported_value", message)
    })?;
    let message: Message = reparse("input[0]", &message)?;
    let _ = message.kind;
    if message.role != Role::User {
        let text = "input[0].role: decisions read one message with the role \"user\"";
        return Err(ApiError::field("input[0].role", "unsupported_value", text));
    }
    let parts = match message.content {
        ContentBody::Text(text) => return Ok(Content::Text(text)),
        ContentBody::Parts(parts) => parts,
    };
    let [part] = <[Value; 1]>::try_from(parts).map_err(|parts: Vec<Value>| {
        let message = format!("input[0].content: {} parts; decisions read one", parts.len());
        ApiError::field("input[0].content", "unsupported_value", message)
    })?;
    match reparse("input[0].content[0]", &part)? {
        Part::Text { text, .. } => Ok(Content::Text(text)),
        Part::Image { image_url, .. } => {
            data_url("input[0].content[0].image_url", &image_url).map(Content::File)
        }
        Part::Json { data: Value::Object(row) } => Ok(Content::Row(row)),
        Part::Json { .. } => {
            let param = "input[0].content[0].data";
            Err(ApiError::field(param, "invalid_type", format!("{param}: must be an object of features")))
        }
    }
}

/// A value inside an untagged union, whose errors then have their full path.
fn reparse<T: serde::de::DeserializeOwned>(path: &str, value: &Value) -> Result<T, ApiError> {
    crate::body::parse_part(value.to_string().as_bytes()).map_err(|mut error: ApiError| {
        let inner = error.detail.param.take();
        let param = inner.map_or(path.to_owned(), |inner| format!("{path}.{inner}"));
        error.detail.message = format!("{path}: {}", error.detail.message);
        error.detail.param = Some(param);
        error
    })
}

/// The bytes of a base64 data URL. Addresses on the network are never fetched.
fn data_url(param: &str, url: &str) -> Result<Vec<u8>, ApiError> {
    let refuse = |why: &str| Err(ApiError::field(param, "invalid_value", format!("{param}: {why}")));
    let Some(rest) = url.strip_prefix("data:") else {
        return refuse("must be a data URL (data:image/png;base64,…); this server fetches no addresses");
    };
    let Some((media_type, data)) = rest.split_once(";base64,") else {
        return refuse("a data URL must say ;base64,");
    };
    if !media_type.starts_with("image/") {
        return refuse("a data URL must begin with data:image/");
    }
    match base64::engine::general_purpose::STANDARD.decode(data) {
        Ok(bytes) => Ok(bytes),
        Err(_) => refuse("the base64 is broken"),
    }
}
