//! `[privacy]`, and what cannot stand beside it.

use super::rules::Rules;
use super::section::{FRACTION, Interval, NOT_NEGATIVE, POSITIVE, Section};
use super::{Draft, ProblemCode};
use crate::limits;
use crate::spec::privacy::{
    AccountantSpec, AuditSpec, NoiseSpec, PUBLIC_STATISTICS, PrivacyMechanism, PrivacySpec, PrivacyUnit,
    PublicStatistic,
};
use crate::spec::tune::{Method, TuneSpec};
use crate::spec::{ConvNorm, ModelSpec, PrecisionSpec, Task};

const MECHANISMS: &[(&str, PrivacyMechanism)] = &[("dp_sgd", PrivacyMechanism::DpSgd)];
const ACCOUNTANTS: &[(&str, AccountantSpec)] = &[("rdp", AccountantSpec::Rdp), ("pld", AccountantSpec::Pld)];
const UNITS: &[(&str, PrivacyUnit)] = &[("example", PrivacyUnit::Example)];
const RATE: Interval = Interval { words: "above 0 and at most 1", holds: |v| v > 0.0 && v <= 1.0 };

pub(super) fn read(mut section: Section<'_>) -> PrivacySpec {
    section.require("type", "the mechanism", "type = \"dp_sgd\"");
    let mechanism = section.choice("type", MECHANISMS).unwrap_or(PrivacyMechanism::DpSgd);
    let epsilon = section.number("target_epsilon", POSITIVE);
    let sigma = section.number("sigma", NOT_NEGATIVE);
    if section.has("target_epsilon") && section.has("sigma") {
        let message = "target_epsilon and sigma both say how much noise there is";
        section.note("sigma", ProblemCode::Contradiction, message, "remove one of the two");
    } else if !section.has("sigma") {
        section.require("target_epsilon", "how much may be learnt", "target_epsilon = 3 or sigma = 1.0");
    }
    section.require("target_delta", "how improbable a breach is", "target_delta = 1e-5");
    section.require("max_grad_norm", "the most that one example weighs", "max_grad_norm = 1.0");
    section.not_yet("budget", "naming a budget (each data set has one by its hash)");
    let privacy = PrivacySpec {
        mechanism,
        noise: sigma.map_or(NoiseSpec::TargetEpsilon(epsilon.unwrap_or(1.0)), NoiseSpec::Sigma),
        target_delta: section.number_or("target_delta", 1e-5, FRACTION),
        max_grad_norm: section.number_or("max_grad_norm", 1.0, POSITIVE),
        accountant: section.choice("accountant", ACCOUNTANTS).unwrap_or(AccountantSpec::Pld),
        unit: unit(&mut section),
        sampling_rate: section.number("sampling_rate", RATE),
        public: public(&mut section),
        insecure_seed: section.integer("insecure_seed", 0, i128::from(u64::MAX)).map(to_seed),
        audit: section.section("audit").map(audit),
    };
    section.finish();
    privacy
}

fn audit(mut section: Section<'_>) -> AuditSpec {
    section.require("canaries", "how many made-up rows", "canaries = 1000");
    let (min, max) = limits::CANARIES;
    let audit = AuditSpec { canaries: section.size_or("canaries", min, min, max) };
    section.finish();
    audit
}

fn to_seed(value: i128) -> u64 {
    u64::try_from(value).expect("the bound was checked: bug")
}

/// `"example"`, or a table with `type`.
fn unit(section: &mut Section<'_>) -> PrivacyUnit {
    if section.is_text("unit") {
        return section.choice("unit", UNITS).unwrap_or(PrivacyUnit::Example);
    }
    let Some(mut table) = section.section("unit") else { return PrivacyUnit::Example };
    table.require("type", "what is protected", "type = \"example\"");
    let unit = table.choice("type", UNITS).unwrap_or(PrivacyUnit::Example);
    table.finish();
    unit
}

