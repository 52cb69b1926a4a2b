//! Names of people, places and the like, by an imported model that gives a label to each token.
//!
//! ```text
//! sentence ─▶ tokens with their places ─▶ model ─▶ softmax of each token ─▶ words ─▶ groups ─▶ findings
//! ```
//!
//! Grouping is that of `transformers`' token-classification pipeline: `simple` takes each token for itself, `first` gives a
//! word the label of its first token; neighbours of one label are one finding, a `B-` begins another, and its score is the
//! mean of its words'. Policies take `first`, so that no finding ends inside a word. Models of personal data label the parts
//! of a name or an address apart (`GIVEN_NAME`, `SURNAME`): parts of one kind that follow each other with nothing but white
//! space between are one finding, until one comes a second time.
//!
//! A sentence is read as one row on the device thread; whoever waits for it waits for that row. A model that fails, or is
//! not there, fails the text.

use crate::meter::Share;
use crate::{Language, Service, ServiceError};
use lyceum_engine::{Engine, PredictRequest};
use lyceum_guard::{Analyser, Candidate, GuardError, Kind, Passage, Recogniser};
use lyceum_language::tokenizer::Span;
use lyceum_models::batch::{Input, Tokens};
use lyceum_models::encoder::Head;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;
use lyceum_types::manifest::ImportedKind;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

/// How tokens become findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    Simple,
    #[default]
    First,
}

/// What a group of tokens was taken for.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The label without `B-` or `I-`.
    pub label: String,
    /// The mean probability of its words (or tokens).
    pub score: f64,
    /// Bytes of the text.
    pub bytes: Range<usize>,
}

/// A model as a policy or a request writes it.
///
/// # Errors
/// It is no name.
pub(crate) fn reference(model: &str) -> Result<ModelRef, ServiceError> {
    model.parse().map_err(|error: lyceum_types::ids::BadId| {
        ServiceError::invalid("ner_model", "invalid_value", format!("ner_model: {error}"))
    })
}

/// What reads for a policy. No request asks for it, so it counts against no limit of requests.
///
/// # Errors
/// It is not there or not what it was: the route is closed.
pub(crate) async fn of_policy(
    service: &Service,
    project: &Project,
    model: &str,
) -> Result<Analyser, ServiceError> {
    let found = async {
        let version = lyceum_store::models::shares::ask(service.store(), project, &reference(model)?).await?;
        let is_tagger = crate::language::is_imported(&version)
            && crate::language::read_manifest(&version)?.kind == ImportedKind::Tagger;
        if !is_tagger {
            let message = format!("{} gives no label to tokens", version.id());
            return Err(ServiceError::unsupported("ner_model", "unsupported_model", message));
        }
        let names = NameModel::of(service, service.languages.load(version, crate::language::read).await?)?;
        crate::receipts::asked(names.version());
        Ok(names)
    };
    match found.await {
        Ok(names) => Ok(names.analyser()),
        Err(error) => {
            tracing::error!(%error, model, "the model of names of a guard policy cannot be asked");
            Err(ServiceError::GuardFailed)
        }
    }
}

/// A model that knows names.
#[derive(Clone)]
pub(crate) struct NameModel {
    engine: Engine,
    language: Arc<Language>,
    /// Tokens that were read.
    n_read: Arc<AtomicU64>,
    /// Who counts them.
    share: Share,
    how: Aggregation,
}

impl NameModel {
    /// The model that a policy or a request names among the project's.
    ///
    /// # Errors
    /// It is not there, or gives no label to tokens, or none of its labels is a name's.
    pub async fn find(service: &Service, project: &Project, model: &ModelRef) -> Result<Self, ServiceError> {
        let language = Language::of_kind(service, project, model, ImportedKind::Tagger).await?;
        Self::of(service, language)
    }

    fn of(service: &Service, language: Arc<Language>) -> Result<Self, ServiceError> {
        let labels = labels(&language)?;
        if !labels.iter().any(|label| kind(parts(label).1).is_some()) {
            let message = format!(
                "{} knows none of PER, LOC, ORG, NORP, DATE, GIVEN_NAME and CITY: its labels are {}",
                language.version.id(),
                labels.join(", ")
            );
            return Err(ServiceError::unsupported("ner_model", "unsupported_model", message));
        }
        Ok(NameModel {
            engine: service.engine().clone(),
            language,
            n_read: Arc::default(),
            share: Share::none(),
            how: Aggregation::First,
        })
    }

    pub fn version(&self) -> &lyceum_store::models::Version {
        &self.language.version
    }

    /// The same for work that is paid for, grouped like this.
    pub fn counted(&self, share: Share, how: Aggregation) -> Self {
        NameModel { share, how, ..self.clone() }
    }

