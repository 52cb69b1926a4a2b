//! Calibration, privacy and explanation of a version, computed from what its folder keeps; and what to say of the
//! parts that nobody measured.

use super::sections::{created, number, plain};
use crate::ServiceError;
use crate::resident::Resident;
use crate::robustness::calibration::{Calibration, Truth};
use lyceum_explain::Method;
use lyceum_models::bundle::PROBE_TOLERANCE;
use lyceum_models::prepare::OutputPreparation;
use lyceum_privacy::{Accountant, Event, epsilon};
use lyceum_robust::calibrate::{self, Reliability};
use lyceum_types::card::{At, Part, Section, Sections, Stated};
use lyceum_types::manifest::{Manifest, PrivacyReport};

pub(super) fn fill(resident: &Resident, sections: &mut Sections) -> Result<(), ServiceError> {
    calibration(resident, &mut sections.calibration)?;
    privacy(resident, &mut sections.privacy);
    methods(resident, &mut sections.explainability);
    let environments = &mut sections.environments;
    environments.fact(
        "probes",
        format!(
            "outputs recorded when training ended; a machine on which they differ by more than {PROBE_TOLERANCE} \
             refuses to serve the version"
        ),
    );
    Ok(())
}

fn calibration(resident: &Resident, section: &mut Section) -> Result<(), ServiceError> {
    let id = resident.version.id();
    let how = "train a classifier with valid or valid_fraction";
    let OutputPreparation::Labels { names } = &resident.preparation.output else {
        let why = "it is measured for answers of one label a row";
        section.missing(
            "calibration",
            why,
            "ask for prediction_set with a prediction where answers are numbers",
        );
        return Ok(());
    };
    let kept = match Calibration::of(resident) {
        Ok(kept) => kept,
        // Told apart from damage, which is an error.
        Err(ServiceError::Unsupported { message, .. }) => {
            section.missing("calibration", message, how);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (n_classes, bins) = (names.len(), calibrate::BINS);
    let Truth::Labels(labels) = &kept.truth else {
        section.missing("calibration", "the kept rows have no labels", how);
        return Ok(());
    };
    let say = |name: &str, value: f64, unit: &str, method: String| {
        let mut number = number(resident, name, value, unit);
        number.ci95 = Stated::not_evaluated("no interval is computed for it");
        number.n = Stated::Is(labels.len() as u64);
        number.method = format!("{method}, on the validation rows that the version keeps");
        number.recompute = format!("lyceum card {id} --verify");
        number
    };
    let at_one = calibrate::probabilities(&kept.logits, n_classes, 1.0);
    let table =
        |p: &[f64]| calibrate::reliability(p, n_classes, labels, bins).map_err(crate::robustness::refused);
    let before = table(&at_one)?;
    section.numbers.push(say(
        "ece",
        before.ece,
        "share",
        format!("expected calibration error, {bins} equal bins"),
    ));
    section.numbers.push(say("mce", before.mce, "share", format!("largest gap of {bins} equal bins")));
    section.numbers.push(say("brier", before.brier, "1", "Brier score over all classes".into()));
    reliability_bins(&before, &say, section);
    match kept.temperature(n_classes, bins) {
        Ok((temperature, _, after)) => {
            section.numbers.push(say("temperature", temperature.value, "1", "by likelihood".into()));
            let mut ece = say(
                "ece after temperature",
                after.ece,
                "share",
                format!("as ece, T = {:.4}", temperature.value),
            );
            ece.doubts
                .push("on the rows that the temperature was fitted on: new rows show a little more".into());
            section.numbers.push(ece);
        }
        Err(ServiceError::Unsupported { message, .. }) => {
            section.missing("temperature", message, "give more validation rows, or harder ones");
        }
        Err(error) => return Err(error),
    }
    match &resident.manifest.calibration {
        Some(report) => section.statements.push(format!(
            "Served probabilities are calibrated: a temperature of {:.4}, fitted on {} validation rows of {} (ECE {:.4} \
             before, {:.4} after, on the same rows), is part of the weights.",
            report.temperature, report.n, report.parent, report.ece_before, report.ece_after
        )),
        None => section.statements.push(
            "The temperature is reported; served probabilities are not scaled by it (lyceum calibrate publishes a \
             version that is)."
                .into(),
        ),
    }
    Ok(())
}

fn reliability_bins(
    table: &Reliability,
    say: &impl Fn(&str, f64, &str, String) -> lyceum_types::card::Number,
    section: &mut Section,
) {
    for bin in &table.bins {
        let (Some(confidence), Some(accuracy)) = (bin.confidence, &bin.accuracy) else { continue };
        let method = format!("share of right answers with confidence in ({:.3}, {:.3}]", bin.low, bin.high);
        let mut number = say("accuracy in bin", accuracy.value, "share", method);
        number.ci95 = Stated::Is(accuracy.ci95);
        number.interval = "Clopper and Pearson, 95 %".into();
        number.n = Stated::Is(bin.n);
        number.at = Some(At { name: "mean confidence".into(), value: confidence, unit: "share".into() });
        section.numbers.push(number);
    }
}

/// ε again from what was done, as its report says it was computed.
pub(super) fn epsilon_again(report: &PrivacyReport) -> Result<f64, String> {
    let events: Result<Vec<Event>, _> =
        report.events.iter().map(|event| Event::new(event.q, event.sigma, event.steps)).collect();
    let accountant = match report.accountant.as_str() {
        "rdp" => Accountant::Rdp,
        "pld" => Accountant::Pld,
        other => return Err(format!("this program has no accountant {other:?}")),
    };
    let found = events.and_then(|events| epsilon(&events, report.delta, accountant));
    found.map(|guarantee| guarantee.epsilon).map_err(|error| error.to_string())
}

fn privacy(resident: &Resident, section: &mut Section) {
    let Manifest { privacy, .. } = &resident.manifest;
    if let Some(report) = privacy {
        guarantee(report, (&resident.version.id(), created(&resident.manifest)), section);
        return;
    }
    section.fact("guarantee", "none");
    section.statements.push(
        "Nothing is promised about the rows that trained it: whoever holds the model may find out whether a row was \
         among them."
            .into(),
    );
    section.missing("ε", "the version was trained without noise", "train with [privacy] in the spec");
    section.missing(
        "audit with canaries",
        "the version was trained without noise; a membership attack, where one was run, is listed",
        "lyceum privacy audit --help",
    );
}

/// What noise promises of the version with this id and date, and all that it takes to compute it again.
pub(super) fn guarantee(report: &PrivacyReport, (id, date): (&str, String), section: &mut Section) {
    section.fact("mechanism", report.mechanism.clone());
    section.fact("δ", report.delta.to_string());
    section.fact("accountant", format!("{}: {}", report.accountant, report.conversion));
    section.fact("neighbours", format!("{}, of one {}", report.adjacency, report.unit));
    section.fact("clipping norm", report.max_grad_norm.to_string());
    section.fact("randomness", report.randomness.clone());
    let events = report.events.iter().map(|e| format!("q {} sigma {} steps {}", e.q, e.sigma, e.steps));
    section.fact("ledger", events.collect::<Vec<_>>().join("; "));
    section.fact("declared public", listed(&report.public));
    section.fact("withheld from the manifest", listed(&report.withheld));
    match report.epsilon {
        Some(value) => {
            let mut number = plain(id, date.clone(), "epsilon", (value, "nats"));
            number.ci95 = Stated::not_applicable("it is an upper bound, not an estimate");
            number.interval = "upper bound".into();
            number.n = Stated::Is(report.events.iter().map(|event| event.steps).sum());
            number.method =
                format!("{} over the steps of the ledger, δ = {}", report.accountant, report.delta);
            number.recompute = match report.events.as_slice() {
                [e] => format!(
                    "lyceum privacy epsilon --q {} --sigma {} --steps {} --delta {} --accountant {}",
                    e.q, e.sigma, e.steps, report.delta, report.accountant
                ),
                _ => format!("lyceum card {id} --verify"),
            };
            section.numbers.push(number);
        }
        None => {
            section.missing("ε", "there was no noise: it is infinite", "train with noise_multiplier above 0")
        }
    }
    section.statements.push(report.statement.clone());
    section.statements.extend(report.limits.clone());
    let Some(audit) = &report.audit else {
        section.missing(
            "audit with canaries",
            "its job had no canaries; a membership attack, where one was run, is listed",
            "train with privacy.audit = { canaries = 1000 }",
        );
        return;
    };
    let mut number = plain(id, date, "epsilon, lower bound", (audit.epsilon_lower, "nats"));
    number.ci95 = Stated::not_applicable("it is a lower bound, not an estimate");
    number.interval = format!("lower bound, {:.0} %", 100.0 * audit.confidence);
    number.n = Stated::Is(audit.canaries);
    number.method =
        format!("{}, {} of {} guesses right, δ = {}", audit.method, audit.right, audit.guesses, audit.delta);
    number.recompute =
        format!("lyceum train SPEC (its spec is in lyceum show {id} --json; other coins, another bound)");
    section.numbers.push(number);
    section.statements.push(audit.statement.clone());
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "nothing".into() } else { items.join(", ") }
}

/// Which methods can explain the version; whether they are right about it is evidence.
fn methods(resident: &Resident, section: &mut Section) {
    let (mut can, mut cannot) = (Vec::new(), Vec::new());
    for method in Method::all() {
        let refusal = method.check_model(&resident.model).err();
        let name = method.info(None).name.to_string();
        match refusal {
            None => can.push(name),
            Some(_) => cannot.push(name),
        }
    }
    section.fact("methods that apply", listed(&can));
    section.fact("methods that do not apply", listed(&cannot));
    section.statements.push(
        "Attributions say what the model used, not what is so in the world; attention weights are not offered as \
         explanations."
            .into(),
    );
}

/// What nobody measured is listed with what would measure it.
pub(super) fn say_what_is_missing(resident: &Resident, part: Part, section: &mut Section) {
    let id = resident.version.id();
    let has = |name: &str| section.numbers.iter().any(|number| number.name == name);
    let mut missing = Vec::new();
    match part {
        Part::Explainability if section.numbers.is_empty() => {
            let how = format!(
                "lyceum quickstart measures its starters; lyceum explain {id} --input … --evaluate \
                 comprehensiveness,sufficiency one answer"
            );
            missing.push(("faithfulness over a random control", how));
        }
        Part::Explainability => {}
        Part::Robustness => {
            for (name, what) in [
                ("robust_accuracy", "accuracy under attack"),
                ("certified_accuracy", "certified accuracy"),
                ("corrupted_accuracy", "accuracy under ordinary damage"),
            ] {
                let damage =
                    name == "corrupted_accuracy" && (has("damaged_accuracy") || has("perturbed_accuracy"));
                if !has(name) && !damage {
                    missing.push((what, format!("lyceum attack {id} DATA --suite FILE")));
                }
            }
        }
        Part::Environments if section.numbers.is_empty() => {
            missing.push((
                "agreement over instruction sets, precisions and batch sizes",
                format!("lyceum attack {id} DATA --suite FILE with type = \"environments\""),
            ));
        }
        Part::Cost if !has(super::measured::MEDIAN_TIME) => {
            missing.push(("time and memory of an answer", format!("lyceum card {id} --measure")));
        }
        _ => {}
    }
    for (what, how) in missing {
        section.missing(what, "nobody measured it of this version", how);
    }
}
