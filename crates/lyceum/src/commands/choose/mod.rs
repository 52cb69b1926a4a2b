//! `lyceum choose SPEC`: race candidates, show what was measured, register the one that the rule takes.

mod answers;
pub mod job;
mod show;
mod svg;
mod wire;

use crate::commands::train::read_document;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use lyceum_service::selections::Plan;
use lyceum_types::spec::choose::ChooseSpec;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Choose {
    /// What to choose from, within which limits: TOML, or JSON where the name ends with .json
    pub(in crate::commands) spec: PathBuf,
    /// Also draw quality against cost into this file
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) svg: Option<PathBuf>,
    /// Measure and recommend, but train no version to register
    #[arg(long)]
    pub(in crate::commands) no_register: bool,
}

impl Choose {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (spec, base_dir) = read_document(&self.spec, ChooseSpec::from_toml, ChooseSpec::from_json)?;
        let store = context.store().await?;
        let plan = Plan { spec, base_dir, registers: !self.no_register };
        let claim = job::begin(context, &store, &plan).await?;
        let id = claim.id();
        if !context.is_json() {
            output::note(format!("{id}; if it is ended, lyceum jobs resume {id} begins the race anew"));
        }
        let chosen = job::carry_out(context, &store, &claim, &plan).await?;
        if let Some(file) = &self.svg {
            std::fs::write(file, svg::draw(&plan.spec.name, &chosen.selection))
                .map_err(|error| Failure::file("write", file, &error))?;
        }
        job::say(context, chosen)
    }
}
