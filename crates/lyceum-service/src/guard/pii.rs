//! Analysing, anonymising and bringing back, on demand.

pub use super::names::Aggregation;
use super::names::{NameModel, reference};
use super::{failed, seal};
use crate::meter::{Counts, Here};
use crate::{Payer, Service, ServiceError};
use lyceum_guard::operate::{Operator, Operators};
use lyceum_guard::placeholder::{Written, restore};
use lyceum_guard::{Finding, GuardError, Kind, Names, Replace, Wanted};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use std::collections::BTreeMap;

/// What is looked for.
pub struct Looking {
    pub wanted: Wanted,
    /// A model of the project that knows names; None: names are not looked for.
    pub ner_model: Option<String>,
    pub aggregation: Aggregation,
}

/// What texts hold, one list a text. What a model of names reads is paid as what encoders read is.
pub async fn analyze(
    service: &Service,
    payer: &Payer,
    texts: Vec<String>,
    looking: Looking,
) -> Result<Vec<Vec<Finding>>, ServiceError> {
    let analyser = service.analyser.clone();
    let Looking { wanted, ner_model, aggregation } = looking;
    let Some(model) = ner_model else {
        let work = move || texts.iter().map(|text| analyser.analyse(text, &wanted)).collect::<Result<_, _>>();
        return off_the_runtime(work).await?.map_err(failed);
    };
    let names = NameModel::find(service, &payer.project, &reference(&model)?).await?;
    // A token is a byte at least, and a sentence has two more.
    let most: u64 = texts.iter().map(|text| 3 * text.len() as u64 + 2).sum();
    let most = Counts { input_tokens: most, ..Counts::default() };
    let here = Here(Some(service.ledger().open(payer, names.version(), most).await?));
    let reader = names.counted(here.share(), aggregation);
    let found = off_the_runtime(move || {
        let of_names = reader.analyser();
        let both = |text: &String| {
            let by_form = analyser.analyse(text, &wanted)?;
            Ok::<_, GuardError>(merged(by_form, of_names.analyse(text, &wanted)?))
        };
        texts.iter().map(both).collect::<Result<Vec<_>, _>>()
    })
    .await
    .and_then(|found| found.map_err(failed));
    match found {
        Ok(found) => {
            here.finish(Counts { input_tokens: names.n_read(), ..Counts::default() });
            Ok(found)
        }
        Err(error) => {
            here.fail(&error);
            Err(error)
        }
    }
}

/// What forms found, and the names that do not lie over it; in order.
fn merged(by_form: Vec<Finding>, names: Vec<Finding>) -> Vec<Finding> {
    let apart = |name: &Finding| {
        by_form.iter().all(|other| other.bytes.end <= name.bytes.start || name.bytes.end <= other.bytes.start)
    };
    let mut all: Vec<Finding> = names.into_iter().filter(apart).collect();
    all.extend(by_form);
    all.sort_by_key(|found| found.bytes.start);
    all
}

/// What is made anonymous, and how.
pub struct Request {
    pub text: String,
    /// None: what is found with these.
    pub findings: Given,
    pub default: Operator,
    pub by_kind: BTreeMap<Kind, Operator>,
}

/// Where the findings come from.
pub enum Given {
    Found(Looking),
    /// Kind, first character and the one behind the last; in order and apart.
    Spans(Vec<(Kind, usize, usize)>),
}

/// A text made anonymous.
#[derive(Clone, Debug, PartialEq)]
pub struct Anonymized {
    pub text: String,
    pub items: Vec<Item>,
    /// Brings placeholders back, for this project, until then (seconds); None where there are none.
    pub restore: Option<(String, i64)>,
}

/// What stands in the new text, in its characters.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
    pub text: String,
    /// What made it.
    pub operator: &'static str,
}

