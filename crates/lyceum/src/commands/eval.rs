//! `lyceum eval MODEL DATA`

use crate::commands::show;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use lyceum_service::evaluations::{self, Beside, Evaluation};
use lyceum_types::manifest::Metric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Eval {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// Rows with their targets, in the format that the model was trained on; with --url also the id of a file there
    pub(in crate::commands) data: PathBuf,
}

/// What was measured, here or by a server.
#[derive(Debug, Deserialize, Serialize)]
pub struct Told {
    model: String,
    metrics: BTreeMap<String, Metric>,
    baseline: Option<BTreeMap<String, Metric>>,
    baseline_name: Option<String>,
    baseline_missing: Option<String>,
}

impl From<Evaluation> for Told {
    fn from(found: Evaluation) -> Self {
        let (baseline, baseline_name, baseline_missing) = match found.beside {
            Beside::Baseline { name, metrics } => (Some(metrics), Some(name), None),
            Beside::Missing(why) => (None, None, Some(why)),
        };
        Told { model: found.model, metrics: found.metrics, baseline, baseline_name, baseline_missing }
    }
}

impl Eval {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (_service, resident) = context.resident(&self.model).await?;
        let control = context.control.clone();
        let trivial = evaluations::kept_baseline(&resident)?;
        let work = move || evaluations::measure(&resident, trivial.as_ref(), &self.data, &control);
        let done = tokio::task::spawn_blocking(work).await;
        let found = done.map_err(|error| Failure::internal("the evaluation broke off", &error))??;
        tell(context, &found.into());
        Ok(())
    }
}

pub fn tell(context: &Context, told: &Told) {
    if context.is_json() {
        output::json_line(&serde_json::to_value(told).expect("numbers and names are JSON: bug"));
        return;
    }
    let row = |(name, metric): (&String, &Metric)| {
        let beside = told.baseline.as_ref().and_then(|baseline| baseline.get(name));
        vec![name.clone(), show::metric(metric), beside.map_or_else(String::new, show::metric)]
    };
    let beside = told.baseline_name.as_deref().unwrap_or_default();
    output::table(&["metric", &told.model, beside], &told.metrics.iter().map(row).collect::<Vec<_>>());
    told.baseline_missing.iter().for_each(output::note);
}
