//! The audit of a fine-tuned language model: how well the loss of a line tells lines that tuned it from others.
//!
//! Lines differ in how likely any model finds them, so a line's loss is held against what the model gave it before it was
//! tuned: the score is the loss before less the loss after, as that of canaries inside of private runs.

use super::{AuditArgs, BY_LOSS, FPRS, show};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use lyceum_privacy::membership::{Attack, attack};
use lyceum_service::card::measured::{Costly, keep_membership};
use lyceum_service::{Language, Service};
use lyceum_train::TrainError;
use lyceum_train::chat::Words;
use lyceum_train::tune::{Base, on_lines};
use lyceum_types::clock::Timestamp;
use lyceum_types::spec::tune::{Method, TuneSpec};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the attack is called in a card.
const OVER_BASE: &str = "loss before tuning less loss after";

pub(super) async fn audit(
    service: &Service,
    language: &Arc<Language>,
    args: AuditArgs,
    context: &Context,
) -> Result<(), Failure> {
    let id = language.version.id();
    let Some(tuned) = &language.manifest.tuned else {
        let why = "it was not fine-tuned here, so that nothing is known of its lines";
        let fix = "name a model that a job here tuned";
        return Err(Failure::new(
            Exit::Usage,
            "unsupported_model",
            format!("{id} cannot be audited"),
            why,
            fix,
        ));
    };
    if tuned.spec.method != Method::Supervised {
        let why = "it learnt preferences, whose lines have no loss of their own";
        return Err(Failure::new(
            Exit::Usage,
            "unsupported_model",
            format!("{id} cannot be audited"),
            why,
            "audit a model that learnt answers",
        ));
    }
    let before = service.language(&context.project, &tuned.base.model.parse()?).await?;
    if before.version.sha256 != tuned.base.sha256 {
        let message = format!("{} is not the model any more that {id} was tuned from", tuned.base.model);
        let why = "what a line lost by tuning is seen beside the model before it";
        return Err(Failure::new(Exit::Failed, "base_changed", message, why, "bring that model back"));
    }
    let (after, spec, control) = (language.clone(), tuned.spec.clone(), context.control.clone());
    let (members, others) = (args.members.clone(), args.others.clone());
    let work = move || -> Result<(Attack, Attack, u64), TrainError> {
        let of = |file: &PathBuf| scores(&spec, file, (&before, &after), &control);
        let (members, others) = (of(&members)?, of(&others)?);
        let n = (members.len() + others.len()) as u64;
        let column = |rows: &[[f64; 2]], i: usize| rows.iter().map(|row| row[i]).collect::<Vec<f64>>();
        let by = |i| attack(&column(&members, i), &column(&others, i), &FPRS);
        Ok((by(0)?, by(1)?, n))
    };
    let done = tokio::task::spawn_blocking(work).await;
    let (by_base, by_loss, n) = done.map_err(|error| Failure::internal("the audit broke off", &error))??;
    let (members, others) = (args.members.display(), args.others.display());
    let again = format!("lyceum privacy audit {id} --members {members} --others {others}");
    let data = format!("{members} (members) and {others} (others)");
    let measured = (service.store(), &**language as &dyn Costly);
    keep_membership(measured, (&by_base, OVER_BASE), &data, n, &again).await?;
    let claimed = language.manifest.privacy.as_ref();
    let canaries = claimed.and_then(|report| report.audit.as_ref());
    if context.is_json() {
        output::json_line(&json!({
            "model": id,
            "attack": "loss_over_base",
            "auc": by_base.auc,
            "tpr_at": by_base.tpr_at,
            "loss": {"attack": BY_LOSS, "auc": by_loss.auc, "tpr_at": by_loss.tpr_at},
            "epsilon_claimed": claimed.and_then(|report| report.epsilon),
            "delta": claimed.map(|report| report.delta),
            "canaries": canaries,
        }));
        return Ok(());
    }
    show(&id, "membership by loss before tuning less after", &by_base);
    if let Some(canaries) = canaries {
        output::text(&canaries.statement);
    }
    Ok(())
}

/// Of each line: the loss before less the loss after, and less the loss after.
fn scores(
    spec: &TuneSpec,
    file: &Path,
    (before, after): (&Language, &Language),
    control: &lyceum_types::control::Control,
) -> Result<Vec<[f64; 2]>, TrainError> {
    let now = Timestamp::now().seconds();
    let (before, after) = (side(before, now), side(after, now));
    let shown = file.to_string_lossy();
    let losses = |side| on_lines(spec, &shown, (side, side), Path::new(""), control);
    let (first, last) = (losses(&before)?, losses(&after)?);
    Ok(first.rows().iter().zip(last.rows()).map(|(before, after)| [before - after, -after]).collect())
}

fn side(language: &Language, now: i64) -> Base<'_> {
    let words = &language.words;
    Base {
        model: (*language.model).clone(),
        adapter: language.added.as_ref().map(|added| added.adapter.clone()),
        words: Words { tokenizer: &words.tokenizer, template: words.template.as_ref(), now },
        id: language.version.id(),
        sha256: language.version.sha256.clone(),
    }
}
