//! `lyceum rm MODEL`

use crate::commands::alias;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::remote::{Client, path_of};
use clap::Args;
use lyceum_service::registry::{self, Doomed};
use lyceum_types::ids::{ModelRef, VersionRef};
use serde_json::json;

#[derive(Debug, Args)]
pub struct Rm {
    /// `name@VERSION`; a name alone is the version that it serves
    model: String,
    /// Every version of the name
    #[arg(long)]
    all: bool,
}

impl Rm {
    fn doomed(&self) -> Result<Doomed, Failure> {
        let reference: ModelRef = self.model.parse()?;
        match (self.all, &reference.version) {
            (false, _) => Ok(Doomed::Version(reference)),
            (true, VersionRef::Latest) => Ok(Doomed::Name(reference.name)),
            (true, _) => {
                let why = "--all is of a name, and this is one version";
                Err(Failure::usage(format!("{reference} has no versions"), why, "write the name alone"))
            }
        }
    }

    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let doomed = self.doomed()?;
        let store = context.store().await?;
        let act = alias::act(String::new());
        let gone = match registry::delete(&store, &context.project, &doomed, &act).await {
            Ok(gone) => gone,
            Err(error) => return Err(context.told(&store, error).await),
        };
        for version in gone {
            if context.is_json() {
                output::json_line(&json!({ "event": "done", "model": version.id() }));
            } else {
                output::text(format!("removed {} ({})", version.id(), output::bytes(version.bytes)));
            }
        }
        Ok(())
    }

    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let id = match self.doomed()? {
            Doomed::Name(name) => name.to_string(),
            // A name alone would be all its versions there.
            Doomed::Version(reference) => {
                let found = client.get(&format!("/v1/models/{}", path_of(&reference.to_string())))?;
                found["root"].as_str().unwrap_or_default().to_owned()
            }
        };
        let gone = client.delete(&format!("/v1/models/{}", path_of(&id)))?;
        if context.is_json() {
            output::json_line(&json!({ "event": "done", "model": gone["id"] }));
        } else {
            output::text(format!("removed {id}"));
        }
        Ok(())
    }
}
