//! `lyceum eval MODEL DATA`

use crate::commands::show;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use lyceum_train::measure::{self, Measured};
use lyceum_train::{TrainError, data};
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
        let work = move || -> Result<(Measured, Measured), TrainError> {
            let spec = &asked.manifest.spec;
            let data = data::load_eval(&asked.preparation, spec, &path, &control)?;
            let measured = measure::measure_model(&asked.model, &asked.preparation, &data, spec, &control)?;
            // The training rows may be gone. Fitted on the very rows that it answers, the trivial baseline is at
            // its best: beating it here is never too easy.
            let (trivial, _) = measure::measure_baselines(&asked.preparation, &data, &data, spec, &control)?;
            Ok((measured, trivial))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let (measured, trivial) =
            done.map_err(|error| Failure::internal("the evaluation broke off", &error))??;
        if context.is_json() {
            output::json_line(&json!({
                "model": resident.version.id(),
                "metrics": measured.metrics,
                "baseline": trivial.metrics,
                "baseline_name": trivial.name,
            }));
            return Ok(());
        }
        let row = |(name, metric): (&String, &lyceum_types::manifest::Metric)| {
            vec![
                name.clone(),
                show::metric(metric),
                trivial.metrics.get(name).map_or_else(String::new, show::metric),
            ]
        };
        let model = resident.version.id();
        output::table(
            &["metric", &model, &trivial.name],
            &measured.metrics.iter().map(row).collect::<Vec<_>>(),
        );
        Ok(())
    }
}
