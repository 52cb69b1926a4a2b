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
    let parents = all["parents"].as_array().map_or(&[][..], Vec::as_slice);
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
    for parent in parents {
        lines.push(format!("model {} (weights {})", text(&parent["id"]), short(&parent["weights_sha256"])));
    }
    let by = match (&all["job"], &all["imported_from"], parents) {
        (Value::String(job), ..) => format!("  └ {job}"),
        (_, Value::String(source), _) => format!("  └ imported from {source}"),
        // Calibration fits a number to a version that is there; a cascade asks several.
        (.., [parent]) => format!("  └ calibrated from {}", text(&parent["id"])),
        (.., []) => "  └ made by hand".to_owned(),
        _ => "  └ a cascade of them".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_made_a_version_is_told() {
        let parent = |id: &str| json!({"id": id, "weights_sha256": "ab"});
        let told =
            |all: Value| for_people(&all, "then").lines().find(|l| l.contains("  └")).unwrap().to_owned();
        for (all, expected) in [
            (json!({"job": "job_1", "parents": []}), "  └ job_1"),
            (json!({"imported_from": "a.gguf", "parents": [parent("b@1")]}), "  └ imported from a.gguf"),
            (json!({"parents": [parent("b@1")]}), "  └ calibrated from b@1"),
            (json!({"parents": [parent("b@1"), parent("c@1")]}), "  └ a cascade of them"),
            (json!({"parents": []}), "  └ made by hand"),
        ] {
            assert_eq!(told(all.clone()), expected, "{all}");
        }
    }
}
