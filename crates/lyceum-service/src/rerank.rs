//! Documents in the order of how well they answer a query, by an imported cross-encoder: query and document are read as
//! one pair, and the model's one number becomes `1 / (1 + e^−x)`.

use crate::guard::texts;
use crate::language::rows::{self, Row};
use crate::meter::{Counts, Share, metered};
use crate::{Language, Payer, Service, ServiceError};
use lyceum_models::encoder::Head;
use lyceum_types::ids::ModelRef;
use lyceum_types::manifest::ImportedKind;

#[derive(Clone, Debug)]
pub struct Request {
    pub model: ModelRef,
    pub query: String,
    /// At least one.
    pub documents: Vec<String>,
    /// How many are answered with; None: all.
    pub top_n: Option<usize>,
}

#[derive(Clone, Debug)]
pub struct Ranked {
    /// `name@3`
    pub model: String,
    /// The best first; of equals the earlier.
    pub results: Vec<Scored>,
    pub n_tokens: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Its place among the documents.
    pub index: usize,
    /// 0 to 1.
    pub relevance: f64,
}

pub async fn create(service: &Service, payer: &Payer, mut request: Request) -> Result<Ranked, ServiceError> {
    let language =
        Language::of_kind(service, &payer.project, &request.model, ImportedKind::Classifier).await?;
    let labels = match language.model.encoder_config().map(|config| &config.head) {
        Some(Head::Classifier { labels }) => labels.len(),
        _ => return Err(ServiceError::internal("a classifier has no labels", "bug")),
    };
    if labels != 1 {
        let id = language.version.id();
        let message =
            format!("{id} tells {labels} labels apart: ranking takes a model with one number a pair");
        return Err(ServiceError::invalid("model", "unsupported_model", message));
    }
    let documents = request.documents.iter_mut().enumerate();
    let mut texts: Vec<_> = documents.map(|(i, text)| (format!("documents[{i}]"), text)).collect();
    texts.push(("query".to_owned(), &mut request.query));
    texts::plain(service, &payer.project, texts).await?;
    let (asked, query, documents) = (language.clone(), request.query, request.documents);
    let read = tokio::task::spawn_blocking(move || read(&asked, &query, &documents)).await;
    let rows = read.map_err(|error| ServiceError::internal("reading texts broke off", error))??;
    let n_tokens = rows::n_tokens(&rows, "documents")?;
    crate::rates::spend(n_tokens)?;
    let most = Counts { input_tokens: n_tokens, ..Counts::default() };
    let work = async |share: Share| rows::encode(service, &language, &rows, &share).await;
    let logits = metered(service.ledger(), payer, &language.version, most, work).await?;
    let scored = logits.iter().enumerate();
    let mut results: Vec<Scored> =
        scored.map(|(index, row)| Scored { index, relevance: sigmoid(f64::from(row[0])) }).collect();
    results.sort_by(|a, b| b.relevance.total_cmp(&a.relevance).then(a.index.cmp(&b.index)));
    results.truncate(request.top_n.unwrap_or(usize::MAX));
    Ok(Ranked { model: language.version.id(), results, n_tokens })
}

fn read(language: &Language, query: &str, documents: &[String]) -> Result<Vec<Row>, ServiceError> {
    let pair = |(i, document): (usize, &String)| {
        let param = format!("documents[{i}]");
        let (ids, segments) = language
            .words
            .tokenizer
            .encode_pair(query, document)
            .map_err(|error| rows::inexpressible(&param, error))?;
        // Families with one segment tell pairs apart by their separators alone.
        let second = segments.iter().position(|&segment| segment == 1).map(|at| at as u32);
        let row = Row { ids, second };
        row.check(language, &param)?;
        Ok(row)
    };
    documents.iter().enumerate().map(pair).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_logistic_function_has_its_values() {
        assert_eq!(super::sigmoid(0.0), 0.5);
        assert!((super::sigmoid(3.0_f64.ln()) - 0.75).abs() < 1e-15);
        assert_eq!(super::sigmoid(-1e9), 0.0);
    }
}
