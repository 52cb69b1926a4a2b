//! `lyceum show MODEL`: the row and the manifest of a version.

use crate::commands::cascade as cascade_command;
use crate::commands::ls;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, output};
use clap::Args;
use lyceum_store::layout::MANIFEST;
use lyceum_store::models::{self, Version};
use lyceum_store::vault::KeyedPath;
use lyceum_types::cascade::{self, Cascade, CascadeManifest};
use lyceum_types::ids::ModelRef;
use lyceum_types::manifest::{FORMAT_VERSION, ImportedKind, ImportedManifest, Manifest, Metric};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The largest manifest that is read: row numbers of the parts are in it.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Args)]
pub struct Show {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
}

impl Show {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: ModelRef = self.model.parse()?;
        let store = context.store().await?;
        let version = match models::resolve(&store, &context.project, &reference).await {
            Ok(version) => version,
            Err(error) => return Err(context.explain(&store, error).await),
        };
        match (read_known(&version)?, context.is_json()) {
            (Known::Trained(manifest), true) => output::json_line(&object(&version, &manifest)),
            (Known::Trained(manifest), false) => for_people(&version, &manifest),
            (Known::Cascade(manifest, cascade), is_json) => {
                of_cascade(&version, (&manifest, &cascade), is_json)
            }
            (Known::Imported(manifest), true) => output::json_line(&imported_object(&version, &manifest)),
            (Known::Imported(manifest), false) => imported_for_people(&version, &manifest),
        }
        Ok(())
    }
}

/// What stands beside a version's weights.
pub enum Known {
    Trained(Box<Manifest>),
    /// It came from the files of another program.
    Imported(Box<ImportedManifest>),
    /// It has no weights: two other versions answer.
    Cascade(Box<CascadeManifest>, Box<Cascade>),
}

/// The manifest beside a version's weights.
pub fn read_known(version: &Version) -> Result<Known, Failure> {
    read_known_in(&version.dir, &version.id())
}

/// As [`read_known`], of a folder; `id` says whose it is.
pub fn read_known_in(dir: impl Into<KeyedPath>, id: &str) -> Result<Known, Failure> {
    let dir = dir.into();
    let path = dir.join(MANIFEST);
    let text = files::read_text(&path, MANIFEST_BYTES_MAX)?;
    let damaged = |why: String| {
        let message = format!("the manifest of {id} cannot be read");
        let fix = format!("lyceum rm {id}, then train or import it again");
        let mut failure = Failure::new(Exit::Failed, "damaged_model", message, why, fix);
        failure.place.file = Some(path.display().to_string());
        failure
    };
    if let Err(error) = models::check_manifest(&dir, text.as_bytes()) {
        return Err(damaged(error.to_string()));
    }
    let value: Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if let Some(format) = value["format_version"].as_u64().filter(|&n| n > u64::from(FORMAT_VERSION)) {
        return Err(damaged(format!("its format {format} is newer than {FORMAT_VERSION}")));
    }
    // A trained version's has no kind.
    let known = match value.get("kind") {
        Some(kind) if kind == cascade::FAMILY => {
            let definition = files::read_text(dir.join(cascade::DEFINITION), MANIFEST_BYTES_MAX)?;
            let both = serde_json::from_str(&text).and_then(|m| Ok((m, serde_json::from_str(&definition)?)));
            both.map(|(manifest, cascade)| Known::Cascade(Box::new(manifest), Box::new(cascade)))
        }
        Some(_) => serde_json::from_str(&text).map(|manifest| Known::Imported(Box::new(manifest))),
        None => serde_json::from_str(&text).map(|manifest| Known::Trained(Box::new(manifest))),
    };
    known.map_err(|error| damaged(error.to_string()))
}

fn of_cascade(version: &Version, (manifest, cascade): (&CascadeManifest, &Cascade), is_json: bool) {
    if !is_json {
        output::text(format!("{}  {}", version.id(), version.dir.display()));
        return cascade_command::for_people(&manifest.report, cascade);
    }
    let mut object = ls::line(version);
    if let (Value::Object(all), Value::Object(more)) =
        (&mut object, cascade_command::object(manifest, cascade))
    {
        all.extend(more);
        all.insert("path".into(), json!(version.dir.path()));
    }
    output::json_line(&object);
}

fn imported_object(version: &Version, manifest: &ImportedManifest) -> Value {
    let mut object = ls::line(version);
    let manifest = serde_json::to_value(manifest).expect("a manifest is plain data: bug");
    if let (Value::Object(object), Value::Object(manifest)) = (&mut object, manifest) {
        // What both say, the row says.
        let more = manifest.into_iter().filter(|(key, _)| !object.contains_key(key)).collect::<Vec<_>>();
        object.extend(more);
        object.insert("path".into(), json!(version.dir.path()));
    }
    object
}

fn imported_for_people(version: &Version, manifest: &ImportedManifest) {
    let row = |key: &str, value: String| vec![key.to_owned(), value];
    let kind = match manifest.kind {
        ImportedKind::Language => "continues texts",
        ImportedKind::Embedding => "makes vectors of texts",
        ImportedKind::Classifier => "gives numbers to texts",
        ImportedKind::Tagger => "gives a label to each token",
        ImportedKind::Adapter => "adds to a language model",
    };
    let mut rows = vec![
        row("model", version.id()),
        row("family", version.family.clone()),
        row("kind", kind.into()),
        row("parameters", version.n_params.to_string()),
        row("size", output::bytes(version.bytes)),
        row("format", manifest.format.clone()),
        row("loaded as", manifest.quant.clone().unwrap_or_else(|| "what its files hold".into())),
        row("context", manifest.context.to_string()),
        row("licence", manifest.licence.clone().unwrap_or_else(|| "not said in its files".into())),
        row("source", manifest.source.clone()),
        row("sha256", version.sha256.clone()),
        row("created", crate::time::for_people(version.created_at)),
        row("path", version.dir.display().to_string()),
    ];
    if let Some(base) = &manifest.base {
        rows.insert(3, row("base", format!("{} (weights with sha256 {})", base.model, base.sha256)));
    }
    output::table(&["", ""], &rows);
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
        "path": version.dir.path(),
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
