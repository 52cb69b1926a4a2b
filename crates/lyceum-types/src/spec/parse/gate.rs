//! `[gate]`: what a new version must stand before its name serves it.

use super::rules::Rules;
use super::section::{SHARE, Section};
use super::{Draft, ProblemCode};
use crate::limits;
use crate::spec::GateSpec;

pub(super) fn read(mut section: Section<'_>) -> GateSpec {
    section.require("max_drop", "how far an accuracy may be lower", "max_drop = 0.02");
    let gate = GateSpec {
        data: section.text("data"),
        rows: section.size("rows", 1, usize::MAX >> 1),
        suite: section.values("suite"),
        max_drop: section.number_or("max_drop", 0.0, SHARE),
    };
    if gate.suite.as_ref().is_some_and(|items| !(1..=limits::ROBUSTNESS_ITEMS_MAX).contains(&items.len())) {
        let message = format!("must have 1 to {} items", limits::ROBUSTNESS_ITEMS_MAX);
        let fix = "write suite = [{ type = \"pgd\", norm = \"linf\", eps = 0.1 }]";
        section.note("suite", ProblemCode::OutOfRange, message, fix);
    }
    section.finish();
    gate
}

pub(super) fn check(draft: &Draft, rules: &Rules<'_>) {
    let (Some(gate), Some(task), Some(data)) = (&draft.gate, draft.task, &draft.data) else { return };
    if let Some([key, why, fix]) = gate.refusal(task, data, draft.privacy.as_ref()) {
        let key: Vec<&str> = key.split('.').collect();
        rules.note(&key, &["task", "data", "gate", "privacy"], why.to_owned(), fix);
    }
}
