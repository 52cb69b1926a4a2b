//! Texts and conversations as a model's tokens, and tokens as text: of imported models and of those trained here.

use crate::guard::texts;
use crate::language::rows::inexpressible;
use crate::resident::Resident;
use crate::{Language, Service, ServiceError, messages};
use lyceum_guard::placeholder::Written;
use lyceum_language::template::Conversation;
use lyceum_language::tokenizer::{ShowSpecials, Specials};
use lyceum_models::InputShape;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use serde_json::{Map, Value};
use std::sync::Arc;

pub use lyceum_language::template::End;
pub use lyceum_language::tokenizer::AddSpecial;

#[derive(Clone, Debug)]
pub struct Request {
    pub model: ModelRef,
    pub source: Source,
    pub add: AddSpecial,
}

#[derive(Clone, Debug)]
pub enum Source {
    Text(String),
    /// Through the model's chat template.
    Messages(Messages),
}

#[derive(Clone, Debug)]
pub struct Messages {
    /// In OpenAI's shape; at least one.
    pub messages: Vec<Value>,
    pub tools: Vec<Value>,
    pub end: End,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    pub ids: Vec<u32>,
    /// The longest sequence of the model.
    pub context: u64,
    /// What each token is, as a text.
    pub texts: Vec<String>,
}

/// Whoever has words.
enum Words {
    Imported(Arc<Language>),
    Trained(Arc<Resident>),
}

/// A text's tokens.
pub async fn encode(
    service: &Service,
    project: &Project,
    mut request: Request,
) -> Result<Tokens, ServiceError> {
    let words = Words::find(service, project, &request.model).await?;
    guard(service, project, &mut request.source).await?;
    let work = tokio::task::spawn_blocking(move || words.tokens(request.source, request.add));
    work.await.map_err(|error| ServiceError::internal("reading a text broke off", error))?
}

/// The text of tokens; special ones by their names.
pub async fn decode(
    service: &Service,
    project: &Project,
    model: &ModelRef,
    ids: Vec<u32>,
) -> Result<String, ServiceError> {
    let words = Words::find(service, project, model).await?;
    let work = tokio::task::spawn_blocking(move || words.text(&ids));
    let text = work.await.map_err(|error| ServiceError::internal("writing a text broke off", error))??;
    match service.guard(project).await? {
        None => Ok(text),
        // It goes out, whoever said it.
        Some(guard) => guard.read(Vec::new()).await?.1.speech(Written::Plain).whole(&text),
    }
}

/// Tokens are those that a model would read.
async fn guard(service: &Service, project: &Project, source: &mut Source) -> Result<(), ServiceError> {
    match source {
        Source::Text(text) => texts::plain(service, project, vec![("prompt".to_owned(), text)]).await,
        Source::Messages(messages) => texts::messages(service, project, &mut messages.messages).await,
    }
}

impl Words {
    async fn find(service: &Service, project: &Project, model: &ModelRef) -> Result<Self, ServiceError> {
        let version = service.resolve(project, model).await?;
        crate::receipts::asked(&version);
        if crate::language::is_imported(&version) {
            return Ok(Words::Imported(service.language_of(version).await?));
        }
        let resident = service.resident_of(version).await?;
        if resident.preparation.tokenizer().is_none() {
            let message = format!("{} reads no texts", resident.version.id());
            return Err(ServiceError::invalid("model", "unsupported_model", message));
        }
        Ok(Words::Trained(resident))
    }

    fn tokens(&self, source: Source, add: AddSpecial) -> Result<Tokens, ServiceError> {
        match self {
            Words::Imported(language) => {
                let tokenizer = &language.words.tokenizer;
                let (param, text, specials) = match source {
                    Source::Messages(messages) => {
                        ("messages", render(language, messages)?, Specials::Protected)
                    }
                    // As POST /v1/completions and /v1/embeddings read it.
                    Source::Text(text) if language.manifest.kind.speaks() => {
                        ("prompt", text, Specials::Parsed)
                    }
                    Source::Text(text) => ("prompt", text, Specials::AsText),
                };
                let ids = tokenizer.encode(&text, add, specials);
                let ids = ids.map_err(|error| inexpressible(param, error))?;
                let piece = |id: &u32| {
                    let bytes = tokenizer.token_bytes(*id).unwrap_or_default();
                    String::from_utf8_lossy(bytes).into_owned()
                };
                let texts = ids.iter().map(piece).collect();
                Ok(Tokens { texts, ids, context: language.manifest.context })
            }
            Words::Trained(resident) => {
                let Source::Text(text) = source else {
                    let message = format!("{} has no chat template: send a prompt", resident.version.id());
                    return Err(ServiceError::invalid("messages", "unsupported_model", message));
                };
                let tokenizer = own(resident);
                // Models trained here begin their texts with no token that a text does not have.
                let ids = tokenizer.encode(&text).map_err(|error| ServiceError::prepare("prompt", error))?;
                let texts = ids.iter().map(|&id| tokenizer.token_text(id)).collect();
                let context = match resident.model.shape.input {
                    InputShape::Tokens { time, .. } => time,
                    InputShape::Pair { source_time, .. } => source_time,
                    _ => return Err(ServiceError::internal("a model of texts reads none", "bug")),
                };
                Ok(Tokens { texts, ids, context: context as u64 })
            }
        }
    }

    fn text(&self, ids: &[u32]) -> Result<String, ServiceError> {
        match self {
            Words::Imported(language) => language
                .words
                .tokenizer
                .decode_as(ids, ShowSpecials::Yes)
                .map_err(|error| inexpressible("tokens", error)),
            Words::Trained(resident) => {
                let tokenizer = own(resident);
                let n = tokenizer.vocab_size();
                if let Some(id) = ids.iter().find(|&&id| id as usize >= n) {
                    let message = format!("no token has the id {id}; there are {n}");
                    return Err(ServiceError::invalid("tokens", "invalid_value", message));
                }
                Ok(tokenizer.decode(ids))
            }
        }
    }
}

/// A trained model of texts has a tokenizer: `find` saw it.
fn own(resident: &Resident) -> &lyceum_models::prepare::text::Tokenizer {
    resident.preparation.tokenizer().expect("a model of texts has a tokenizer: bug")
}

fn render(language: &Language, request: Messages) -> Result<String, ServiceError> {
    let Some(template) = &language.words.template else {
        let message = format!("the files of {} have no chat template: send a prompt", language.version.id());
        return Err(ServiceError::invalid("messages", "unsupported_model", message));
    };
    messages::variables(&request.variables)?;
    let messages = messages::shaped(&request.messages, template)?;
    let conversation = Conversation {
        messages: &messages,
        tools: (!request.tools.is_empty()).then_some(&request.tools[..]),
        end: request.end,
        variables: request.variables,
        now: Timestamp::now().seconds(),
        guard: language.words.tokenizer.guarded(template.source()),
        ..Conversation::default()
    };
    template.render(&conversation).map_err(messages::unwritten)
}
