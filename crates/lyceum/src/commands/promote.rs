//! `lyceum promote NAME@N`

use crate::commands::alias;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::remote::{Client, path_of};
use clap::Args;
use lyceum_service::registry;
use serde_json::json;

/// A version that its gate held back is served under its bare name from now on, as long as no newer one is.
#[derive(Debug, Args)]
pub struct Promote {
    /// `name@VERSION`
    model: String,
}

impl Promote {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (name, number) = alias::numbered(&self.model)?;
        let store = context.store().await?;
        let act = alias::act(String::new());
        let done = match registry::promote(&store, &context.project, &name, number, &act).await {
            Ok(done) => done,
            Err(error) => return Err(context.told(&store, error).await),
        };
        say(context, &done.before.id(), done.before.held.as_deref(), &done.served.id());
        Ok(())
    }

    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        alias::numbered(&self.model)?;
        let done = client.post(&format!("/v1/models/{}/promote", path_of(&self.model)), &json!({}))?;
        let text = |field: &str| done[field].as_str();
        say(context, text("id").unwrap_or_default(), text("was_held"), text("served").unwrap_or_default());
        Ok(())
    }
}

fn say(context: &Context, model: &str, was_held: Option<&str>, served: &str) {
    if context.is_json() {
        output::json_line(
            &json!({ "event": "done", "model": model, "was_held": was_held, "served": served }),
        );
        return;
    }
    match was_held {
        Some(why) => output::text(format!("{model} is no longer held ({why})")),
        None => output::text(format!("{model} was not held")),
    }
    // `org/name@3` is served as `org/name`.
    let name = served.split('@').next().unwrap_or(served);
    output::text(format!("{name} serves {served}"));
}
