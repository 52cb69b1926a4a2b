//! The document of a fine-tuning: a job spec whose family is an imported model's name.

use super::rules::Rules;
use super::section::{DECAY, FRACTION, NOT_NEGATIVE, POSITIVE, Problems, SHARE, Section};
use super::tree::{Node, Value};
use super::{Problem, ProblemCode, privacy, read_name_and_seed, train};
use crate::ids::ModelRef;
use crate::limits;
use crate::spec::ModelSpec;
use crate::spec::tune::{Auto, LoraSpec, Method, TooLong, TuneData, TuneGate, TuneSpec};
use crate::suggest::did_you_mean;

const RANK_MAX: usize = 1024;
const TOKENS_MAX: usize = 1 << 20;
const TOO_LONG: &[(&str, TooLong)] =
    &[("error", TooLong::Error), ("cut", TooLong::Cut), ("drop", TooLong::Drop)];
const BETA_DEFAULT: f64 = 0.1;

/// Whether a document's family is the name of a model and no slip of a family's name.
pub(super) fn is_meant(root: &Node) -> bool {
    let Some(Value::Text(name)) = root.find(&["model", "family"]).map(|node| &node.value) else {
        return false;
    };
    !ModelSpec::FAMILIES.contains(&name.as_str())
        && did_you_mean(name, ModelSpec::FAMILIES).is_none()
        && name.parse::<ModelRef>().is_ok()
}

pub(super) fn read(root: &Node) -> Result<TuneSpec, Vec<Problem>> {
    let problems = Problems::default();
    let spec = read_root(root, &problems);
    let mut problems = problems.into_inner();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(spec.expect("what is missing was noted: bug"))
}

fn read_root(root: &Node, problems: &Problems) -> Option<TuneSpec> {
    let mut section = Section::root(root, problems)?;
    let (name, seed) = read_name_and_seed(&mut section);
    if section.text("task").is_some_and(|task| task != "language_modeling") {
        let message = "an imported language model learns to continue texts";
        section.note("task", ProblemCode::Contradiction, message, "remove task");
    }
    section.require("data", "the table of the data", "[data] with train = \"chats.jsonl\"");
    let data = section.section("data").map(data);
    let gate = section.section("gate").map(|section| gate(section, data.as_ref()));
    let model = section.section("model").and_then(model);
    let privacy = section.section("privacy").map(privacy::read);
    let (method, mut train, auto) = match section.section("train") {
        Some(section) => tuned(section, privacy.is_some()),
        None => (Method::Supervised, train::left_open(), Auto::all()),
    };
    section.finish();
    if privacy.is_some() {
        // Each example's gradient is cut by `max_grad_norm` instead.
        train.grad_clip = None;
    }
    let (base, lora) = model?;
    let spec = TuneSpec { name: name?, seed, base, lora, method, data: data?, train, auto, privacy, gate };
    privacy::check_tuned(&spec, &Rules::new(root, problems));
    Some(spec)
}

impl Auto {
    pub(super) fn all() -> Self {
        Auto { epochs: true, batch_size: true, lr: true, schedule: true }
    }
}

fn data(mut section: Section<'_>) -> TuneData {
    section.require("train", "the file of examples", "train = \"chats.jsonl\"");
    let data = TuneData {
        train: section.text("train").unwrap_or_default(),
        valid: section.text("valid"),
        valid_fraction: section.number("valid_fraction", FRACTION),
        max_tokens: section.size("max_tokens", 2, TOKENS_MAX),
        too_long: section.choice("too_long", TOO_LONG).unwrap_or(TooLong::Error),
    };
    if data.valid.is_some() && data.valid_fraction.is_some() {
        let message = "valid and valid_fraction both say what is held out";
        section.note("valid_fraction", ProblemCode::Contradiction, message, "remove one of the two");
    }
    section.finish();
    data
}

fn gate(mut section: Section<'_>, data: Option<&TuneData>) -> TuneGate {
    let bounds = ["max_attack_success", "min_agreement", "max_drop"];
    let suite = section.values("suite");
    if suite.is_none() {
        section.require(
            "max_rise",
            "how far the loss may be above the served version's, in nats (or a suite with its bounds)",
            "max_rise = 0.02",
        );
    }
    let gate = TuneGate {
        data: section.text("data"),
        max_rise: section.number("max_rise", NOT_NEGATIVE),
        texts: section.text("texts"),
        max_attack_success: section.number(bounds[0], SHARE),
        min_agreement: section.number(bounds[1], SHARE),
        max_drop: section.number(bounds[2], SHARE),
        suite,
    };
    tried(&gate, &mut section);
    match data.filter(|_| gate.max_rise.is_some()).map(|data| (gate.file(data), &data.train)) {
        Some((None, _)) => {
            let message = "is missing: lines that neither version was tuned on (held out of the training file, they may be \
                           lines that the served version learnt)";
            section.note(
                "data",
                ProblemCode::MissingKey,
                message,
                "add data = \"gate.jsonl\", or data.valid",
            );
        }
        Some((Some(file), train)) if file == train => {
            let message = "is the training file";
            section.note(
                "data",
                ProblemCode::Contradiction,
                message,
                "give lines that training does not see",
            );
        }
        _ => {}
    }
    section.finish();
    gate
}

