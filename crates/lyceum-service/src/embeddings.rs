//! Vectors of texts, by an imported encoder.

use crate::guard::texts;
use crate::language::rows::{self, Row};
use crate::meter::{Counts, Share, metered};
use crate::{Language, Payer, Service, ServiceError};
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_models::encoder::Head;
use lyceum_types::ids::ModelRef;
use lyceum_types::manifest::ImportedKind;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Request {
    pub model: ModelRef,
    /// At least one.
    pub inputs: Vec<Text>,
    /// Numbers of a vector, from the first; None: all that the model gives.
    pub dimensions: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Special tokens written in it are characters like others.
    Words(String),
    /// As they are: with `[CLS]` and its like where the model wants them.
    Tokens(Vec<u32>),
}

#[derive(Clone, Debug)]
pub struct Embeddings {
    /// `name@3`
    pub model: String,
    /// One an input, in their order.
    pub vectors: Vec<Vec<f32>>,
    pub n_tokens: u64,
}

/// One vector an input. A shorter one than the model's has its first numbers; where the model scales its vectors to
/// length 1, the shorter one is too.
pub async fn create(
    service: &Service,
    payer: &Payer,
    mut request: Request,
) -> Result<Embeddings, ServiceError> {
    let language =
        Language::of_kind(service, &payer.project, &request.model, ImportedKind::Embedding).await?;
    let config = language.model.encoder_config();
    let Some(&Head::Embedding { normalise, .. }) = config.map(|config| &config.head) else {
        return Err(ServiceError::internal("an embedding model makes no vectors", "bug"));
    };
    let width = language.model.shape.output.width();
    let dimensions = match request.dimensions {
        Some(n) if n == 0 || n > width => {
            let message = format!("{n} is not between 1 and {width}, which {} gives", language.version.id());
            return Err(ServiceError::invalid("dimensions", "invalid_value", message));
        }
        asked => asked.unwrap_or(width),
    };
    guard(service, payer, &mut request.inputs).await?;
    let (asked, inputs) = (language.clone(), request.inputs);
    let read = tokio::task::spawn_blocking(move || read(&asked, &inputs)).await;
    let rows = read.map_err(|error| ServiceError::internal("reading texts broke off", error))??;
    let n_tokens = rows::n_tokens(&rows, "input")?;
    crate::rates::spend(n_tokens)?;
    let most = Counts { input_tokens: n_tokens, ..Counts::default() };
    let work = async |share: Share| rows::encode(service, &language, &rows, &share).await;
    let mut vectors = metered(service.ledger(), payer, &language.version, most, work).await?;
    for vector in &mut vectors {
        vector.truncate(dimensions);
        if normalise {
            scale_to_one(vector);
        }
    }
    Ok(Embeddings { model: language.version.id(), vectors, n_tokens })
}

async fn guard(service: &Service, payer: &Payer, inputs: &mut [Text]) -> Result<(), ServiceError> {
    let Some(guard) = service.guard(&payer.project).await? else { return Ok(()) };
    let mut texts = Vec::new();
    for (i, input) in inputs.iter_mut().enumerate() {
        match input {
            Text::Words(text) => texts.push((format!("input[{i}]"), text)),
            Text::Tokens(_) => guard.refuse_unreadable("input", "tokens: send texts")?,
        }
    }
    texts::plain(service, &payer.project, texts).await
}

fn read(language: &Arc<Language>, inputs: &[Text]) -> Result<Vec<Row>, ServiceError> {
    let tokenizer = &language.words.tokenizer;
    let row = |(i, input): (usize, &Text)| {
        let param = if inputs.len() == 1 { "input".to_owned() } else { format!("input[{i}]") };
        let ids = match input {
            // A tokenizer may make something of nothing ([CLS] [SEP]), which says nothing of a text.
            Text::Words(text) if text.is_empty() => Vec::new(),
            Text::Words(text) => tokenizer
                .encode(text, AddSpecial::Yes, Specials::AsText)
                .map_err(|error| rows::inexpressible(&param, error))?,
            Text::Tokens(ids) => {
                if let Some(id) = ids.iter().find(|&&id| tokenizer.token_bytes(id).is_none()) {
                    let message = format!("no token has the id {id}; there are {}", tokenizer.vocab_size());
                    return Err(ServiceError::invalid(param, "invalid_value", message));
                }
                ids.clone()
            }
        };
        let row = Row { ids, second: None };
        row.check(language, &param)?;
        Ok(row)
    };
    inputs.iter().enumerate().map(row).collect()
}

/// `x / max(‖x‖₂, 1e-12)`, the norm in f64.
fn scale_to_one(vector: &mut [f32]) {
    let norm = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_scaled_to_length_one_and_nothing_stays_nothing() {
        let mut vector = [3.0, -4.0];
        scale_to_one(&mut vector);
        assert_eq!(vector, [0.6, -0.8]);
        let mut nothing = [0.0, 0.0];
        scale_to_one(&mut nothing);
        assert_eq!(nothing, [0.0, 0.0]);
    }
}
