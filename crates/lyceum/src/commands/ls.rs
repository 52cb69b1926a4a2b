//! `lyceum ls`

use crate::context::Context;
use crate::failure::Failure;
use crate::{output, time};
use clap::Args;
use lyceum_store::models::{self, Version};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Ls {}

impl Ls {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let store = context.store().await?;
        let versions = models::list(&store, &context.project).await?;
        if context.is_json() {
            let models: Vec<Value> = versions.iter().map(line).collect();
            output::json_line(&json!({ "models": models }));
            return Ok(());
        }
        if versions.is_empty() {
            output::note("no models yet: lyceum quickstart trains some, lyceum train SPEC one of yours");
        }
        let row = |version: &Version| {
            vec![
                version.id(),
                version.family.clone(),
                version.task.clone(),
                version.n_params.to_string(),
                output::bytes(version.bytes),
                version.sha256.chars().take(12).collect(),
                time::for_people(version.created_at),
                version.held.as_ref().map_or_else(String::new, |_| "held".to_owned()),
            ]
        };
        let header = ["model", "family", "task", "params", "size", "sha256", "created", "gate"];
        output::table(&header, &versions.iter().map(row).collect::<Vec<_>>());
        Ok(())
    }
}

/// A version as programs see it.
pub fn line(version: &Version) -> Value {
    json!({
        "name": version.name.as_str(),
        "version": version.number,
        "family": version.family,
        "task": version.task,
        "params": version.n_params,
        "bytes": version.bytes,
        "sha256": version.sha256,
        "created": version.created_at.seconds(),
        "held": version.held,
    })
}
