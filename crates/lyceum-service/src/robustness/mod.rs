//! How well a model stands changed inputs: a suite of attacks, certificates, corruptions and checks over labelled
//! rows, one list of findings, and a gate beside another model.
//!
//! [`run()`] is synchronous and bounded by its control; doors decide where it runs. [`certificate`] and
//! [`calibration`] answer for single requests. Of imported language models [`language`] has the runs.

pub mod calibrated;
pub mod calibration;
pub mod certificate;
pub mod file;
mod items;
pub mod language;
mod most;
mod plan;
pub mod strange;
pub(crate) mod turns;

pub use items::{Item, default_suite};
pub use most::passes_most;
pub use plan::{Asked, AskedRows, Plan, create};

use crate::ServiceError;
use crate::meter::Share;
use crate::resident::Resident;
use calibration::{Calibration, PredictionSet};
use certificate::{Certificate, Certify};
use lyceum_models::prepare::audio::Clip;
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Prepared};
use lyceum_models::space::Domain;
use lyceum_robust::attack::{Flag, FlagState};
use lyceum_robust::conformal::Score;
use lyceum_robust::{RobustError, Victim};
use lyceum_types::control::Control;
use lyceum_types::manifest::{CalibrationReport, Metric};
use std::sync::Arc;
use strange::Strange;

/// Rows with their labels, as the model's preparation made them.
#[derive(Clone, Debug)]
pub struct Rows {
    pub inputs: Inputs,
    /// Places in the model's list of labels.
    pub labels: Vec<u32>,
    /// The sounds themselves, a clip a row, where they are at hand: damage of sound needs them.
    pub clips: Option<Arc<Vec<Clip>>>,
    /// What each row is called in what it came from, from 0; None: its place here.
    pub numbers: Option<Arc<Vec<u64>>>,
}

#[derive(Clone, Debug)]
pub enum Inputs {
    /// Prepared numbers `[n, width]`.
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

impl Rows {
    /// The first row alone.
    fn first(&self) -> Rows {
        let n = self.labels.len().max(1);
        let inputs = match &self.inputs {
            Inputs::Numbers(x) => Inputs::Numbers(x[..x.len() / n].to_vec()),
            Inputs::Texts(texts) => Inputs::Texts(texts.iter().take(1).cloned().collect()),
        };
        // The other clips stay: they are the first one's background.
        let clips = self.clips.clone();
        let labels = self.labels.iter().take(1).copied().collect();
        Rows { inputs, labels, clips, numbers: self.numbers.clone() }
    }
}

/// One number that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// `clean_accuracy`, `robust_accuracy`, `certified_accuracy`, `abstained`, `agreement`, `ece`, …
    pub metric: &'static str,
    /// What was done: `pgd`, `smoothing`, `blur`, …
    pub method: String,
    /// How strongly: `linf eps 0.1`, `severity 3`, …
    pub setting: String,
    pub value: f64,
    pub ci95: Option<[f64; 2]>,
    pub n: u64,
    pub budget: String,
    /// What makes the number doubtful.
    pub flags: Vec<String>,
}

impl Finding {
    pub(crate) fn share(metric: &'static str, method: impl Into<String>, found: &Metric) -> Self {
        Finding {
            metric,
            method: method.into(),
            setting: String::new(),
            value: found.value,
            ci95: Some(found.ci95),
            n: found.n,
            budget: String::new(),
            flags: Vec::new(),
        }
    }

    /// The budget without what of it was spent, which two models never agree on.
    fn allowed(&self) -> &str {
        self.budget.split_once("; ").map_or(&*self.budget, |(allowed, _)| allowed)
    }

    /// `robust_accuracy pgd linf eps 0.1`
    fn called(&self) -> String {
        [self.metric, &self.method, &self.setting].join(" ").trim().to_owned()
    }

    pub(crate) fn setting(mut self, setting: impl Into<String>) -> Self {
        self.setting = setting.into();
        self
    }

    pub(crate) fn budget(mut self, budget: impl Into<String>) -> Self {
        self.budget = budget.into();
        self
    }
}

/// A row that was changed so that the answer changed.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedRow {
    pub row: usize,
    pub method: &'static str,
    pub setting: String,
    pub label: String,
    pub answer: String,
    pub distance: f64,
    /// In the run's unit.
    pub adversarial: Vec<f32>,
}