/// A suite has a bound, and a bound a suite.
fn tried(gate: &TuneGate, section: &mut Section<'_>) {
    let bounds = [
        ("max_attack_success", gate.max_attack_success),
        ("min_agreement", gate.min_agreement),
        ("max_drop", gate.max_drop),
    ];
    let Some(suite) = &gate.suite else {
        let keys = bounds.into_iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key);
        for key in keys.chain(gate.texts.as_ref().map(|_| "texts")) {
            let fix = "add suite = [{ type = \"red_team\", system = \"…\" }]";
            section.note(key, ProblemCode::Contradiction, "belongs to a suite, and there is none", fix);
        }
        return;
    };
    if !(1..=limits::ROBUSTNESS_ITEMS_MAX).contains(&suite.len()) {
        let message = format!("must have 1 to {} items", limits::ROBUSTNESS_ITEMS_MAX);
        let fix = "write suite = [{ type = \"red_team\", system = \"…\" }]";
        section.note("suite", ProblemCode::OutOfRange, message, fix);
    }
    if bounds.iter().all(|(_, value)| value.is_none()) {
        let fix = "add max_attack_success = 0.1, min_agreement = 0.95 or max_drop = 0.05";
        section.note("suite", ProblemCode::Contradiction, "has no bound that its numbers must keep to", fix);
    }
}

fn model(mut section: Section<'_>) -> Option<(String, Option<LoraSpec>)> {
    let base = section.text("family");
    let lora = section.section("lora").map(lora);
    section.finish();
    Some((base?, lora))
}

pub(super) fn lora(mut section: Section<'_>) -> LoraSpec {
    let rank = section.size_or("rank", 8, 1, RANK_MAX);
    let alpha = section.number_or("alpha", 2.0 * rank as f64, POSITIVE);
    let all = || LoraSpec::TARGETS.map(str::to_owned).to_vec();
    let target = section.texts("target").unwrap_or_else(all);
    for name in &target {
        if !LoraSpec::TARGETS.contains(&name.as_str()) {
            let near = did_you_mean(name, LoraSpec::TARGETS);
            let fix = near.map_or_else(
                || format!("there are {}", LoraSpec::TARGETS.join(", ")),
                |near| format!("did you mean \"{near}\"?"),
            );
            section.note("target", ProblemCode::UnknownValue, format!("\"{name}\" is no linear layer"), fix);
        }
    }
    if target.is_empty() {
        section.note(
            "target",
            ProblemCode::OutOfRange,
            "names no layer",
            "write target = [\"q_proj\", \"v_proj\"]",
        );
    }
    let mut target: Vec<String> = target;
    target.sort_unstable_by_key(|name| LoraSpec::TARGETS.iter().position(|known| known == name));
    target.dedup();
    let lora = LoraSpec { rank, alpha, target, dropout: section.number_or("dropout", 0.0, DECAY) };
    section.finish();
    lora
}

#[derive(Clone, Copy)]
enum MethodName {
    Supervised,
    Dpo,
}

pub(super) fn tuned(mut section: Section<'_>, is_private: bool) -> (Method, crate::spec::TrainSpec, Auto) {
    let names = &[("supervised", MethodName::Supervised), ("dpo", MethodName::Dpo)];
    let method = match section.choice("method", names) {
        Some(MethodName::Dpo) => Method::Dpo { beta: section.number_or("beta", BETA_DEFAULT, POSITIVE) },
        Some(MethodName::Supervised) | None => {
            section.elsewhere(&["beta"], "method = \"dpo\"");
            Method::Supervised
        }
    };
    if is_private && section.has("grad_clip") {
        let message = "each example's gradient is clipped by privacy.max_grad_norm";
        section.note("grad_clip", ProblemCode::Contradiction, message, "remove grad_clip");
    }
    section.elsewhere(&["robust"], "families that are trained from the start");
    let auto = Auto {
        epochs: section.is_left_open("epochs") && !section.has("steps"),
        batch_size: section.is_left_open("batch_size"),
        lr: section.is_left_open("optimizer"),
        schedule: section.is_left_open("schedule"),
    };
    (method, train::read_tuned(section, auto), auto)
}
