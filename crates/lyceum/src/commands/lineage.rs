//! `lyceum lineage MODEL`: from the bytes of the data to the names that are served.

use crate::commands::show::{Known, read_known};
use crate::context::Context;
use crate::failure::Failure;
use crate::{output, time};
use clap::Args;
use lyceum_store::{models, registry};
use lyceum_types::ids::ModelRef;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Lineage {
    /// `name`, `name@VERSION` or `name@alias`
    model: String,
}

impl Lineage {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: ModelRef = self.model.parse()?;
        let store = context.store().await?;
        let version = match models::resolve(&store, &context.project, &reference).await {
            Ok(version) => version,
            Err(error) => return Err(context.explain(&store, error).await),
        };
        let (origin, parents, data) = match read_known(&version)? {
            Known::Trained(manifest) => {
                let data = manifest.data.iter().map(|file| {
                    json!({ "role": file.role, "path": file.path, "sha256": file.sha256, "rows": file.rows })
                });
                let calibrated = manifest.calibration.as_ref();
                let parents =
                    calibrated.map(|c| json!({ "id": c.parent, "weights_sha256": c.parent_sha256 }));
                (Value::Null, parents.into_iter().collect::<Vec<_>>(), data.collect::<Vec<_>>())
            }
            Known::Imported(manifest) => {
                let files = manifest
                    .files
                    .iter()
                    .map(|(name, sha256)| json!({ "role": "file", "path": name, "sha256": sha256 }));
                (json!(manifest.source), Vec::new(), files.collect())
            }
        };
        let aliases = registry::aliases(&store, &context.project, &version.name).await?;
        let aliases: Vec<_> =
            aliases.iter().filter(|a| a.version == version.number).map(|a| a.alias.to_string()).collect();
        let events = registry::history(&store, &context.project, &version.name).await?;
        let approved: Vec<_> = events
            .iter()
            .filter(|event| event.kind == registry::EventKind::Approved && event.version == version.number)
            .map(|event| json!({ "actor": event.actor, "note": event.note, "at": event.at.seconds() }))
            .collect();
        let all = json!({
            "model": version.id(),
            "weights_sha256": version.sha256,
            "created": version.created_at.seconds(),
            "data": data,
            "job": version.job.as_ref().map(|job| job.as_str()),
            "imported_from": origin,
            "parents": parents,
            "held": version.held,
            "approvals": approved,
            "aliases": aliases,
        });
        if context.is_json() {
            output::json_line(&all);
        } else {
            output::text(for_people(&all, &time::for_people(version.created_at)));
        }
        Ok(())
    }
}

fn for_people(all: &Value, created: &str) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let short = |value: &Value| text(value).chars().take(12).collect::<String>();
    let mut lines = Vec::new();
    for file in all["data"].as_array().into_iter().flatten() {
        let rows = file["rows"].as_u64().map_or_else(String::new, |rows| format!(", {rows} rows"));
        lines.push(format!(
            "{} {} (sha256 {}{rows})",
            text(&file["role"]),
            text(&file["path"]),
            short(&file["sha256"])
        ));
    }
    for parent in all["parents"].as_array().into_iter().flatten() {
        lines.push(format!("model {} (weights {})", text(&parent["id"]), short(&parent["weights_sha256"])));
    }
    let by = match (&all["job"], &all["imported_from"]) {
        (Value::String(job), _) => format!("  └ {job}"),
        (_, Value::String(source)) => format!("  └ imported from {source}"),
        _ => "  └ made by hand".to_owned(),
    };
    lines.push(by);
    lines.push(format!(
        "     └ {} (weights {}, {created})",
        text(&all["model"]),
        short(&all["weights_sha256"])
    ));
    if let Some(why) = all["held"].as_str() {
        lines.push(format!("        held back: {why}"));
    }
    for approval in all["approvals"].as_array().into_iter().flatten() {
        lines.push(format!("        approved by {}: {}", text(&approval["actor"]), text(&approval["note"])));
    }
    for alias in all["aliases"].as_array().into_iter().flatten() {
        lines.push(format!("        └ @{}", text(alias)));
    }
    lines.join("\n")
}
