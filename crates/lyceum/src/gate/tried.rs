//! The suite in `[gate]` of a fine-tuning: the tuned model, not published yet, is asked as a server would ask it, and what
//! environments and attacks find is held to the gate's bounds; beside the version that its name serves, or its base, where
//! the gate says how much worse it may be.

use super::{Judged, Watch};
use crate::assemble;
use crate::context::Context;
use crate::failure::Failure;
use crate::files;
use lyceum_api::robustness::language::{suite_of, verdict_body};
use lyceum_service::card::measured::keep_language_run;
use lyceum_service::robustness::language::{Asked, AskedTexts, Bounds, Item, Plan, Run, Trial, of_file};
use lyceum_service::{Language, Payer};
use lyceum_store::models::Version;
use lyceum_store::{Store, data_files};
use lyceum_types::ids::{ModelRef, VersionRef};
use lyceum_types::limits;
use lyceum_types::spec::tune::{TuneGate, TunePlan};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

fn bounds(gate: &TuneGate) -> Bounds {
    Bounds {
        max_attack_success: gate.max_attack_success,
        min_agreement: gate.min_agreement,
        max_drop: gate.max_drop,
    }
}

fn wrong(key: &str, message: String, fix: &str) -> Failure {
    let mut failure = Failure::usage(message, "the gate's suite cannot be run", fix);
    failure.place.key = Some(format!("gate.{key}"));
    failure
}

/// What a gate asks of a model; None where it has no suite.
fn asked(
    context: &Context,
    store: &Store,
    plan: &TunePlan,
    model: ModelRef,
) -> Result<Option<(Asked, Bounds)>, Failure> {
    let Some(gate) = &plan.tune.gate else { return Ok(None) };
    let Some(items) = &gate.suite else { return Ok(None) };
    let fix = "write it as lyceum attack reads it of language models";
    let suite = suite_of(items).map_err(|why| wrong("suite", why, fix))?;
    let texts = match (&gate.texts, suite.iter().any(Item::reads_texts)) {
        (None, false) => AskedTexts::None,
        (Some(_), false) => {
            let message = "gate.texts: nothing of the suite reads texts".to_owned();
            return Err(wrong("texts", message, "leave it out, or add { type = \"environments\" }"));
        }
        (None, true) => {
            let message = "gate.texts: is missing: environments are compared over texts".to_owned();
            return Err(wrong("texts", message, "add texts = \"texts.txt\": a text a line, or .jsonl"));
        }
        (Some(file), true) => {
            let path = data_files::folder(store, &context.project, &plan.base_dir)?.join(file);
            let bytes = files::read_bytes(&path, limits::ROBUSTNESS_FILE_BYTES_MAX)?;
            let prompts = of_file(file, &bytes, None);
            AskedTexts::Inline(prompts.map_err(|why| wrong("texts", format!("{file}: {why}"), fix))?)
        }
    };
    let bounds = bounds(gate);
    bounds.check(&suite).map_err(|error| wrong("suite", error.to_string(), fix))?;
    Ok(Some((Asked { model, texts, suite, seed: plan.tune.seed }, bounds)))
}

/// Finds before the training what would keep the suite from running: it is judged for the base.
pub async fn rehearse(context: &Context, store: &Store, plan: &TunePlan) -> Result<(), Failure> {
    let Some((asked, _)) = asked(context, store, plan, plan.base.parse()?)? else { return Ok(()) };
    let service = assemble::service(&context.config, store.clone())?;
    Plan::new(&service, &Payer::local(&context.project), asked).await?;
    Ok(())
}

/// Tries a tuned model that is not published yet, and adds what was found to what its gate says.
///
/// # Errors
/// An interruption. Whatever else keeps the suite from running holds the version.
pub async fn judge(
    context: &Context,
    store: &Store,
    plan: &TunePlan,
    fresh: Language,
    (judged, watch): (&mut Judged, &mut Watch<'_>),
) -> Result<(), Failure> {
    let nobody = ModelRef { name: fresh.version.name.clone(), version: VersionRef::Number(0) };
    let Some((asked, bounds)) = asked(context, store, plan, nobody)? else { return Ok(()) };
    let other = match bounds.max_drop {
        None => None,
        Some(_) => {
            let Version { name, number, .. } = super::tuned::beside(context, store, plan).await?;
            Some(ModelRef { name, version: VersionRef::Number(number) })
        }
    };
    let service = assemble::service(&context.config, store.clone())?;
    service.host(Arc::new(fresh));
    let payer = watch.payer();
    let work = async { Trial::new(&service, &payer, asked, (other, bounds)).await?.carry_out().await };
    let interrupted = async {
        while context.control.check().is_ok() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let until_interrupted = async {
        tokio::select! {
            tried = work => Some(tried),
            () = interrupted => None,
        }
    };
    let Some(tried) = watch.over(until_interrupted).await else {
        return Err(Failure::interrupted("the version is not published"));
    };
    let why = match tried {
        Err(error) => Some(format!("its gate's suite could not be run: {error}")),
        Ok(tried) => {
            // Where the loss was compared, its version stands there already.
            if let Some(theirs) = &tried.theirs {
                judged.line["compared_to"] = json!(theirs.model);
            }
            let verdict = tried.verdict.unwrap_or_default();
            judged.line["tried"] = verdict_body(&verdict);
            judged.tried = Some(tried.ours);
            verdict.why()
        }
    };
    // Who is held for its loss already has its reason.
    if judged.held.is_none() {
        judged.held = why;
    }
    judged.line["held"] = judged.held.is_some().into();
    if judged.held.is_some() {
        judged.line["why"] = json!(judged.held);
    }
    Ok(())
}

/// Keeps what the suite found for the version's card.
pub async fn keep(store: &Store, run: &Run, version: &Version, plan: &TunePlan) -> Result<(), Failure> {
    let texts = plan.tune.gate.as_ref().and_then(|gate| gate.texts.as_deref()).unwrap_or_default();
    let id = version.id();
    let data = format!("{} texts of {texts}, by the gate of its job", run.n);
    let again = format!(
        "lyceum attack {id} {texts} --suite FILE --seed {} ([gate] of lyceum show {id} --json)",
        run.seed
    );
    Ok(keep_language_run(store, version, run, &data, &again.replace("  ", " ")).await?)
}
