//! `lyceum choose SPEC`: race candidates, show what was measured, register the one that the rule takes.

mod show;
mod svg;
mod wire;

use crate::commands::train::read_document;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::progress::Progress;
use crate::training::{self, Plan};
use clap::Args;
use lyceum_choose::{Event, Selection, Watch};
use lyceum_store::selections;
use lyceum_types::clock::Timestamp;
use lyceum_types::spec::choose::ChooseSpec;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Choose {
    /// What to choose from, within which limits: TOML, or JSON where the name ends with .json
    spec: PathBuf,
    /// Also draw quality against cost into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure and recommend, but train no version to register
    #[arg(long)]
    no_register: bool,
}

impl Choose {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (spec, base_dir) = read_document(&self.spec, ChooseSpec::from_toml, ChooseSpec::from_json)?;
        let store = context.store().await?;
        let (control, is_json) = (context.control.clone(), context.is_json());
        let (asked, folder) = (spec.clone(), base_dir.clone());
        let work = move || {
            let mut told = Told { is_json, progress: Progress::new("choosing", is_json), n_runs: 0 };
            let found = lyceum_choose::choose(&asked, &folder, &mut told, &control);
            told.progress.finish();
            found
        };
        let done = tokio::task::spawn_blocking(work).await;
        let selection = done.map_err(|error| Failure::internal("the choice broke off", &error))??;

        let id = selections::new_id();
        let mut document = wire::document(&id, &spec, &selection, Timestamp::now());
        if let (Ok(taken), false) = (&selection.recommendation, self.no_register) {
            let plan = Plan { spec: taken.job.clone(), base_dir };
            let job = training::create(context, &store, &plan).await?;
            let outcome = training::carry_out(context, &store, &job, plan).await?;
            let line: Value = serde_json::from_str(&outcome)
                .map_err(|error| Failure::internal("the outcome of the job cannot be read", &error))?;
            wire::add_registered(&mut document, &line);
        }
        let bytes = serde_json::to_vec_pretty(&document).expect("a document is plain data: bug");
        let path = selections::save(&store, &context.project, &id, &bytes)?;
        if let Some(file) = &self.svg {
            std::fs::write(file, svg::draw(&spec.name, &selection))
                .map_err(|error| Failure::file("write", file, &error))?;
        }
        self.say(context, &selection, document, &path)
    }

    fn say(
        &self,
        context: &Context,
        selection: &Selection,
        mut document: Value,
        path: &std::path::Path,
    ) -> Result<(), Failure> {
        if context.is_json() {
            for row in document["rows"].as_array().into_iter().flatten() {
                let mut line = json!({ "event": "row" });
                if let (Value::Object(line), Value::Object(row)) = (&mut line, row) {
                    line.extend(row.clone());
                }
                output::json_line(&line);
            }
            document["path"] = Value::from(path.display().to_string());
            let mut line = json!({ "event": "done" });
            if let (Value::Object(line), Value::Object(document)) = (&mut line, document) {
                line.extend(document);
            }
            output::json_line(&line);
        } else {
            show::print(selection, &document, path);
        }
        match &selection.recommendation {
            Ok(_) => Ok(()),
            Err(sentence) => {
                let why = "every candidate breaks a limit of the document";
                let fix = "loosen that limit, or name smaller candidates";
                Err(Failure::new(Exit::Failed, "no_candidate", sentence.clone(), why, fix))
            }
        }
    }
}

/// Says what happens while it happens.
struct Told {
    is_json: bool,
    progress: Progress,
    n_runs: u64,
}

impl Watch for Told {
    fn event(&mut self, event: &Event<'_>) {
        if self.is_json {
            output::json_line(&wire::event(event));
            return;
        }
        match event {
            Event::Entered(row) => {
                if let Some(out) = show::why_out(row) {
                    self.progress.note(&format!("{} does not run: {out}", row.name));
                }
            }
            Event::Ran { name, run, ended } => {
                self.n_runs += 1;
                let what =
                    format!("{name}, seed {}, {:.0} % of the training", run.seed + 1, run.share * 100.0);
                match ended {
                    Ok(trial) => {
                        self.progress.at(self.n_runs, self.n_runs, &format!("{what}: {:.1} s", trial.seconds))
                    }
                    Err(out) => self.progress.note(&format!("{what}: {}", show::out(out))),
                }
            }
            Event::Measuring { finalists } => self.progress.note(&format!("measuring {finalists} finalists")),
        }
    }
}
