//! `lyceum lineage MODEL`: from the bytes of the data to the names that are served.

use crate::context::Context;
use crate::failure::Failure;
use crate::remote::{Client, path_of};
use crate::{output, time};
use clap::Args;
use lyceum_api::registry::LineageBody;
use lyceum_service::registry;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::ModelRef;
use serde_json::Value;

#[derive(Debug, Args)]
pub struct Lineage {
    /// `name`, `name@VERSION` or `name@alias`
    model: String,
}

impl Lineage {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: ModelRef = self.model.parse()?;
        let store = context.store().await?;
        let lineage = match registry::lineage(&store, &context.project, &reference).await {
            Ok(lineage) => lineage,
            Err(error) => return Err(context.told(&store, error).await),
        };
        let all = serde_json::to_value(LineageBody::from(lineage)).expect("a lineage is plain data: bug");
        say(context, &all);
        Ok(())
    }

    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let _: ModelRef = self.model.parse()?;
        say(context, &client.get(&format!("/v1/models/{}/lineage", path_of(&self.model)))?);
        Ok(())
    }
}

fn say(context: &Context, all: &Value) {
    if context.is_json() {
        output::json_line(all);
        return;
    }
    let created = Timestamp::from_millis(all["created"].as_i64().unwrap_or_default().saturating_mul(1000));
    output::text(for_people(all, &time::for_people(created)));
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