/// What a suite found.
#[derive(Clone, Debug)]
pub struct Run {
    /// `name@3`
    pub model: String,
    pub sha256: String,
    /// What one unit of eps, sigma and distance is; None for texts.
    pub unit: Option<String>,
    pub n: usize,
    pub seed: u64,
    pub findings: Vec<Finding>,
    /// The signs of a masked gradient.
    pub signs: Vec<Flag>,
    pub failures: Vec<FailedRow>,
    /// What a suite of this model could have had and has not, with the reason.
    pub not_evaluated: Vec<String>,
}

/// Runs the items in their order. Item `k` draws from `seed + 1000 k`.
///
/// # Errors
/// An item that this model or these rows do not allow (its place is named), cancellation, the deadline.
pub fn run(
    resident: &Resident,
    rows: &Rows,
    items: &[Item],
    seed: u64,
    control: &Control,
) -> Result<Run, ServiceError> {
    let OutputPreparation::Labels { names } = &resident.preparation.output else {
        return Err(no_classifier());
    };
    if rows.labels.is_empty() {
        return Err(ServiceError::invalid("labels", "invalid_value", "there are no rows"));
    }
    let domain = match &rows.inputs {
        Inputs::Numbers(x) => {
            let domain = Domain::of(&resident.preparation).map_err(|error| refused(error.into()))?;
            domain.admit(&mut domain.from_model(x)).map_err(|error| refused(error.into()))?;
            Some(domain)
        }
        Inputs::Texts(_) => None,
    };
    let mut run = Run {
        model: resident.version.id(),
        sha256: resident.version.sha256.clone(),
        unit: domain.as_ref().map(|domain| domain.unit.clone()),
        n: rows.labels.len(),
        seed,
        findings: Vec::new(),
        signs: Vec::new(),
        failures: Vec::new(),
        not_evaluated: Vec::new(),
    };
    let mut bench = items::Bench { resident, names, rows, domain: domain.as_ref(), control, entries: vec![] };
    run.findings.push(bench.clean().map_err(|error| at(None, error))?);
    for (k, item) in items.iter().enumerate() {
        let seed = seed.wrapping_add(1000 * k as u64);
        bench.run(item, seed, &mut run).map_err(|error| at(Some(k), error))?;
    }
    if let Some(numbers) = &rows.numbers {
        for failure in &mut run.failures {
            failure.row = numbers.get(failure.row).map_or(failure.row, |&number| number as usize);
        }
    }
    // A masked gradient makes every attack's number doubtful, also those before it was seen.
    let raised = run.signs.iter().filter(|sign| sign.state == FlagState::Raised);
    let raised: Vec<String> = raised.map(|sign| sign.name.to_owned()).collect();
    for finding in run.findings.iter_mut().filter(|f| f.metric == "robust_accuracy") {
        finding.flags.clone_from(&raised);
    }
    run.not_evaluated.extend(items::not_evaluated(&resident.preparation.input, items));
    Ok(run)
}

/// Tries every item once on the first row with the smallest budget: what a model or these rows do not allow is found
/// by the code that would meet it.
///
/// # Errors
/// As [`run()`].
pub fn rehearse(
    resident: &Resident,
    rows: &Rows,
    items: &[Item],
    control: &Control,
) -> Result<(), ServiceError> {
    plan::admit(resident, rows)?;
    let small: Vec<Item> = items.iter().map(Item::rehearsal).collect();
    run(resident, &rows.first(), &small, 0, control).map(|_| ())
}

/// What a request wants to be promised of its answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Promises {
    pub certify: Option<Certify>,
    pub prediction_set: Option<SetAsked>,
    pub ood: OodAsked,
}

/// Whether a request asks how strange its rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OodAsked {
    #[default]
    No,
    Yes,
}

/// A prediction set or interval at level `1 - alpha`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetAsked {
    pub alpha: f64,
    pub score: Score,
}

/// What could be promised, an entry a row; None where it was not asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Promised {
    pub certificates: Option<Vec<Certificate>>,
    pub sets: Option<Vec<PredictionSet>>,
    pub strange: Option<Vec<Strange>>,
    /// How the version's probabilities were calibrated; None: they are not.
    pub calibration: Option<CalibrationReport>,
}

/// The most rows that keeping the promises for `n` rows puts through the model.
pub(crate) fn promises_most(asked: &Promises, n: usize) -> u64 {
    asked.certify.map_or(0, |certify| certificate::samples(&certify).saturating_mul(n as u64))
}