    /// Tokens that it and its clones have read.
    pub fn n_read(&self) -> u64 {
        self.n_read.load(Ordering::Relaxed)
    }

    /// What reads sentences with it.
    pub fn analyser(&self) -> Analyser {
        Analyser::of_sentences(vec![Box::new(self.clone())])
    }

    /// Groups of a text, those of no name (`O`) left out.
    ///
    /// # Errors
    /// In words: a text that the tokenizer cannot express, an engine that does not answer.
    fn groups(&self, text: &str) -> Result<Vec<Group>, String> {
        let words = &self.language.words.tokenizer;
        let spans = words.encode_spans(text).map_err(|error| error.to_string())?;
        let labels = labels(&self.language).map_err(|error| error.to_string())?;
        let (prefix, suffix) = words.affixes();
        let room = self.language.manifest.context as usize - (prefix.len() + suffix.len()).min(2);
        let mut groups = Vec::new();
        // A sentence longer than the model reads is read in parts, cut between words.
        for part in parts_of(&spans, room.max(1)) {
            let ids: Vec<u32> = prefix
                .iter()
                .copied()
                .chain(part.iter().map(|span| span.id))
                .chain(suffix.iter().copied())
                .collect();
            let outputs = self.ask(ids)?;
            let rows: Vec<Vec<f64>> = outputs
                .chunks_exact(labels.len())
                .skip(prefix.len())
                .take(part.len())
                .map(crate::predict::softmax)
                .collect();
            groups.extend(together(grouped(part, &rows, labels, self.how), text));
        }
        Ok(groups)
    }

    /// Logits of each token, row-major.
    fn ask(&self, ids: Vec<u32>) -> Result<Vec<f32>, String> {
        let n = ids.len();
        self.n_read.fetch_add(n as u64, Ordering::Relaxed);
        let (tell, told) = mpsc::sync_channel(1);
        let (tally, held) = (self.share.tally(), self.share.clone());
        let reply = Box::new(move |answer| {
            // The work is over before its answer is known.
            drop(held);
            // Whoever asked and left needs no answer.
            let _ = tell.send(answer);
        });
        let tokens = Tokens { n: 1, time: n, ids, lengths: vec![n as u32], ..Tokens::default() };
        let request =
            PredictRequest { model: self.language.model.clone(), input: Input::Tokens(tokens), tally, reply };
        self.engine.predict(request).map_err(|error| error.to_string())?;
        let wait = || told.recv_timeout(limits::REQUEST_TIMEOUT);
        // The device thread needs none of the runtime's; the runtime gives this thread's other work to another.
        let is_worker = tokio::runtime::Handle::try_current()
            .is_ok_and(|handle| handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
        let answer = if is_worker { tokio::task::block_in_place(wait) } else { wait() };
        let prediction = answer.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(prediction.outputs)
    }
}

impl Recogniser for NameModel {
    fn name(&self) -> &'static str {
        "names"
    }

    fn kinds(&self) -> &'static [Kind] {
        Kind::OF_MODELS
    }

    fn find(&self, passage: Passage<'_>, found: &mut Vec<Candidate>) -> Result<(), GuardError> {
        let text = &passage.text()[passage.from()..];
        if !text.chars().any(char::is_alphabetic) {
            return Ok(());
        }
        let failed = |message: String| GuardError::Failed { recogniser: "names", message };
        let taken = placeholders(text);
        for group in self.groups(text).map_err(failed)? {
            let Some(kind) = kind(&group.label) else { continue };
            let is_taken =
                |other: &Range<usize>| other.start < group.bytes.end && group.bytes.start < other.end;
            if group.bytes.is_empty() || taken.iter().any(is_taken) {
                continue;
            }
            for piece in pieces(text, group.bytes) {
                let bytes = passage.from() + piece.start..passage.from() + piece.end;
                let score = group.score as f32;
                found.push(Candidate { kind, bytes, score, why: "a model takes it for a name" });
            }
        }
        Ok(())
    }
}

fn labels(language: &Language) -> Result<&[String], ServiceError> {
    match language.model.encoder_config().map(|config| &config.head) {
        Some(Head::Tokens { labels }) => Ok(labels),
        _ => Err(ServiceError::internal("a tagger has no labels", "bug")),
    }
}

/// What a label's name stands for.
fn kind(label: &str) -> Option<Kind> {
    match plain(label).as_str() {
        "PER" | "PERSON" => Some(Kind::Person),
        "LOC" | "LOCATION" | "GPE" | "FAC" => Some(Kind::Location),
        "ORG" | "ORGANIZATION" | "ORGANISATION" => Some(Kind::Organization),
        "NORP" | "NRP" => Some(Kind::Nrp),
        "DATE" | "TIME" | "DATETIME" => Some(Kind::DateTime),
        _ => kind_of_part(label),
    }
}