pub async fn anonymize(
    service: &Service,
    payer: &Payer,
    request: Request,
) -> Result<Anonymized, ServiceError> {
    let Request { text, findings, default, by_kind } = request;
    let findings = match findings {
        Given::Spans(spans) => Ok(spans),
        Given::Found(looking) => {
            let mut found = analyze(service, payer, vec![text.clone()], looking).await?;
            Err(found.pop().unwrap_or_default())
        }
    };
    let (text, items, names) = off_the_runtime(move || {
        let mut names = Names::default();
        names.avoid(&text);
        let operators = Operators { default, by_kind, names };
        let mut noting = Noting { operators, items: Vec::new(), n_chars: 0 };
        let made = match findings {
            Err(found) => noting.found(&text, &found).map_err(failed)?,
            Ok(spans) => noting.spans(&text, &spans)?,
        };
        Ok::<_, ServiceError>((made, noting.items, noting.operators.names))
    })
    .await??;
    let restore = match names.is_empty() {
        true => None,
        false => {
            let kept = (Timestamp::now(), limits::RESTORE_KEPT);
            Some(seal::seal(service.store().layout(), &payer.project, &names, kept)?)
        }
    };
    Ok(Anonymized { text, items, restore })
}

/// A text with the values that [`anonymize`] gave names to.
pub async fn deanonymize(
    service: &Service,
    project: &Project,
    text: &str,
    sealed: &str,
) -> Result<String, ServiceError> {
    let names = seal::open(service.store().layout(), project, sealed, Timestamp::now())?;
    Ok(restore(&names, text, Written::Plain))
}

/// Notes where what stands for a finding lies.
struct Noting {
    operators: Operators,
    items: Vec<Item>,
    n_chars: usize,
}

impl Replace for Noting {
    fn replace(&mut self, found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError> {
        let at = out.len();
        self.operators.replace(found, text, out)?;
        let new = out[at..].to_owned();
        let (start, n) = (self.n_chars, new.chars().count());
        self.n_chars += n;
        let operator = self.operators.of(found.kind).as_str();
        self.items.push(Item { kind: found.kind, start, end: start + n, text: new, operator });
        Ok(())
    }

    fn pass(&mut self, text: &str) {
        self.n_chars += text.chars().count();
    }
}

impl Noting {
    /// The text with what stands for what was found.
    fn found(&mut self, text: &str, all: &[Finding]) -> Result<String, GuardError> {
        let (mut out, mut at) = (String::with_capacity(text.len()), 0);
        for found in all {
            self.pass(&text[at..found.bytes.start]);
            out.push_str(&text[at..found.bytes.start]);
            self.replace(found, &text[found.bytes.clone()], &mut out)?;
            at = found.bytes.end;
        }
        out.push_str(&text[at..]);
        Ok(out)
    }

    /// As [`rewrite`] does, at places that the caller knows.
    fn spans(&mut self, text: &str, spans: &[(Kind, usize, usize)]) -> Result<String, ServiceError> {
        let mut places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        places.push(text.len());
        let (mut out, mut at) = (String::with_capacity(text.len()), 0);
        for (i, &(kind, start, end)) in spans.iter().enumerate() {
            let (Some(&from), Some(&to)) = (places.get(start), places.get(end)) else {
                return Err(wrong_span(i, "it lies beyond the text's end"));
            };
            if from < at || to <= from {
                return Err(wrong_span(i, "it is empty, or lies over or before the one in front of it"));
            }
            self.pass(&text[at..from]);
            out.push_str(&text[at..from]);
            let found = Finding { kind, start, end, bytes: from..to, score: 1.0, why: "as it was said" };
            self.replace(&found, &text[from..to], &mut out).map_err(failed)?;
            at = to;
        }
        out.push_str(&text[at..]);
        Ok(out)
    }
}

fn wrong_span(i: usize, why: &str) -> ServiceError {
    let param = format!("analyzer_results[{i}]");
    let message = format!("{param}: {why}");
    ServiceError::invalid(param, "invalid_value", message)
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServiceError> {
    let work = tokio::task::spawn_blocking(work).await;
    work.map_err(|error| ServiceError::internal("looking through texts broke off", error))
}