/// Keeps the promises for prepared rows and the model's outputs on them.
///
/// # Errors
/// A promise that this model or input does not allow.
pub(crate) async fn promise(
    resident: &Arc<Resident>,
    prepared: &[Prepared],
    outputs: &[Vec<f32>],
    asked: &Promises,
    share: &Share,
) -> Result<Promised, ServiceError> {
    let certificates = match asked.certify {
        Some(certify) => Some(certificate::certify(resident, prepared, certify, share.clone()).await?),
        None => None,
    };
    let sets = match asked.prediction_set {
        Some(SetAsked { alpha, score }) => {
            let (resident, outputs) = (resident.clone(), outputs.to_vec());
            let work = move || {
                let calibration = Calibration::of(&resident);
                calibration.and_then(|c| c.sets(&resident, score, alpha, &outputs)).map_err(in_set)
            };
            let sets = tokio::task::spawn_blocking(work).await;
            Some(sets.map_err(|error| ServiceError::internal("a prediction set broke off", error))??)
        }
        None => None,
    };
    let strange = match asked.ood {
        OodAsked::Yes => {
            let (resident, prepared, outputs) = (resident.clone(), prepared.to_vec(), outputs.to_vec());
            let found =
                tokio::task::spawn_blocking(move || strange::of(&resident, &prepared, &outputs)).await;
            Some(found.map_err(|error| ServiceError::internal("a score broke off", error))??)
        }
        OodAsked::No => None,
    };
    let calibration = resident.manifest.calibration.clone();
    Ok(Promised { certificates, sets, strange, calibration })
}

fn no_classifier() -> ServiceError {
    let message = "a robustness run needs a classifier with one label a row";
    ServiceError::unsupported("model", "unsupported_model", message)
}

/// The place of an error inside the field `prediction_set`.
fn in_set(error: ServiceError) -> ServiceError {
    match error {
        ServiceError::Invalid { param, code, message } => {
            ServiceError::Invalid { param: format!("prediction_set.{param}"), code, message }
        }
        ServiceError::Unsupported { code, message, .. } => {
            ServiceError::Unsupported { param: "prediction_set".into(), code, message }
        }
        other => other,
    }
}

/// A gate between a model and the one that it would replace.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    pub compared_to: String,
    pub max_drop: f64,
    pub passed: bool,
    /// The accuracies that both runs have, ours less theirs, worst first.
    pub differences: Vec<(String, f64)>,
    /// What one of the two runs has and the other does not, in words. Nobody knows how that compares: it does not pass.
    pub missing: Vec<String>,
}

impl Gate {
    /// What did not pass, in words.
    pub fn why(&self) -> Option<String> {
        if self.passed {
            return None;
        }
        let Gate { compared_to, max_drop, .. } = self;
        let worst = self.differences.first().filter(|(_, by)| !keeps(*by, *max_drop));
        Some(match (worst, self.missing.first()) {
            (None, Some(missing)) => missing.clone(),
            (None, None) => format!("nothing was compared with {compared_to}"),
            (Some((metric, by)), _) => {
                format!("{metric} is {:.4} below that of {compared_to}, and {max_drop} is allowed", -by)
            }
        })
    }
}

/// Whether a difference is no larger drop than is allowed; what is no number is not.
fn keeps(by: f64, max_drop: f64) -> bool {
    by >= -max_drop - 1e-12
}

/// Compares every accuracy that both runs measured in the same way; it passes where none is lower by more than
/// `max_drop`, and neither run has one that the other lacks.
///
/// # Errors
/// Runs that share no accuracy, or a drop that is not between 0 and 1.
pub fn gate(ours: &Run, theirs: &Run, max_drop: f64) -> Result<Gate, ServiceError> {
    if !(0.0..=1.0).contains(&max_drop) {
        let message = format!("{max_drop} is not between 0 and 1");
        return Err(ServiceError::invalid("gate.max_drop", "invalid_value", message));
    }
    let accuracies = |run: &Run| -> Vec<Finding> {
        run.findings.iter().filter(|f| f.metric.ends_with("accuracy")).cloned().collect()
    };
    beside((&ours.model, &accuracies(ours)), (&theirs.model, &accuracies(theirs)), max_drop)
}

/// Compares numbers of which less is worse, where both sides measured them in the same way. What one side alone measured
/// is named, and does not pass.
fn beside(
    (model, ours): (&str, &[Finding]),
    (compared_to, theirs): (&str, &[Finding]),
    max_drop: f64,
) -> Result<Gate, ServiceError> {
    let are_same = |a: &Finding, b: &Finding| {
        (a.metric, &a.method, &a.setting, a.allowed()) == (b.metric, &b.method, &b.setting, b.allowed())
    };
    let lacks = |model: &str, other: &str, finding: &Finding| {
        format!("{} was measured of {other} and not, in the same way, of {model}", finding.called())
    };
    let (mut differences, mut missing) = (Vec::new(), Vec::new());
    for own in ours {
        match theirs.iter().find(|other| are_same(own, other)) {
            Some(other) => differences.push((own.called(), own.value - other.value)),
            None => missing.push(lacks(compared_to, model, own)),
        }
    }
    let theirs_alone = theirs.iter().filter(|other| !ours.iter().any(|own| are_same(own, other)));
    missing.extend(theirs_alone.map(|other| lacks(model, compared_to, other)));
    if differences.is_empty() {
        let message = "the two runs share nothing that can be compared: give both the same suite";
        return Err(ServiceError::invalid("compare_to", "not_comparable", message));
    }
    differences.sort_by(|a, b| a.1.total_cmp(&b.1));
    let passed = missing.is_empty() && differences.iter().all(|(_, by)| keeps(*by, max_drop));
    Ok(Gate { compared_to: compared_to.to_owned(), max_drop, passed, differences, missing })
}

