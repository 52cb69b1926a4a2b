//! `lyceum show MODEL`: the row and the manifest of a version.

use crate::commands::ls;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, output};
use clap::Args;
use lyceum_store::layout::MANIFEST;
use lyceum_store::models::{self, Version};
use lyceum_types::ids::ModelRef;
use lyceum_types::manifest::{FORMAT_VERSION, Manifest, Metric};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The largest manifest that is read: row numbers of the parts are in it.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Args)]
pub struct Show {
    /// `name`, `name@VERSION` or `name@alias`
    model: String,
}

impl Show {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: ModelRef = self.model.parse()?;
        let store = context.store().await?;
        let version = match models::resolve(&store, &context.project, &reference).await {
            Ok(version) => version,
            Err(error) => return Err(context.explain(&store, error).await),
        };
        let manifest = read_manifest(&version)?;
        if context.is_json() {
            output::json_line(&object(&version, &manifest));
            return Ok(());
        }
        for_people(&version, &manifest);
        Ok(())
    }
}

/// The manifest beside a version's weights.
pub fn read_manifest(version: &Version) -> Result<Manifest, Failure> {
    let path = version.dir.join(MANIFEST);
    let text = files::read_text(&path, MANIFEST_BYTES_MAX)?;
    let damaged = |why: String| {
        let message = format!("the manifest of {} cannot be read", version.id());
        let fix = format!("lyceum rm {}, then train or import it again", version.id());
        let mut failure = Failure::new(Exit::Failed, "damaged_model", message, why, fix);
        failure.place.file = Some(path.display().to_string());
        failure
    };
    if let Err(error) = models::check_manifest(&version.dir, text.as_bytes()) {
        return Err(damaged(error.to_string()));
    }
    let manifest: Manifest = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if manifest.format_version > FORMAT_VERSION {
        let why = format!("its format {} is newer than {FORMAT_VERSION}", manifest.format_version);
        return Err(damaged(why));
    }
    Ok(manifest)
}

fn object(version: &Version, manifest: &Manifest) -> Value {
    let mut object = ls::line(version);
    let more = json!({
        "format_version": manifest.format_version,
        "job": manifest.job,
        "steps": manifest.steps,
        "seconds": manifest.seconds,
        "metrics": manifest.metrics,
        "baseline": manifest.baseline.as_ref().map(|report| &report.metrics),
        "baseline_name": manifest.baseline.as_ref().map(|report| &report.name),
        "strong_baseline": manifest.strong_baseline.as_ref().map(|report| &report.metrics),
        "strong_baseline_name": manifest.strong_baseline.as_ref().map(|report| &report.name),
        "verdict": manifest.verdict,
        "privacy": manifest.privacy,
        "data": manifest.data,
        "spec": manifest.spec,
        "path": version.dir,
    });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

fn for_people(version: &Version, manifest: &Manifest) {
    let row = |key: &str, value: String| vec![key.to_owned(), value];
    let mut rows = vec![
        row("model", version.id()),
        row("family", version.family.clone()),
        row("task", version.task.clone()),
        row("parameters", version.n_params.to_string()),
        row("size", output::bytes(version.bytes)),
        row("sha256", version.sha256.clone()),
        row("created", crate::time::for_people(version.created_at)),
        row("trained", format!("{} steps in {:.1} s", manifest.steps, manifest.seconds)),
        row("path", version.dir.display().to_string()),
    ];
    rows.extend(manifest.data.iter().map(|file| row(&format!("{} data", file.role), data_file(file))));
    if let Some(why) = &version.held {
        rows.push(row("held", format!("{why}; lyceum promote {} lifts it", version.id())));
    }
    output::table(&["", ""], &rows);
    metrics_table(manifest);
    if let Some(privacy) = &manifest.privacy {
        output::text(&privacy.statement);
        if let Some(audit) = &privacy.audit {
            output::text(&audit.statement);
        }
    }
    if let Some(verdict) = &manifest.verdict {
        output::text(verdict);
    }
}

fn data_file(file: &lyceum_types::manifest::DataFile) -> String {
    format!("{} ({} rows, sha256 {})", file.path, file.rows, file.sha256.chars().take(12).collect::<String>())
}

/// Every metric beside the same metric of the baselines.
fn metrics_table(manifest: &Manifest) {
    let reports = [&manifest.baseline, &manifest.strong_baseline];
    let mut header = vec!["metric".to_owned(), "model".to_owned()];
    header.extend(reports.iter().filter_map(|report| report.as_ref().map(|report| report.name.clone())));
    let cell =
        |metrics: &BTreeMap<String, Metric>, name: &str| metrics.get(name).map_or(String::new(), metric);
    let rows: Vec<Vec<String>> = manifest
        .metrics
        .keys()
        .map(|name| {
            let mut row = vec![name.clone(), cell(&manifest.metrics, name)];
            row.extend(reports.iter().filter_map(|r| r.as_ref().map(|r| cell(&r.metrics, name))));
            row
        })
        .collect();
    output::table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
}

/// `0.971 [0.950, 0.984]`; an interval that says nothing is left out.
pub fn metric(metric: &Metric) -> String {
    let [low, high] = metric.ci95;
    if low == f64::MIN && high == f64::MAX {
        return format!("{:.4}", metric.value);
    }
    format!("{:.4} [{low:.4}, {high:.4}]", metric.value)
}
