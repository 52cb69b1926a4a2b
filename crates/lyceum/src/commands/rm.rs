//! `lyceum rm MODEL`

use crate::commands::alias;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use lyceum_store::models;
use lyceum_store::registry::Act;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::ModelRef;
use serde_json::json;

#[derive(Debug, Args)]
pub struct Rm {
    /// `name@VERSION`; a name alone is the version that it serves
    model: String,
}

impl Rm {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: ModelRef = self.model.parse()?;
        let store = context.store().await?;
        let act = Act { actor: alias::user(), note: String::new(), now: Timestamp::now() };
        let version = match models::delete(&store, &context.project, &reference, &act).await {
            Ok(version) => version,
            Err(error) => return Err(context.explain(&store, error).await),
        };
        if context.is_json() {
            output::json_line(&json!({ "event": "done", "model": version.id() }));
        } else {
            output::text(format!("removed {} ({})", version.id(), output::bytes(version.bytes)));
        }
        Ok(())
    }
}
