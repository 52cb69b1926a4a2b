//! What was measured of a version after its training, on its way to later cards: numbers only, never rows.

mod language;

pub use language::keep_language_run;

use super::sections::number;
use crate::ServiceError;
use crate::language::Language;
use crate::resident::Resident;
use crate::robustness::Run;
use lyceum_explain::{Checks, Explanation};
use lyceum_privacy::membership::{Attack, Estimate};
use lyceum_robust::attack::FlagState;
use lyceum_robust::share::share;
use lyceum_store::models::Version;
use lyceum_store::{Store, evidence};
use lyceum_types::card::{At, Evidence, FORMAT_VERSION, Number, Part, Section, Stated};
use lyceum_types::clock::Timestamp;

/// Keeps what a robustness run found beside the version. `data` names the rows, `recompute` is the command that
/// runs it again.
///
/// # Errors
/// The folder is full, or the disk refuses.
pub async fn keep_run(
    store: &Store,
    resident: &Resident,
    run: &Run,
    data: &str,
    recompute: &str,
) -> Result<(), ServiceError> {
    let now = Timestamp::now();
    let (mut robustness, mut environments) = (Section::default(), Section::default());
    for finding in &run.findings {
        let mut number = number(resident, finding.metric, finding.value, "share");
        if finding.metric == "temperature" || finding.metric == "ece" {
            // The card computes them from the same rows.
            continue;
        }
        (number.ci95, number.interval) = match finding.ci95 {
            Some(ci95) => (Stated::Is(ci95), "Clopper and Pearson, 95 %".into()),
            None => (Stated::not_evaluated("the run made none"), "none".into()),
        };
        number.n = Stated::Is(finding.n);
        number.at = place(&finding.setting, run.unit.as_deref());
        let words = [finding.method.as_str(), finding.setting.as_str(), finding.budget.as_str()];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        number.method = format!("{} on {data}", words.join(", "));
        number.seed = Stated::Is(run.seed);
        number.date = now.date_time();
        number.recompute = recompute.to_owned();
        number.doubts.clone_from(&finding.flags);
        let of_environments = matches!(finding.metric, "agreement" | "environment_accuracy");
        if of_environments { &mut environments } else { &mut robustness }.numbers.push(number);
    }
    if let Some(unit) = &run.unit {
        robustness.fact("unit of ε, σ and distances", unit.clone());
    }
    for sign in &run.signs {
        let name = format!("sign of a masked gradient: {}", sign.name);
        match sign.state {
            FlagState::Clear => robustness.fact(&name, format!("clear ({})", sign.detail)),
            FlagState::Raised => robustness.fact(&name, format!("RAISED ({})", sign.detail)),
            FlagState::NotEvaluated => {
                robustness.missing(&name, sign.detail.clone(), "add autoattack to the suite")
            }
        }
    }
    let attacks = "An attack's accuracy is an upper bound of the truth: a stronger attack may find more.";
    robustness.statements.push(attacks.into());
    keep(store, &resident.version, (Part::Robustness, robustness), now).await?;
    keep(store, &resident.version, (Part::Environments, environments), now).await
}

/// `linf eps 0.1` has its place on the curve of that norm.
fn place(setting: &str, unit: Option<&str>) -> Option<At> {
    let (before, value) = setting.split_once("eps ")?;
    let value = value.split_whitespace().next()?.parse().ok()?;
    let name =
        format!("{}eps", before.split_whitespace().next().map(|n| format!("{n} ")).unwrap_or_default());
    Some(At { name, value, unit: unit.unwrap_or("the run's unit").to_owned() })
}