pub(super) fn at(item: Option<usize>, error: ServiceError) -> ServiceError {
    let Some(item) = item else { return error };
    let place = |param: String| format!("suite[{item}].{param}");
    match error {
        ServiceError::Invalid { param, code, message } => {
            ServiceError::Invalid { param: place(param), code, message }
        }
        ServiceError::Unsupported { param, code, message } => {
            ServiceError::Unsupported { param: place(param), code, message }
        }
        ServiceError::NotImplemented { param, message } => {
            ServiceError::NotImplemented { param: place(param), message }
        }
        other => other,
    }
}

/// What the mathematics refuses, and whose fault it is.
pub(crate) fn refused(error: RobustError) -> ServiceError {
    let fix = error.fix().to_owned();
    match error {
        RobustError::Unsupported { method, reason, .. } => {
            let message = format!("{method} cannot be computed here: {reason}; {fix}");
            ServiceError::unsupported("type", "unsupported_method", message)
        }
        RobustError::Parameter { name, problem } => ServiceError::invalid(name, "invalid_value", problem),
        RobustError::Rows(text) => ServiceError::invalid("rows", "invalid_value", format!("{text}; {fix}")),
        RobustError::Stopped(_) => ServiceError::DeadlinePassed,
        RobustError::NotFinite { .. } | RobustError::Nn(_) => {
            ServiceError::internal("the model could not be run", error)
        }
    }
}

/// Whether rows are given as texts to this model.
pub fn reads_text(resident: &Resident) -> bool {
    matches!(resident.preparation.input, InputPreparation::Text { .. })
}

/// A victim over the resident's model.
pub(crate) fn victim<'r>(
    resident: &'r Resident,
    domain: &'r Domain,
    control: &'r Control,
) -> Result<Victim<'r>, ServiceError> {
    Victim::new(&resident.model, domain, control).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(model: &str, accuracies: &[(&'static str, f64)]) -> Run {
        let finding = |&(setting, value): &(&'static str, f64)| {
            let metric = Metric { value, ci95: [0.0, 1.0], n: 10 };
            // What attacks spend depends on the model.
            let budget = format!("40 steps; {model} rows");
            Finding::share("robust_accuracy", "pgd", &metric).setting(setting).budget(budget)
        };
        Run {
            model: model.into(),
            sha256: String::new(),
            unit: None,
            n: 10,
            seed: 0,
            findings: accuracies.iter().map(finding).collect(),
            signs: vec![],
            failures: vec![],
            not_evaluated: vec![],
        }
    }

    #[test]
    fn a_gate_refuses_what_drops_too_far_and_what_cannot_be_compared() {
        let theirs = run_of("m@1", &[("linf eps 0.1", 0.8), ("linf eps 0.2", 0.5)]);
        let ours = run_of("m@2", &[("linf eps 0.1", 0.9), ("linf eps 0.2", 0.47)]);
        let found = gate(&ours, &theirs, 0.02).unwrap();
        assert!(!found.passed && found.differences[0].0.ends_with("eps 0.2"), "{found:?}");
        assert!(gate(&ours, &theirs, 0.03).unwrap().passed);
        // What one of them alone has passes nothing, whosever it is.
        let alone = run_of("m@3", &[("linf eps 0.1", 0.9)]);
        for (ours, theirs) in [(&alone, &theirs), (&theirs, &alone)] {
            let found = gate(ours, theirs, 0.2).unwrap();
            assert!(!found.passed && found.missing.len() == 1, "{found:?}");
            assert!(found.why().unwrap().contains("linf eps 0.2 was measured of m@1 and not"), "{found:?}");
        }
        assert!(gate(&ours, &run_of("n@1", &[("l2 eps 1", 0.1)]), 0.1).is_err());
        assert!(gate(&ours, &theirs, 1.5).is_err());
    }
}
