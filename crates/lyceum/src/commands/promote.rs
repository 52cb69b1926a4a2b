//! `lyceum promote NAME@N`

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use lyceum_store::models;
use lyceum_types::ids::{ModelRef, VersionRef};
use serde_json::json;

/// A version that its gate held back is served under its bare name from now on, as long as no newer one is.
#[derive(Debug, Args)]
pub struct Promote {
    /// `name@VERSION`
    model: String,
}

impl Promote {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: ModelRef = self.model.parse()?;
        let VersionRef::Number(number) = reference.version else {
            let why = "a promotion is of one version, and the bare name means the one that is served already";
            return Err(Failure::usage(
                format!("{} names no version by number", self.model),
                why,
                "write NAME@2",
            ));
        };
        let store = context.store().await?;
        let before = match models::promote(&store, &context.project, &reference.name, number).await {
            Ok(before) => before,
            Err(error) => return Err(context.explain(&store, error).await),
        };
        let name = ModelRef { name: reference.name, version: VersionRef::Latest };
        let served = models::resolve(&store, &context.project, &name).await?;
        if context.is_json() {
            output::json_line(&json!({
                "event": "done", "model": before.id(), "was_held": before.held, "served": served.id(),
            }));
            return Ok(());
        }
        match &before.held {
            Some(why) => output::text(format!("{} is no longer held ({why})", before.id())),
            None => output::text(format!("{} was not held", before.id())),
        }
        output::text(format!("{} serves {}", name.name, served.id()));
        Ok(())
    }
}