/// Keeps how explanations of several rows fared beside the version: the gap of what must add up, and how much more
/// the named parts count than random ones (difference of comprehensiveness to its random control, row by row).
///
/// # Errors
/// No explanations, the folder is full, or the disk refuses.
pub async fn keep_explanations(
    store: &Store,
    resident: &Resident,
    explanations: &[Explanation],
    data: &str,
    recompute: &str,
) -> Result<Section, ServiceError> {
    let Some(first) = explanations.first() else {
        return Err(ServiceError::invalid("rows", "invalid_value", "there are no explanations to keep"));
    };
    let now = Timestamp::now();
    let mut section = Section::default();
    let checks: Vec<&Checks> = explanations.iter().map(|e| &e.checks).collect();
    let say = |name: &str, value: f64, unit: &str, n: usize, method: &str| {
        let mut number = number(resident, name, value, unit);
        number.ci95 = Stated::not_evaluated("it is the largest of the rows");
        number.n = Stated::Is(n as u64);
        number.method = format!("{} ({}), {method}, on {data}", first.method, first.baseline);
        number.seed = Stated::Is(first.seed);
        number.date = now.date_time();
        number.recompute = recompute.to_owned();
        number
    };
    let gaps: Vec<f64> = checks.iter().filter_map(|c| c.completeness_gap).map(f64::abs).collect();
    if gaps.is_empty() {
        section.missing(
            "completeness gap",
            "the method does not promise to add up",
            "lyceum explain --method integrated_gradients",
        );
    } else {
        let largest = gaps.iter().copied().fold(0.0, f64::max);
        section.numbers.push(say(
            "completeness gap",
            largest,
            "of the output",
            gaps.len(),
            "largest of the rows",
        ));
    }
    let gains: Vec<f64> = checks
        .iter()
        .filter_map(|c| Some(c.comprehensiveness? - c.random_control.comprehensiveness?[0]))
        .collect();
    if gains.len() >= 2 {
        let n = gains.len() as f64;
        let mean = gains.iter().sum::<f64>() / n;
        let variance = gains.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let half = 1.96 * (variance / n).sqrt();
        let method = "comprehensiveness above a random control, mean over rows";
        let mut number = say("comprehensiveness gain", mean, "of the output", gains.len(), method);
        number.ci95 = Stated::Is([mean - half, mean + half]);
        number.interval = "normal, 95 %".into();
        section.numbers.push(number);
    } else {
        section.missing("comprehensiveness gain", "fewer than two rows were measured", "measure more rows");
    }
    let judged: Vec<bool> = checks.iter().filter_map(|c| c.faithful).collect();
    if !judged.is_empty() {
        let n_faithful = judged.iter().filter(|&&faithful| faithful).count();
        let found = share(n_faithful as u64, judged.len() as u64).map_err(crate::robustness::refused)?;
        let mut number: Number =
            say("faithful", found.value, "share", judged.len(), "rows above the random control");
        number.ci95 = Stated::Is(found.ci95);
        number.interval = "Clopper and Pearson, 95 %".into();
        section.numbers.push(number);
    }
    keep(store, &resident.version, (Part::Explainability, section.clone()), now).await?;
    Ok(section)
}

/// The number that says that times of answers were measured.
pub const MEDIAN_TIME: &str = "time of an answer, median";

pub use super::imported::TOKENS_PER_SECOND;

/// Whose costs are measured.
pub trait Costly {
    fn version(&self) -> &Version;
    /// Of the weights in memory.
    fn bytes_served(&self) -> usize;
    /// A number of this version that is counted; the rest is set by the caller.
    fn number(&self, name: &str, value: f64, unit: &str) -> Number;
}

impl Costly for Resident {
    fn version(&self) -> &Version {
        &self.version
    }

    fn bytes_served(&self) -> usize {
        self.model.params.bytes()
    }

    fn number(&self, name: &str, value: f64, unit: &str) -> Number {
        number(self, name, value, unit)
    }
}

impl Costly for Language {
    fn version(&self) -> &Version {
        &self.version
    }

    /// With its base's, where it is an adapter.
    fn bytes_served(&self) -> usize {
        self.model.params.bytes() + self.added.as_ref().map_or(0, |added| added.adapter.bytes())
    }

