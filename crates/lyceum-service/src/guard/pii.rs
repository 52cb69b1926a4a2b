//! Analysing, anonymising and bringing back, on demand.

use super::{failed, seal};
use crate::{Service, ServiceError};
use lyceum_guard::operate::{Operator, Operators};
use lyceum_guard::placeholder::{Written, restore};
use lyceum_guard::stream::rewrite;
use lyceum_guard::{Finding, Kind, Names, Replace, Wanted};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use std::collections::BTreeMap;

/// What texts hold, one list a text.
pub async fn analyze(
    service: &Service,
    texts: Vec<String>,
    wanted: Wanted,
) -> Result<Vec<Vec<Finding>>, ServiceError> {
    let analyser = service.analyser.clone();
    let work = move || texts.iter().map(|text| analyser.analyse(text, &wanted)).collect::<Result<_, _>>();
    off_the_runtime(work).await?.map_err(failed)
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
    Found(Wanted),
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
    project: &Project,
    request: Request,
) -> Result<Anonymized, ServiceError> {
    let analyser = service.analyser.clone();
    let (text, items, names) = off_the_runtime(move || {
        let Request { text, findings, default, by_kind } = request;
        let mut names = Names::default();
        names.avoid(&text);
        let operators = Operators { default, by_kind, names };
        let mut noting = Noting { operators, items: Vec::new(), n_chars: 0 };
        let made = match findings {
            Given::Found(wanted) => rewrite(&analyser, &wanted, &text, &mut noting).map_err(failed)?,
            Given::Spans(spans) => noting.spans(&text, &spans)?,
        };
        Ok::<_, ServiceError>((made, noting.items, noting.operators.names))
    })
    .await??;
    let restore = match names.is_empty() {
        true => None,
        false => {
            let kept = (Timestamp::now(), limits::RESTORE_KEPT);
            Some(seal::seal(service.store().layout(), project, &names, kept)?)
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
    fn replace(
        &mut self,
        found: &Finding,
        text: &str,
        out: &mut String,
    ) -> Result<(), lyceum_guard::GuardError> {
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
