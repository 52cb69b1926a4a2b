//! What stands behind a starter's answers: why it answers so, how well it stands an attack, and what privacy would
//! cost. The numbers land on the models' cards.

use super::starters::{Show, Starter};
use crate::commands::explain::names;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::training::{self, Plan};
use lyceum_robust::attack::FlagState;
use lyceum_service::Payer;
use lyceum_service::card::measured;
use lyceum_service::explain::{
    self, Answer, Check, Explained, Explanation, Method, MethodChoice, Options, Steps, What,
};
use lyceum_service::robustness::{self, Asked, AskedRows, Run};
use lyceum_service::{Content, Resident, Service};
use lyceum_store::{Store, evidence, models};
use lyceum_types::ids::ModelRef;
use lyceum_types::manifest::Metric;
use lyceum_types::spec::Spec;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// Held-out rows whose explanations are measured, and that are attacked.
const EXPLAINED: usize = 12;
const ATTACKED: usize = 128;
/// Parts that are named.
const NAMED: usize = 3;
const AGAIN: &str = "lyceum quickstart --no-serve --data-dir NEW";

/// The twin of the diagnosis that is trained with noise: the same layers, plain steps, no dropout.
const TWIN: &str = include_str!("../../../starter/breast-cancer-private.toml");
/// The starter that has a twin.
pub const WITH_TWIN: &str = "breast-cancer";

/// Says why the model answers the first held-out row as it does, and tries it under attack.
pub async fn show(
    context: &Context,
    service: &Service,
    model: &str,
    starter: &Starter,
) -> Result<(), Failure> {
    if !matches!(starter.show, Show::Row | Show::Digit | Show::Text) {
        return Ok(());
    }
    let reference: ModelRef = model.parse()?;
    let resident = service.resident(&context.project, &reference).await?;
    let held_out: Vec<u64> = resident.manifest.split.get("valid").cloned().unwrap_or_default();
    let rows: Vec<(Content, String)> =
        held_out.iter().take(ATTACKED).filter_map(|&row| read(starter, row)).collect();
    let is_new = evidence::all(service.store(), &resident.version).await?.is_empty();
    let n_explained = if is_new { EXPLAINED } else { 1 };
    let mut explained = Vec::new();
    for (content, _) in rows.iter().take(n_explained) {
        explained.push(why(context, service, &reference, content).await?);
    }
    let all: Vec<Explanation> = explained.iter().filter_map(explanation).cloned().collect();
    let data = |n: usize| format!("the first {n} held-out rows of {}", starter.file);
    if is_new {
        measured::keep_explanations(service.store(), &resident, &all, &data(all.len()), AGAIN).await?;
    }
    let run = match (is_new, starter.show) {
        (true, Show::Row | Show::Digit) => Some(attack(context, service, &reference, &rows).await?),
        _ => None,
    };
    if let Some(run) = &run {
        measured::keep_run(service.store(), &resident, run, &data(run.n), AGAIN).await?;
    }
    say(context, &resident, explained.first(), run.as_deref(), starter);
    Ok(())
}

fn say(
    context: &Context,
    resident: &Resident,
    first: Option<&Explained>,
    run: Option<&Run>,
    starter: &Starter,
) {
    let mut line = json!({ "event": "trust", "model": resident.version.id() });
    if let Some(Answer::Attributions { parts, explanation, .. }) = first.map(|first| &first.answer) {
        let names = names(parts, explanation);
        let mut order: Vec<usize> = (0..explanation.attributions.len()).collect();
        let size = |i: usize| explanation.attributions[i].value.abs();
        order.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
        let top: Vec<(String, f64)> = order
            .iter()
            .take(NAMED)
            .map(|&i| (names[i].trim().to_owned(), explanation.attributions[i].value))
            .collect();
        let shown: Vec<String> = top.iter().map(|(name, value)| format!("{name} {value:+.2}")).collect();
        let gap = explanation.checks.completeness_gap;
        let adds = gap.map_or("it promises no sum".to_owned(), |gap| format!("adds up within {gap:.1e}"));
        if !context.is_json() {
            output::text(format!("  why: {}   ({}; {adds})", shown.join(", "), explanation.method));
        }
        line["explanation"] = json!({
            "method": explanation.method, "completeness_gap": gap, "faithful": explanation.checks.faithful,
            "attributions": top.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>(),
        });
    }
    match (run, starter.show) {
        (Some(run), _) => {
            let found = |metric: &str| run.findings.iter().find(|f| f.metric == metric);
            if let (Some(clean), Some(robust)) = (found("clean_accuracy"), found("robust_accuracy")) {
                let ci95 = robust.ci95.unwrap_or([0.0, 1.0]);
                if !context.is_json() {
                    output::text(format!(
                        "  under attack ({}, {}, in {}): {:.3} [{:.3}, {:.3}] right of {} rows, {:.3} without",
                        robust.method,
                        robust.setting,
                        run.unit.as_deref().unwrap_or("the model's unit"),
                        robust.value,
                        ci95[0],
                        ci95[1],
                        robust.n,
                        clean.value
                    ));
                }
                let raised: Vec<&str> =
                    run.signs.iter().filter(|s| s.state == FlagState::Raised).map(|s| s.name).collect();
                line["robustness"] = json!({
                    "method": robust.method, "setting": robust.setting, "unit": run.unit, "value": robust.value,
                    "ci95": ci95, "n": robust.n, "clean": clean.value, "flags": raised,
                });
            }
        }
        (None, Show::Text) if !context.is_json() => {
            output::text(
                "  under attack: not evaluated (PGD moves numbers; text has typing errors: lyceum attack)",
            );
        }
        (None, _) if !context.is_json() => {
            output::note(format!("measured before: lyceum card {}", resident.version.id()));
        }
        _ => {}
    }
    if context.is_json() {
        output::json_line(&line);
    }
}

