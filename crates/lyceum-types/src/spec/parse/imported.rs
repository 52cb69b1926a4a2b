//! Candidates of a choice that exist already: language models by name, and what they are asked.

use super::ProblemCode;
use super::choose::check_name;
use super::section::{Problems, Section};
use super::tree::{Node, Value};
use crate::spec::Task;
use crate::spec::choose::{AnswerMetric, Imported, Question};
use std::collections::BTreeMap;

/// Labelled rows that may be shown before a text.
const SHOTS_MAX: usize = 64;

/// Whether an entry of `candidates` names a model that exists.
pub(super) fn is_one(node: &Node) -> bool {
    node.find(&["model"]).is_some() && node.find(&["family"]).is_none()
}

/// The named models among the candidates, with their places.
pub(super) fn candidates(root: &Node, problems: &Problems) -> Vec<(usize, Imported)> {
    let Some(Value::List(nodes)) = root.find(&["candidates"]).map(|node| &node.value) else {
        return Vec::new();
    };
    let mut found: Vec<(usize, Imported)> = Vec::new();
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| is_one(node)) {
        let Some(mut section) = Section::open(node, format!("candidates[{index}]"), problems) else {
            continue;
        };
        let Some((imported, given)) = candidate(&mut section) else {
            section.finish();
            continue;
        };
        let taken = |name: &str| found.iter().any(|(_, other)| other.name == name);
        let mut imported = imported;
        if given && taken(&imported.name) {
            let message = format!("two candidates are called \"{}\"", imported.name);
            section.note("name", ProblemCode::Contradiction, message, "give each its own name");
        }
        let usual = imported.name.clone();
        for n in 2.. {
            if given || !taken(&imported.name) {
                break;
            }
            imported.name = format!("{usual}-{n}");
        }
        section.finish();
        found.push((index, imported));
    }
    found
}

/// One candidate, and whether its name was given.
fn candidate(section: &mut Section<'_>) -> Option<(Imported, bool)> {
    let name = section.text("name");
    check_name(section, name.as_deref());
    section.not_yet("head", "a linear head over an encoder's vectors as a candidate");
    section.not_yet("lora", "adapters that a race tunes (tune one first: lyceum train, then name it here)");
    section.elsewhere(&["train", "hidden"], "candidates that are trained here, which have a family");
    let model = section.text("model");
    let shots = section.size_or("shots", 0, 0, SHOTS_MAX);
    let instructions = section.text("instructions");
    let model = model?;
    let given = name.is_some();
    let plain: String =
        model.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' }).collect();
    let usual = if shots == 0 { plain } else { format!("{plain}-{shots}-shot") };
    Some((Imported { name: name.unwrap_or(usual), model, shots, instructions }, given))
}

/// `[question]`
pub(super) fn question(mut section: Section<'_>) -> Option<Question> {
    section.require("instructions", "what is asked of each text", "instructions = \"Is it praise?\"");
    let instructions = section.text("instructions");
    let descriptions = section.section("descriptions").map(Section::texts_by_name).unwrap_or_default();
    section.finish();
    Some(Question {
        instructions: instructions?,
        descriptions: descriptions.into_iter().collect::<BTreeMap<_, _>>(),
    })
}

/// Which tasks language models can be raced at, and which candidates texts can be written by.
pub(super) fn check_task(
    section: &mut Section<'_>,
    task: Option<Task>,
    root: &Node,
    imported: &[(usize, Imported)],
) {
    let n_listed = match root.find(&["candidates"]).map(|node| &node.value) {
        Some(Value::List(nodes)) => nodes.len(),
        _ => 0,
    };
    match task {
        Some(Task::SequenceToSequence) => {
            let message = "choosing among encoder–decoders is not in this version yet";
            let fix = "choose for classification, regression, forecasting or language_modeling";
            section.note("task", ProblemCode::NotYet, message, fix);
        }
        Some(Task::LanguageModeling) if imported.is_empty() || imported.len() < n_listed => {
            let message =
                "choosing among models that are trained here to write texts is not in this version yet";
            let fix = "name language models that exist: candidates = [{ model = \"smollm2\" }]";
            section.note("task", ProblemCode::NotYet, message, fix);
        }
        Some(Task::Regression | Task::Forecasting) if !imported.is_empty() => {
            let message = "language models answer with labels or texts: they cannot be raced at numbers";
            let fix = "remove candidates with `model`, or write task = \"classification\"";
            section.note("candidates", ProblemCode::Contradiction, message, fix);
        }
        _ => {}
    }
}

/// What is asked must fit who is asked.
pub(super) fn check_asked(
    section: &mut Section<'_>,
    task: Option<Task>,
    imported: &[(usize, Imported)],
    (question, metric): (Option<Option<Question>>, Option<AnswerMetric>),
) -> (Option<Option<Question>>, Option<AnswerMetric>) {
    let writes = task == Some(Task::LanguageModeling);
    let asks = imported.iter().any(|(_, imported)| imported.instructions.is_none());
    if task == Some(Task::Classification) && asks && question.is_none() {
        let message = "language models must be told what to say of a text";
        let fix = "add [question] with instructions = \"…\", or instructions to each of them";
        section.note("question", ProblemCode::MissingKey, message, fix);
    }
    if question.is_some() && (imported.is_empty() || writes) {
        let message = "is asked of labelled texts by language models, and nothing here does that";
        section.note("question", ProblemCode::Contradiction, message, "remove [question]");
    }
    if metric.is_some() && !writes {
        let message = "compares written answers; labels are compared by whether they are right";
        section.note("metric", ProblemCode::Contradiction, message, "remove metric");
    }
    for (index, one) in imported.iter().filter(|_| writes) {
        if one.shots > 0 || one.instructions.is_some() {
            let message =
                format!("candidates[{index}]: rows that hold their own prompts are asked as they are");
            section.note("candidates", ProblemCode::Contradiction, message, "remove shots and instructions");
        }
    }
    (question, metric.or(writes.then_some(AnswerMetric::ExactMatch)))
}