/// What a label stands for that is a part of a name or of an address, as models of personal data have them.
fn kind_of_part(label: &str) -> Option<Kind> {
    match plain(label).as_str() {
        "GIVENNAME" | "FIRSTNAME" | "MIDDLENAME" | "SURNAME" | "LASTNAME" => Some(Kind::Person),
        "CITY" | "COUNTY" | "STATE" | "COUNTRY" | "STREET" | "STREETNAME" | "BUILDINGNUM"
        | "BUILDINGNUMBER" | "SECONDARYADDRESS" | "ZIPCODE" | "POSTCODE" | "POSTALCODE" => {
            Some(Kind::Location)
        }
        _ => None,
    }
}

/// `GIVEN_NAME`, `given-name` and `GivenName` are one label.
fn plain(label: &str) -> String {
    label.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).map(|c| c.to_ascii_uppercase()).collect()
}

/// Whether a label begins a name, and the label itself.
fn parts(label: &str) -> (bool, &str) {
    match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
        (Some(name), _) => (true, name),
        (_, Some(name)) => (false, name),
        _ => (false, label),
    }
}

/// Runs of at most `room` tokens that end between words where they can.
fn parts_of(spans: &[Span], room: usize) -> Vec<&[Span]> {
    let (mut all, mut rest) = (Vec::new(), spans);
    while rest.len() > room {
        let at = (1..=room).rev().find(|&at| !rest[at].is_subword).unwrap_or(room);
        let (part, left) = rest.split_at(at);
        all.push(part);
        rest = left;
    }
    if !rest.is_empty() {
        all.push(rest);
    }
    all
}

/// Words (or tokens) with their label and score, then neighbours put together.
fn grouped(spans: &[Span], rows: &[Vec<f64>], labels: &[String], how: Aggregation) -> Vec<Group> {
    let mut words: Vec<(&str, f64, Range<usize>)> = Vec::new();
    for (span, row) in spans.iter().zip(rows) {
        match words.last_mut() {
            Some((_, _, bytes)) if how == Aggregation::First && span.is_subword => bytes.end = span.bytes.end,
            _ => {
                let best = crate::predict::argmax(row);
                words.push((&labels[best], row[best], span.bytes.clone()));
            }
        }
    }
    let mut groups: Vec<(Group, usize)> = Vec::new();
    for (label, score, bytes) in words {
        let (begins, name) = parts(label);
        match groups.last_mut() {
            Some((group, n)) if group.label == name && !begins => {
                group.score += score;
                *n += 1;
                group.bytes.end = bytes.end;
            }
            _ => groups.push((Group { label: name.to_owned(), score, bytes }, 1)),
        }
    }
    groups.retain(|(group, _)| group.label != "O");
    groups.into_iter().map(|(group, n)| Group { score: group.score / n as f64, ..group }).collect()
}

/// Parts of one name or address put together: the score is the mean of its parts'.
fn together(groups: Vec<Group>, text: &str) -> Vec<Group> {
    let mut whole: Vec<(Group, Vec<(String, f64)>)> = Vec::new();
    for group in groups {
        let part = (group.label.clone(), group.score);
        let kind = kind_of_part(&group.label);
        match whole.last_mut() {
            Some((before, parts))
                if kind.is_some()
                    && kind == kind_of_part(&before.label)
                    && parts.iter().all(|(label, _)| *label != group.label)
                    && text[before.bytes.end..group.bytes.start].trim().is_empty() =>
            {
                before.bytes.end = group.bytes.end;
                parts.push(part);
                before.score = parts.iter().map(|(_, score)| score).sum::<f64>() / parts.len() as f64;
            }
            _ => whole.push((group, vec![part])),
        }
    }
    whole.into_iter().map(|(group, _)| group).collect()
}

/// A name without what writes JSON: a finding holds no quote.
fn pieces(text: &str, bytes: Range<usize>) -> Vec<Range<usize>> {
    let is_mark = |c: char| matches!(c, '"' | '\\' | '{' | '}' | '[' | ']' | '<' | '>' | '\n');
    let name = &text[bytes.clone()];
    let mut all = Vec::new();
    for piece in name.split(is_mark) {
        let piece = piece.trim();
        if piece.chars().any(char::is_alphanumeric) {
            let at = bytes.start + (piece.as_ptr() as usize - name.as_ptr() as usize);
            all.push(at..at + piece.len());
        }
    }
    all
}

