//! `lyceum eval MODEL DATA`

use crate::commands::show;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, output};
use clap::Args;
use lyceum_service::Resident;
use lyceum_train::baseline::Trivial;
use lyceum_train::checkpoint::digest;
use lyceum_train::measure::{self, Measured};
use lyceum_train::version::TRIVIAL;
use lyceum_train::{TrainError, data};
use lyceum_types::limits;
use lyceum_types::spec::Task;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Eval {
    /// `name`, `name@VERSION` or `name@alias`
    model: String,
    /// Rows with their targets, in the format that the model was trained on
    data: PathBuf,
}

impl Eval {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (_service, resident) = context.resident(&self.model).await?;
        let control = context.control.clone();
        let (asked, path) = (resident.clone(), self.data);
        let kept = kept_baseline(&resident)?;
        let work = move || -> Result<(Measured, Option<Measured>), TrainError> {
            let spec = &asked.manifest.spec;
            let data = data::load_eval(&asked.preparation, spec, &path, &control)?;
            let measured = measure::measure_model(&asked.model, &asked.preparation, &data, spec, &control)?;
            let on_data = |kept: &Trivial| measure::measure_trivial(kept, &asked.preparation, &data, spec);
            Ok((measured, kept.as_ref().map(on_data).transpose()?))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let (measured, trivial) =
            done.map_err(|error| Failure::internal("the evaluation broke off", &error))??;
        let model = resident.version.id();
        let is_private = resident.manifest.privacy.is_some();
        let why = trivial.is_none().then(|| {
            if is_private {
                return format!("{model} is private: a trivial baseline counts training rows, so it keeps none");
            }
            format!(
                "{model} was trained before versions kept their trivial baseline: train it again to have one beside it"
            )
        });
        if context.is_json() {
            output::json_line(&json!({
                "model": model,
                "metrics": measured.metrics,
                "baseline": trivial.as_ref().map(|trivial| &trivial.metrics),
                "baseline_name": trivial.as_ref().map(|trivial| &trivial.name),
                "baseline_missing": why,
            }));
            return Ok(());
        }
        let row = |(name, metric): (&String, &lyceum_types::manifest::Metric)| {
            let beside = trivial.as_ref().and_then(|trivial| trivial.metrics.get(name));
            vec![name.clone(), show::metric(metric), beside.map_or_else(String::new, show::metric)]
        };
        let beside = trivial.as_ref().map_or("", |trivial| trivial.name.as_str());
        output::table(&["metric", &model, beside], &measured.metrics.iter().map(row).collect::<Vec<_>>());
        why.iter().for_each(output::note);
        Ok(())
    }
}

/// The trivial method that was fitted on the model's training rows; none in versions of older programs.
fn kept_baseline(resident: &Resident) -> Result<Option<Trivial>, Failure> {
    let Some(sha256) = resident.manifest.files.get(TRIVIAL) else {
        // The last value is learnt from nothing.
        return Ok((resident.manifest.spec.task == Task::Forecasting).then_some(Trivial::LastValue));
    };
    let path = resident.version.dir.join(TRIVIAL);
    let bytes = files::read_bytes(&path, limits::WEIGHT_FILE_BYTES_MAX)?;
    if digest(&bytes) != *sha256 {
        let message = format!("{} is damaged", path.display());
        let why = "its sha256 is not the manifest's";
        let fix = format!("lyceum rm {}, then train or import it again", resident.version.id());
        return Err(Failure::new(Exit::Failed, "damaged_model", message, why, fix));
    }
    Ok(Some(Trivial::from_bytes(&bytes).map_err(TrainError::from)?))
}
