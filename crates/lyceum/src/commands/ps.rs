//! `lyceum ps` and `lyceum stop`: which imported models a running server has in memory, and letting one go.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::remote::{Server, path_of};
use clap::Args;
use serde_json::Value;

#[derive(Debug, Args)]
pub struct Ps {
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Stop {
    /// The model: `name`, `name@3` or `name@alias`
    model: String,
    #[command(flatten)]
    server: Server,
}

impl Ps {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let found = self.server.client(context)?.get("/v1/residents")?;
        if context.is_json() {
            output::json_line(&found);
            return Ok(());
        }
        let row = |model: &Value| {
            vec![
                model["id"].as_str().unwrap_or_default().to_owned(),
                model["family"].as_str().unwrap_or_default().to_owned(),
                output::bytes(model["bytes"].as_u64().unwrap_or_default()),
                model["parent"].as_str().unwrap_or_default().to_owned(),
                format!("{:.0} s", model["idle_seconds"].as_f64().unwrap_or_default()),
            ]
        };
        let rows: Vec<Vec<String>> = found["data"].as_array().into_iter().flatten().map(row).collect();
        if rows.is_empty() {
            output::note("no imported model is in memory: the first request for one loads it");
        }
        output::table(&["model", "family", "weights", "adds to", "idle"], &rows);
        Ok(())
    }
}

impl Stop {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        // What is no reference to a model cannot be part of a path either.
        let _: lyceum_types::ids::ModelRef = self.model.parse()?;
        let path = format!("/v1/residents/{}", path_of(&self.model));
        let gone = self.server.client(context)?.delete(&path).map_err(|mut failure| {
            if failure.exit == Exit::NotFound {
                failure.fix = "lyceum ps shows the imported models that this server has in memory".into();
            }
            failure
        })?;
        if context.is_json() {
            output::json_line(&gone);
        } else {
            output::text(format!("{} is no longer in memory", gone["id"].as_str().unwrap_or_default()));
        }
        Ok(())
    }
}