    fn number(&self, name: &str, value: f64, unit: &str) -> Number {
        super::imported::number_of(self, name, value, unit)
    }
}

/// What an answer was measured to cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// None: the value is one count over the whole measurement.
    pub ci95: Option<[f64; 2]>,
    /// How the interval was made.
    pub interval: &'static str,
    /// Answers behind it.
    pub n: u64,
    pub method: String,
}

/// Keeps what answers cost beside the version. `machine` says where: costs of another machine are others.
///
/// # Errors
/// The folder is full, or the disk refuses.
pub async fn keep_costs(
    store: &Store,
    measured: &dyn Costly,
    found: &[Cost],
    machine: &str,
    recompute: &str,
) -> Result<(), ServiceError> {
    let now = Timestamp::now();
    let mut section = Section::default();
    for cost in found {
        let mut number = measured.number(cost.name, cost.value, cost.unit);
        (number.ci95, number.interval) = match cost.ci95 {
            Some(ci95) => (Stated::Is(ci95), cost.interval.into()),
            None => (Stated::not_evaluated("it was measured once"), "none".into()),
        };
        number.n = Stated::Is(cost.n);
        number.method.clone_from(&cost.method);
        number.date = now.date_time();
        number.recompute = recompute.to_owned();
        section.numbers.push(number);
    }
    let bytes = measured.bytes_served() as f64;
    let mut memory = measured.number("memory of the weights as served", bytes, "bytes");
    memory.date = now.date_time();
    memory.recompute = recompute.to_owned();
    section.numbers.push(memory);
    section.fact("machine of the times", machine);
    let clock = "Times are of the engine, without HTTP, and of a machine that does other things too; answers in a row are \
                 not independent, so an interval may be too narrow.";
    section.statements.push(clock.into());
    keep(store, measured.version(), (Part::Cost, section), now).await
}

/// Keeps how well a membership attack told the version's rows from others beside the version, for its card and its
/// privacy report.
///
/// # Errors
/// The folder is full, or the disk refuses.
pub async fn keep_membership(
    (store, measured): (&Store, &dyn Costly),
    (attack, by): (&Attack, &str),
    data: &str,
    n: u64,
    recompute: &str,
) -> Result<(), ServiceError> {
    let now = Timestamp::now();
    let mut section = Section::default();
    let mut say = |name: String, estimate: &Estimate| {
        let mut number = measured.number(&name, estimate.value, "share");
        number.ci95 = Stated::Is(estimate.ci95);
        number.interval = "95 %".into();
        number.n = Stated::Is(n);
        number.method = format!("membership attack by {by} on {data}");
        number.date = now.date_time();
        number.recompute = recompute.to_owned();
        section.numbers.push(number);
    };
    say("membership AUC".into(), &attack.auc);
    for at in &attack.tpr_at {
        say(format!("members found where {} of others are accused", at.fpr), &at.tpr);
    }
    section
        .statements
        .push("An attack is a lower bound of what can be found out: a stronger one may find more.".into());
    keep(store, measured.version(), (Part::Privacy, section), now).await
}

async fn keep(
    store: &Store,
    version: &Version,
    (part, section): (Part, Section),
    now: Timestamp,
) -> Result<(), ServiceError> {
    if section.numbers.is_empty() {
        return Ok(());
    }
    let evidence = Evidence {
        format_version: FORMAT_VERSION,
        weights_sha256: version.sha256.clone(),
        created: u64::try_from(now.seconds()).unwrap_or(0),
        part,
        section,
    };
    evidence::add(store, version, &evidence).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_with_an_epsilon_has_its_place_on_a_curve() {
        let at = place("linf eps 0.1", Some("pixel / 16")).unwrap();
        assert_eq!((at.name.as_str(), at.value, at.unit.as_str()), ("linf eps", 0.1, "pixel / 16"));
        assert_eq!(place("severity 3", None), None);
    }
}
