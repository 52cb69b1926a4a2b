//! The audit of a fine-tuned language model: how well the loss of a line tells lines that tuned it from others.
//!
//! Lines differ in how likely any model finds them, so a line's loss is held against what the model gave it before it was
//! tuned: the score is the loss before less the loss after, as that of canaries inside of private runs.

use super::{AuditArgs, BY_LOSS, show};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use lyceum_privacy::membership::{Attack, attack};
use lyceum_service::card::measured::{Costly, keep_membership};
use lyceum_service::{Language, Service, audits};
use lyceum_store::vault::KeyedPath;
use lyceum_train::TrainError;
use serde_json::json;
use std::path::PathBuf;
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
    let tuned = audits::tuned(language)?;
    let spec = tuned.spec.clone();
    let before = service.language(&context.project, &tuned.base.model.parse()?).await?;
    if before.version.sha256 != tuned.base.sha256 {
        let message = format!("{} is not the model any more that {id} was tuned from", tuned.base.model);
        let why = "what a line lost by tuning is seen beside the model before it";
        return Err(Failure::new(Exit::Failed, "base_changed", message, why, "bring that model back"));
    }
    let (after, control) = (language.clone(), context.control.clone());
    let (members, others) = (args.members.clone(), args.others.clone());
    let work = move || -> Result<(Attack, Attack, u64), TrainError> {
        let of = |file: &PathBuf| {
            let file = (KeyedPath::plain(""), &*file.to_string_lossy());
            audits::of_lines(&spec, file, (&before, &after), &control)
        };
        let (members, others) = (of(&members)?, of(&others)?);
        let n = (members.len() + others.len()) as u64;
        let column = |rows: &[[f64; 2]], i: usize| rows.iter().map(|row| row[i]).collect::<Vec<f64>>();
        let by = |i| attack(&column(&members, i), &column(&others, i), &audits::FPRS);
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