async fn why(
    context: &Context,
    service: &Service,
    model: &ModelRef,
    content: &Content,
) -> Result<Explained, Failure> {
    let options = Options {
        method: MethodChoice::Named(Method::IntegratedGradients { n_steps: Steps::Refined }),
        evaluate: vec![Check::Comprehensiveness, Check::Sufficiency],
        ..Options::default()
    };
    let request = explain::Request { model: model.clone(), what: What::Input(content.clone()), options };
    Ok(explain::create(service, &Payer::local(&context.project), request).await?)
}

fn explanation(explained: &Explained) -> Option<&Explanation> {
    match &explained.answer {
        Answer::Attributions { explanation, .. } => Some(explanation),
        Answer::Attention(_) | Answer::Influence(_) => None,
    }
}

/// PGD, 40 steps and 3 restarts, L∞ within 0.1 of the model's unit.
async fn attack(
    context: &Context,
    service: &Service,
    model: &ModelRef,
    rows: &[(Content, String)],
) -> Result<Arc<Run>, Failure> {
    let (rows, labels) = rows.iter().cloned().unzip();
    let suite = robustness::default_suite()?;
    let rows = AskedRows::Inline { rows, labels };
    let asked = Asked { model: model.clone(), rows, suite, seed: 0, compare: None };
    let (run, _) = robustness::create(service, &Payer::local(&context.project), asked).await?;
    Ok(run)
}

/// A row of the starter's file as a client sends it, and its label.
fn read(starter: &Starter, row: u64) -> Option<(Content, String)> {
    let text = std::str::from_utf8(starter.data).ok()?;
    let line = text.lines().nth(usize::try_from(row).ok()? + 1)?;
    let (inputs, label) = line.rsplit_once(',')?;
    let content = match starter.show {
        Show::Row => {
            let header = text.lines().next()?.split(',');
            let value = |cell: &str| cell.parse::<f64>().map_or(Value::Null, Value::from);
            let row: Map<String, Value> =
                header.zip(inputs.split(',')).map(|(name, cell)| (name.to_owned(), value(cell))).collect();
            Content::Row(row)
        }
        Show::Digit => {
            Content::Numbers(inputs.split(',').map(|cell| cell.parse().ok()).collect::<Option<_>>()?)
        }
        Show::Text => Content::Text(inputs.trim_matches('"').replace("\"\"", "\"")),
        Show::Forecast | Show::Continue { .. } => return None,
    };
    Some((content, label.to_owned()))
}

/// Trains the twin on the starter's training rows with noise, and says what the promise costs. Returns its name.
pub async fn twin(
    context: &Context,
    store: &Store,
    service: &Service,
    folder: &Path,
    starter: &Starter,
) -> Result<String, Failure> {
    let spec = Spec::from_toml(TWIN, "breast-cancer-private.toml")?;
    let name = spec.name.clone();
    let open = service.resident(&context.project, &WITH_TWIN.parse()?).await?;
    let found = models::list(store, &context.project).await?;
    if !found.iter().any(|version| version.name.as_str() == name) {
        write_parts(folder, starter, open.manifest.split.get("valid").map_or(&[][..], Vec::as_slice), &spec)?;
        if !context.is_json() {
            output::text(format!("\n{name}: the same diagnosis, trained with noise that hides each patient"));
        }
        let plan = Plan { spec, base_dir: folder.to_owned() };
        let id = training::create(context, store, &plan).await?;
        training::run(context, store, &id, plan).await?;
    }
    let private = service.resident(&context.project, &name.parse()?).await?;
    let accuracy = |of: &Resident| of.manifest.metrics.get("valid_accuracy").cloned();
    let report = private.manifest.privacy.as_ref();
    if let (Some(open), Some(hidden), Some(report)) = (accuracy(&open), accuracy(&private), report) {
        let epsilon = report.epsilon;
        if context.is_json() {
            output::json_line(&json!({
                "event": "trust", "model": private.version.id(),
                "privacy": { "epsilon": epsilon, "delta": report.delta, "accountant": report.accountant,
                    "accuracy": hidden, "without_privacy": open, "cost": open.value - hidden.value },
            }));
        } else {
            let shown = epsilon.map_or("∞".to_owned(), |epsilon| format!("{epsilon:.2}"));
            let of = |m: &Metric| format!("{:.3} [{:.3}, {:.3}]", m.value, m.ci95[0], m.ci95[1]);
            output::text(format!(
                "  ε = {shown} at δ = {} ({}): {} right on the same held-out rows, {} without; the promise costs {:.1} points",
                report.delta,
                report.accountant,
                of(&hidden),
                of(&open),
                100.0 * (open.value - hidden.value)
            ));
        }
    }
    Ok(name)
}

/// The starter's rows as two files, parted as the starter was: what is measured on is not among what is hidden.
fn write_parts(folder: &Path, starter: &Starter, valid: &[u64], spec: &Spec) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(starter.data);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let (mut train, mut held_out) = (format!("{header}\n"), format!("{header}\n"));
    for (row, line) in lines.enumerate() {
        let part = if valid.contains(&(row as u64)) { &mut held_out } else { &mut train };
        part.push_str(line);
        part.push('\n');
    }
    let valid_name = spec.data.valid.clone().unwrap_or_default();
    for (name, text) in [(&spec.data.train, train), (&valid_name, held_out)] {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| Failure::file("write", &path, &error))?;
    }
    Ok(())
}
