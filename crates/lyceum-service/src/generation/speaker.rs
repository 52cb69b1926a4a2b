//! Whoever says tokens: a model that Lyceum trained, or one that was imported, behind one set of words.

use crate::language::{Defaults, Language};
use crate::resident::Resident;
use crate::{Service, ServiceError};
use lyceum_language::tokenizer::{self as words, AddSpecial, Position, ShowSpecials, Specials};
use lyceum_models::Model;
use lyceum_models::causal_lm::Adapter;
use lyceum_models::prepare::OutputPreparation;
use lyceum_models::prepare::text::{self, Tokenizer};
use lyceum_store::models::Version;
use lyceum_types::ids::{ModelRef, Project, VersionRef};
use std::sync::Arc;

#[derive(Clone)]
pub(crate) enum Speaker {
    Trained(Arc<Resident>),
    Language(Arc<Language>),
}

impl Speaker {
    /// The model that a reference means, loaded.
    ///
    /// # Errors
    /// When there is none, or it does not say tokens.
    pub async fn find(
        service: &Service,
        project: &Project,
        reference: &ModelRef,
    ) -> Result<Self, ServiceError> {
        let version = service.resolve(project, reference).await?;
        let does_not = |id: String, instead: &str| {
            let message = format!("{id} does not generate text: ask it with {instead}");
            ServiceError::invalid("model", "unsupported_model", message)
        };
        if crate::language::is_imported(&version) {
            let language = service.language_of(version).await?;
            if language.model.language_config().is_none() {
                return Err(does_not(language.version.id(), "POST /v1/embeddings or /v1/rerank"));
            }
            return Ok(Speaker::Language(language));
        }
        let resident = service.resident_of(version).await?;
        match (&resident.preparation.output, resident.preparation.tokenizer()) {
            (OutputPreparation::Tokens, Some(_)) => Ok(Speaker::Trained(resident)),
            _ => Err(does_not(resident.version.id(), "POST /v1/decisions or :predict")),
        }
    }

    pub fn version(&self) -> &Version {
        match self {
            Speaker::Trained(resident) => &resident.version,
            Speaker::Language(language) => &language.version,
        }
    }

    /// The version that was found, whatever the request's name means later.
    pub fn reference(&self) -> ModelRef {
        let Version { name, number, .. } = self.version();
        ModelRef { name: name.clone(), version: VersionRef::Number(*number) }
    }

    pub fn model(&self) -> &Arc<Model> {
        match self {
            Speaker::Trained(resident) => &resident.model,
            Speaker::Language(language) => &language.model,
        }
    }

    /// What is added to the model's layers.
    pub fn adapter(&self) -> Option<Arc<Adapter>> {
        match self {
            Speaker::Trained(_) => None,
            Speaker::Language(language) => language.added.as_ref().map(|added| added.adapter.clone()),
        }
    }

    /// What the model's files recommend.
    pub fn defaults(&self) -> Defaults {
        match self {
            Speaker::Trained(_) => Defaults::default(),
            Speaker::Language(language) => language.words.defaults,
        }
    }

    pub fn vocab_size(&self) -> usize {
        match self {
            Speaker::Trained(resident) => own(resident).vocab_size(),
            Speaker::Language(language) => language.words.tokenizer.vocab_size(),
        }
    }

    pub fn bos(&self) -> Option<u32> {
        match self {
            Speaker::Trained(resident) => own(resident).bos(),
            Speaker::Language(language) => language.words.tokenizer.bos(),
        }
    }

    /// The token with which a document begins.
    pub fn begin(&self) -> Option<u32> {
        match self {
            Speaker::Trained(resident) => own(resident).bos().or(own(resident).eos()),
            Speaker::Language(language) => {
                let tokenizer = &language.words.tokenizer;
                tokenizer.bos().or(tokenizer.eos())
            }
        }
    }

    /// Tokens that end an answer.
    pub fn ends(&self) -> Vec<u32> {
        match self {
            Speaker::Trained(resident) => own(resident).eos().into_iter().collect(),
            Speaker::Language(language) => language.words.tokenizer.ends().to_vec(),
        }
    }

    /// Tokens that are never said: those without a meaning, and rows of the table that stand for nothing.
    pub fn never(&self) -> Vec<u32> {
        match self {
            Speaker::Trained(resident) => own(resident).never_said(),
            Speaker::Language(language) => {
                let known = language.words.tokenizer.vocab_size() as u32;
                (known..language.model.shape.output.width() as u32).collect()
            }
        }
    }

    /// Ids of a text that a user wrote; special tokens in it mean what they say only where the model was trained
    /// here.
    pub fn encode(&self, text: &str, param: &str) -> Result<Vec<u32>, ServiceError> {
        match self {
            Speaker::Trained(resident) => {
                own(resident).encode(text).map_err(|error| ServiceError::prepare(param, error))
            }
            Speaker::Language(language) => {
                let ids = language.words.tokenizer.encode(text, AddSpecial::Yes, Specials::Parsed);
                ids.map_err(|error| ServiceError::invalid(param, "invalid_value", error.to_string()))
            }
        }
    }

    pub fn token_text(&self, id: u32) -> String {
        match self {
            Speaker::Trained(resident) => own(resident).token_text(id),
            Speaker::Language(language) => {
                let bytes = language.words.tokenizer.token_bytes(id).unwrap_or_default();
                String::from_utf8_lossy(bytes).into_owned()
            }
        }
    }

    /// The bytes of a token, which need not be whole characters.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        match self {
            Speaker::Trained(resident) => own(resident).token_bytes(id).unwrap_or_default().into_owned(),
            Speaker::Language(language) => {
                language.words.tokenizer.token_bytes(id).unwrap_or_default().to_vec()
            }
        }
    }

    /// A text that comes token by token; `echo`: with its prompt. Special tokens are left out but those of
    /// `shown`.
    pub fn stream(&self, echo: bool, shown: &[u32]) -> SpeakerStream {
        match self {
            Speaker::Trained(_) => SpeakerStream::Trained(text::TextStream::default()),
            Speaker::Language(_) => {
                let position = if echo { Position::Beginning } else { Position::Continuation };
                let stream = words::TextStream::new(position, ShowSpecials::No);
                SpeakerStream::Language { stream, shown: shown.to_vec() }
            }
        }
    }
}

/// A trained speaker has a tokenizer: `find` saw it.
fn own(resident: &Resident) -> &Tokenizer {
    resident.preparation.tokenizer().expect("a model that says tokens has a tokenizer: bug")
}

pub(crate) enum SpeakerStream {
    Trained(text::TextStream),
    Language { stream: words::TextStream, shown: Vec<u32> },
}

impl SpeakerStream {
    /// The text that became whole with this token.
    pub fn push(&mut self, speaker: &Speaker, id: u32) -> Result<String, ServiceError> {
        match (self, speaker) {
            (SpeakerStream::Trained(stream), Speaker::Trained(resident)) => {
                Ok(stream.push(own(resident), id))
            }
            (SpeakerStream::Language { stream, shown }, Speaker::Language(language)) => {
                let tokenizer = &language.words.tokenizer;
                if shown.contains(&id) && tokenizer.is_special(id) {
                    return Ok(stream.finish() + &speaker.token_text(id));
                }
                let text = stream.push(tokenizer, id);
                text.map_err(|error| ServiceError::internal("a token stands for nothing", error))
            }
            _ => Err(ServiceError::internal("a stream of another speaker", "bug")),
        }
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> String {
        match self {
            SpeakerStream::Trained(stream) => std::mem::take(stream).finish(),
            SpeakerStream::Language { stream, .. } => stream.finish(),
        }
    }
}