/// Names that stand for what was found before: `<EMAIL_ADDRESS_1>`.
fn placeholders(text: &str) -> Vec<Range<usize>> {
    let is_inner = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    text.match_indices('<')
        .filter_map(|(at, _)| {
            let rest = &text.as_bytes()[at + 1..];
            let n = rest.iter().take_while(|&&b| is_inner(b)).count();
            (n > 0 && rest.get(n) == Some(&b'>')).then(|| at..at + n + 2)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(bytes: Range<usize>, is_subword: bool) -> Span {
        Span { id: 0, bytes, is_subword }
    }

    /// Labels `O`, `B-PER`, `I-PER`, `B-LOC`; a row is sure of its label by this much.
    fn row(label: usize, p: f64) -> Vec<f64> {
        let mut row = vec![(1.0 - p) / 3.0; 4];
        row[label] = p;
        row
    }

    fn groups(rows: &[(usize, f64, bool)], how: Aggregation) -> Vec<(String, f64, Range<usize>)> {
        let labels = ["O", "B-PER", "I-PER", "B-LOC"].map(str::to_owned);
        let spans: Vec<Span> = rows.iter().enumerate().map(|(i, r)| span(i * 4..i * 4 + 3, r.2)).collect();
        let p: Vec<Vec<f64>> = rows.iter().map(|r| row(r.0, r.1)).collect();
        let found = grouped(&spans, &p, &labels, how);
        found.into_iter().map(|g| (g.label, (g.score * 1e6).round() / 1e6, g.bytes)).collect()
    }

    #[test]
    fn neighbours_of_a_label_are_one_and_a_beginning_is_another() {
        let rows = [(1, 0.9, false), (2, 0.7, false), (1, 0.8, false), (0, 0.9, false), (3, 0.6, false)];
        let expected =
            [("PER".to_owned(), 0.8, 0..7), ("PER".into(), 0.8, 8..11), ("LOC".into(), 0.6, 16..19)];
        assert_eq!(groups(&rows, Aggregation::Simple), expected);
        assert_eq!(groups(&rows, Aggregation::First), expected);
    }

    #[test]
    fn a_word_has_the_label_of_its_first_token() {
        let rows = [(1, 0.9, false), (0, 0.8, true), (3, 0.7, true), (0, 0.9, false)];
        assert_eq!(groups(&rows, Aggregation::First), [("PER".to_owned(), 0.9, 0..11)]);
        assert_eq!(
            groups(&rows, Aggregation::Simple),
            [("PER".to_owned(), 0.9, 0..3), ("LOC".into(), 0.7, 8..11)]
        );
    }

    #[test]
    fn parts_of_a_name_are_one_finding_until_one_comes_again() {
        let text = "Ann Lee Bob Ray, 5 Elm St Rome";
        let group = |label: &str, score, word: &str| {
            let start = text.find(word).unwrap();
            Group { label: label.to_owned(), score, bytes: start..start + word.len() }
        };
        let found = together(
            vec![
                group("GIVEN_NAME", 0.8, "Ann"),
                group("SURNAME", 0.6, "Lee"),
                group("GIVEN_NAME", 0.9, "Bob"),
                group("lastname", 0.7, "Ray"),
                group("BUILDING_NUMBER", 0.5, "5"),
                group("STREET_NAME", 1.0, "Elm St"),
                group("LOC", 0.4, "Rome"),
            ],
            text,
        );
        let told: Vec<(&str, f64)> =
            found.iter().map(|g| (&text[g.bytes.clone()], (g.score * 1e6).round() / 1e6)).collect();
        assert_eq!(told, [("Ann Lee", 0.7), ("Bob Ray", 0.8), ("5 Elm St", 0.75), ("Rome", 0.4)]);
        assert_eq!(
            (kind("Given-Name"), kind("ZIPCODE"), kind("EMAIL")),
            (Some(Kind::Person), Some(Kind::Location), None)
        );
    }

    #[test]
    fn long_sentences_are_cut_between_words() {
        let spans: Vec<Span> = (0..7).map(|i| span(i..i + 1, i == 3)).collect();
        let lengths: Vec<usize> = parts_of(&spans, 3).into_iter().map(<[Span]>::len).collect();
        assert_eq!(lengths, [2, 3, 2]);
    }

    #[test]
    fn a_name_holds_nothing_that_writes_json() {
        assert_eq!(pieces("so Ann\", \"Bo X\"]", 3..15), [3..6, 10..14]);
        assert!(pieces("\"-\"", 0..3).is_empty());
    }

    #[test]
    fn placeholders_are_no_names() {
        assert_eq!(placeholders("to <EMAIL_ADDRESS_1>, <b> and <IBAN_CODE>"), [3..20, 30..41]);
    }
}