fn public(section: &mut Section<'_>) -> Vec<PublicStatistic> {
    let mut found = Vec::new();
    for name in section.texts("public").unwrap_or_default() {
        match PUBLIC_STATISTICS.iter().find(|(known, _)| *known == name) {
            Some((_, statistic)) => found.push(*statistic),
            None => {
                let known: Vec<&str> = PUBLIC_STATISTICS.iter().map(|(name, _)| *name).collect();
                let message = format!("\"{name}\" is nothing that training takes from the data");
                let fix = format!("write some of {}", known.join(", "));
                section.note("public", ProblemCode::UnknownValue, message, fix);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// What would break the promise, each with the reason.
pub(super) fn check(draft: &Draft, rules: &Rules<'_>) {
    let Some(privacy) = &draft.privacy else { return };
    if privacy.audit.is_some() && draft.task.is_some_and(|task| task != Task::Classification) {
        let message = "canaries are rows with wrong labels, which classifiers have".to_owned();
        rules.note(&["privacy", "audit"], &["task"], message, "remove audit");
    }
    let evaluates = privacy.is_public(PublicStatistic::Evaluation);
    if let Some(data) = &draft.data {
        let refuse = |key: &str, is_set: bool, message: &str, fix: &str| {
            if is_set {
                rules.note(&["data", key], &["privacy"], message.to_owned(), fix);
            }
        };
        refuse(
            "valid_fraction",
            data.valid_fraction.is_some(),
            "which rows are held out depends on every row: one row more would change many others",
            "hold rows out yourself: valid = \"valid.csv\"",
        );
        refuse("folds", data.folds.is_some(), "each fold is a training run that costs too", "remove folds");
        refuse(
            "shuffle_labels",
            data.shuffle_labels,
            "one row more would shuffle all answers anew",
            "remove shuffle_labels",
        );
        for (key, is_set) in [("valid", data.valid.is_some()), ("test", data.test.is_some())] {
            refuse(
                key,
                is_set && !evaluates,
                "its metrics say something about its rows, which the noise does not protect",
                "remove it, or declare public = [\"evaluation\"] under [privacy]",
            );
        }
    }
    if let Some(ModelSpec::Cnn(cnn)) = &draft.model
        && cnn.conv.iter().any(|conv| conv.norm == Some(ConvNorm::Batch))
    {
        let message = "batch norm mixes examples: no gradient is one example's alone".to_owned();
        rules.note(&["model", "conv"], &["privacy"], message, "write norm = \"group\"");
    }
    let Some(train) = &draft.train else { return };
    if train.early_stopping.is_some() && !evaluates {
        let message = "the best step is chosen by looking at rows".to_owned();
        let fix = "remove it, or declare public = [\"evaluation\"] under [privacy]";
        rules.note(&["train", "early_stopping"], &["privacy"], message, fix);
    }
    if train.grad_clip.is_some() {
        let message = "each example's gradient is clipped by privacy.max_grad_norm".to_owned();
        rules.note(&["train", "grad_clip"], &["privacy"], message, "remove grad_clip");
    }
    if train.precision == PrecisionSpec::Bf16 {
        let message = "bf16 rounds gradients by more than clipping may err".to_owned();
        rules.note(&["train", "precision"], &["privacy"], message, "write precision = \"f32\"");
    }
}

/// What would break the promise of a fine-tuning. Its words and its longest example are the base's, so what is left to
/// take from the lines is how many there are.
pub(super) fn check_tuned(spec: &TuneSpec, rules: &Rules<'_>) {
    let Some(privacy) = &spec.privacy else { return };
    if let Method::Dpo { .. } = spec.method {
        let message = "DPO with differential privacy is not in this version".to_owned();
        let fix = "write method = \"supervised\", or remove [privacy]";
        rules.note(&["train", "method"], &["privacy"], message, fix);
    }
    if spec.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0) {
        let message =
            "which numbers are dropped of an example would depend on which others are drawn".to_owned();
        rules.note(&["model", "lora", "dropout"], &["privacy"], message, "remove dropout");
    }
    let evaluates = privacy.is_public(PublicStatistic::Evaluation);
    let declare = "remove it, or declare public = [\"evaluation\"] under [privacy]";
    if spec.data.valid_fraction.is_some() {
        let message =
            "which lines are held out depends on every line: one line more would change many others"
                .to_owned();
        let fix = "hold lines out yourself: valid = \"valid.jsonl\"";
        rules.note(&["data", "valid_fraction"], &["privacy"], message, fix);
    }
    if spec.data.valid.is_some() && !evaluates {
        let message =
            "its metrics say something about its lines, which the noise does not protect".to_owned();
        rules.note(&["data", "valid"], &["privacy"], message, declare);
    }
    if spec.train.early_stopping.is_some() && !evaluates {
        let message = "the best step is chosen by looking at lines".to_owned();
        rules.note(&["train", "early_stopping"], &["privacy"], message, declare);
    }
    if spec.gate.is_some() && !evaluates {
        let message = "what it decides says something about its lines".to_owned();
        rules.note(&["gate"], &["privacy"], message, declare);
    }
    if privacy.is_public(PublicStatistic::Rows) {
        return;
    }
    let of_rows = [
        (
            "sampling_rate",
            "privacy",
            privacy.sampling_rate.is_none(),
            "the batch size over the number of lines",
        ),
        ("batch_size", "train", spec.auto.batch_size, "a part of the number of lines"),
        ("steps", "train", spec.train.steps.is_none(), "an epoch is as many steps as there are lines"),
    ];
    for (key, table, is_taken, what) in of_rows {
        if is_taken {
            let message = format!("is left to the number of lines, which is not declared public: {what}");
            let fix = format!("write {key} under [{table}], or public = [\"rows\"] under [privacy]");
            rules.note(&[table, key], &["privacy.public"], message, fix);
        }
    }
}
