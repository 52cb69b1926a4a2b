//! What a fine-tuning will read: conversations in the base's own template, with the tokens that are learnt.

use crate::context::Context;
use crate::failure::Failure;
use crate::tuning;
use lyceum_service::fine_tuning::preview::{self, Part, Preview};
use lyceum_service::language::adapter;
use lyceum_types::spec::tune::{Origin, TuneSpec};
use std::path::PathBuf;

pub(super) async fn seen(
    context: &Context,
    spec: TuneSpec,
    base_dir: PathBuf,
    asked: (Part, usize),
) -> Result<Preview, Failure> {
    let store = context.store().await?;
    let plan = tuning::plan(context, &store, spec, base_dir).await?;
    let version = tuning::base_of(context, &store, &plan).await?;
    let origin = if adapter::is_adapter(&version) { Origin::Adapter } else { Origin::Whole };
    let version = tuning::whole_of(&store, &version).await?;
    let control = context.control.clone();
    let work = move || -> Result<Preview, Failure> {
        let language = lyceum_service::Language::open(version)?;
        let tune = (&plan.tune, plan.created, origin);
        Ok(preview::lines(tune, &language, &plan.base_dir, asked, &control)?)
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::internal("the preview broke off", &error))?
}
