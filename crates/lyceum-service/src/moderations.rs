//! What texts hold that should not be there, by category, with its place.
//!
//! Everything but prompt injections is found by rules; that needs a classifier, and where there is none the category is
//! not answered for rather than answered with nothing. No model here knows hate or violence, so those categories of
//! OpenAI's have no answer either. Nothing of a text is kept.

use crate::injection::{INJECTION_THRESHOLD, Injection, InjectionGuard};
use crate::{Payer, Service, ServiceError};
use lyceum_guard::{Analyser, Category, Exfiltration, Finding, Wanted, hidden};
use lyceum_types::ids::ModelRef;
use std::ops::Range;

#[derive(Clone, Debug)]
pub struct Request {
    /// A classifier of prompt injections among the project's models; None: the operator's, if there is one.
    pub model: Option<ModelRef>,
    /// One result each, from one or more texts.
    pub inputs: Vec<Vec<String>>,
}

#[derive(Clone, Debug)]
pub struct Moderation {
    /// The classifier, `name@3`; None: there is none, and [`Risk::PromptInjection`] has no score.
    pub model: Option<String>,
    pub results: Vec<Judged>,
    pub n_tokens: u64,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Risk {
    PromptInjection,
    HiddenUnicode,
    DataExfiltration,
    Pii,
    Secrets,
}

impl Risk {
    pub const ALL: [Risk; 5] =
        [Risk::PromptInjection, Risk::HiddenUnicode, Risk::DataExfiltration, Risk::Pii, Risk::Secrets];

    pub fn as_str(self) -> &'static str {
        match self {
            Risk::PromptInjection => "prompt_injection",
            Risk::HiddenUnicode => "hidden_unicode",
            Risk::DataExfiltration => "data_exfiltration",
            Risk::Pii => "pii",
            Risk::Secrets => "secrets",
        }
    }

    /// From this score on a text is flagged.
    pub fn threshold(self) -> f64 {
        match self {
            Risk::PromptInjection => INJECTION_THRESHOLD,
            _ => f64::from(Wanted::THRESHOLD),
        }
    }

    fn of(category: Category) -> Self {
        match category {
            Category::Pii => Risk::Pii,
            Category::Secrets => Risk::Secrets,
            Category::HiddenUnicode => Risk::HiddenUnicode,
            Category::DataExfiltration => Risk::DataExfiltration,
        }
    }
}

/// What is known of one input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judged {
    /// Each risk that was looked for, in the order of [`Risk::ALL`], with its highest score.
    pub scores: Vec<(Risk, f64)>,
    /// At or over their threshold, by text and place.
    pub found: Vec<Found>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub risk: Risk,
    /// What it is: `TAG_CHARACTERS`, `EMAIL_ADDRESS`, …
    pub kind: &'static str,
    /// The place of its text among those of the input.
    pub part: usize,
    /// Unicode characters of that text.
    pub chars: Range<usize>,
    pub score: f64,
    pub why: &'static str,
}

/// Judges every input; tokens are counted and paid where a classifier reads.
pub async fn create(service: &Service, payer: &Payer, request: Request) -> Result<Moderation, ServiceError> {
    let guard = InjectionGuard::find(service, &payer.project, request.model.as_ref()).await?;
    let (inputs, exfiltration) = (request.inputs.clone(), service.guards().exfiltration.clone());
    let by_rules = move || {
        let analyser = Analyser::default();
        inputs.iter().map(|parts| rules(&analyser, &exfiltration, parts)).collect::<Result<Vec<_>, _>>()
    };
    let by_rules = tokio::task::spawn_blocking(by_rules).await;
    let mut results =
        by_rules.map_err(|error| ServiceError::internal("reading texts broke off", error))??;
    let mut n_tokens = 0;
    if let Some(guard) = &guard {
        let texts: Vec<&str> = request.inputs.iter().flatten().map(String::as_str).collect();
        let (injections, n) = guard.judge(service, payer, &texts).await?;
        n_tokens = n;
        let mut injections = injections.into_iter();
        for (parts, result) in request.inputs.iter().zip(&mut results) {
            add_injections(injections.by_ref().take(parts.len()), result);
        }
    }
    Ok(Moderation { model: guard.map(|guard| guard.id()), results, n_tokens })
}

fn rules(analyser: &Analyser, exfiltration: &Exfiltration, parts: &[String]) -> Result<Judged, ServiceError> {
    let mut all: Vec<(usize, Finding)> = Vec::new();
    for (part, text) in parts.iter().enumerate() {
        let private = analyser.analyse(text, &Wanted::default());
        let private = private.map_err(|error| ServiceError::internal("a recogniser failed", error))?;
        let found = hidden(text).into_iter().chain(exfiltration.find_whole(text)).chain(private);
        all.extend(found.map(|finding| (part, finding)));
    }
    let score = |risk: Risk| {
        let scores = all.iter().filter(|(_, f)| Risk::of(f.kind.category()) == risk).map(|(_, f)| f.score);
        (risk, f64::from(scores.fold(0.0, f32::max)))
    };
    let scores = Risk::ALL.into_iter().filter(|&risk| risk != Risk::PromptInjection).map(score).collect();
    let is_flagged =
        |finding: &Finding| f64::from(finding.score) >= Risk::of(finding.kind.category()).threshold();
    let found = all.into_iter().filter(|(_, finding)| is_flagged(finding)).map(|(part, finding)| Found {
        risk: Risk::of(finding.kind.category()),
        kind: finding.kind.as_str(),
        part,
        chars: finding.start..finding.end,
        score: f64::from(finding.score),
        why: finding.why,
    });
    let mut found: Vec<Found> = found.collect();
    found.sort_by_key(|found| (found.part, found.chars.start, found.risk));
    Ok(Judged { scores, found })
}

fn add_injections(injections: impl Iterator<Item = Injection>, result: &mut Judged) {
    let (risk, mut score) = (Risk::PromptInjection, 0.0_f64);
    for (part, injection) in injections.enumerate() {
        score = score.max(injection.score);
        let flagged = injection.windows.into_iter().filter(|&(_, p)| p >= risk.threshold());
        result.found.extend(flagged.map(|(chars, p)| Found {
            risk,
            kind: "PROMPT_INJECTION",
            part,
            chars,
            score: p,
            why: "the classifier takes this part of the text for an attack",
        }));
    }
    result.scores.insert(0, (risk, score));
    result.found.sort_by_key(|found| (found.part, found.chars.start, found.risk));
}
