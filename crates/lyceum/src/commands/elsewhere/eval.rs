//! `eval` through a server: the rows are brought for this evaluation alone, and what was measured is told as it is here.

use super::brought::{Brought, patiently};
use crate::commands::eval::{Eval, Told, tell};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::Client;
use lyceum_types::ids::ModelRef;
use serde_json::json;
use std::path::Path;

impl Eval {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let _: ModelRef = self.model.parse()?;
        let rows = Brought::bring(client, (Path::new(""), &self.data.to_string_lossy()), "evals")?;
        let body = json!({ "model": self.model, "file": rows.id });
        let asking = client.clone();
        let found = patiently(context, move || asking.post("/v1/evaluations", &body)).await;
        let removed = rows.end(client);
        let found = found?;
        removed?;
        let told: Told = serde_json::from_value(found).map_err(|error| {
            let why = format!("its answer is no evaluation: {error}");
            let message = "the server speaks otherwise";
            Failure::new(Exit::Unreachable, "unreachable", message, why, "check --url")
        })?;
        tell(context, &told);
        Ok(())
    }
}
