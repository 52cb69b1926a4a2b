//! `lyceum attack MODEL [DATA] --suite FILE`

mod language;

use crate::commands::show;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, output};
use clap::Args;
use lyceum_api::robustness::{RunBody, suite_of};
use lyceum_service::card::measured;
use lyceum_service::robustness::{self, Gate, Item, Run, file};
use lyceum_service::{Resident, Service, ServiceError};
use lyceum_train::checkpoint::digest;
use lyceum_types::clock::Timestamp;
use lyceum_types::limits;
use lyceum_types::manifest::Metric;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct Attack {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// Rows with their labels, in the format that the model was trained on; of a language model a text a line, or a file
    /// `.jsonl` of texts, {"prompt", "answer"} and {"messages"}
    pub(in crate::commands) data: Option<PathBuf>,
    /// A JSON or TOML file with `suite = [{ type = "pgd", norm = "linf", eps = 0.1, steps = 40, restarts = 3 }, …]`;
    /// without it that one attack. Types: fgsm, pgd, apgd-ce, apgd-t, fab-t, square, autoattack, certificate,
    /// smoothing, corruptions, text, tabular, audio, environments, calibration; of a language model environments, red_team
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) suite: Option<PathBuf>,
    /// Only the first N rows
    #[arg(long, value_name = "N")]
    pub(in crate::commands) rows: Option<usize>,
    #[arg(long, default_value_t = 0)]
    pub(in crate::commands) seed: u64,
    /// Another model that gets the same rows and suite; the command fails (exit 1) where an accuracy is lower by
    /// more than --max-drop (of language models: token agreement, or the share of attacks that it resists)
    #[arg(long, value_name = "MODEL", requires = "max_drop")]
    pub(in crate::commands) compare_to: Option<String>,
    #[arg(long, value_name = "DROP", requires = "compare_to")]
    pub(in crate::commands) max_drop: Option<f64>,
    /// Of a language model: the command fails (exit 1) where attacks succeed in more than this share of all chats
    #[arg(long, value_name = "SHARE")]
    pub(in crate::commands) max_attack_success: Option<f64>,
    /// Of a language model: the command fails (exit 1) where an environment's token agreement is lower
    #[arg(long, value_name = "SHARE")]
    pub(in crate::commands) min_agreement: Option<f64>,
}

impl Attack {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(version) = language::asked(context, &self.model).await? {
            return self.run_language(context, &version).await;
        }
        if self.max_attack_success.is_some() || self.min_agreement.is_some() {
            let why = "--max-attack-success and --min-agreement are bounds of language models";
            let fix = "use --compare-to OTHER --max-drop DROP";
            return Err(Failure::usage(format!("{} was trained here", self.model), why, fix));
        }
        let items = match &self.suite {
            Some(path) => read_suite(path)?,
            None => robustness::default_suite()?,
        };
        let items = Arc::new(items);
        let tried = self.try_model(context, &self.model, &items).await?;
        let ours = &tried.run;
        let gate = match (&self.compare_to, self.max_drop) {
            (Some(other), Some(max_drop)) => {
                let theirs = self.try_model(context, other, &items).await?;
                Some(robustness::gate(ours, &theirs.run, max_drop)?)
            }
            _ => None,
        };
        if context.is_json() {
            let now = Timestamp::now();
            let body = RunBody::new(&format!("rob_{:x}", now.millis()), now.seconds(), ours, gate.as_ref());
            let value = serde_json::to_value(body)
                .map_err(|error| Failure::internal("the run cannot be written", &error))?;
            output::json_line(&value);
        } else {
            show_run(ours, gate.as_ref());
        }
        // What was found counts, whether or not it can be kept.
        if let Err(failure) = tried.keep().await {
            not_kept(&ours.model, &failure);
        }
        match gate {
            Some(gate) if !gate.passed => Err(refused(ours, &gate)),
            _ => Ok(()),
        }
    }

    /// The command that runs it again.
    fn again(&self, model: &str) -> String {
        let mut command = format!("lyceum attack {model}");
        if let Some(data) = &self.data {
            command += &format!(" {}", data.display());
        }
        if let Some(suite) = &self.suite {
            command += &format!(" --suite {}", suite.display());
        }
        if let Some(rows) = self.rows {
            command += &format!(" --rows {rows}");
        }
        format!("{command} --seed {}", self.seed)
    }

    async fn try_model(
        &self,
        context: &Context,
        model: &str,
        items: &Arc<Vec<Item>>,
    ) -> Result<Tried, Failure> {
        let (service, resident) = context.resident(model).await?;
        let tried = resident.clone();
        let (control, items, seed) = (context.control.clone(), items.clone(), self.seed);
        let missing = || {
            let why = "a model that was trained here is tried on rows with their labels";
            Failure::usage("there is no DATA", why, format!("lyceum attack {model} FILE"))
        };
        let (path, n_max) = (self.data.clone().ok_or_else(missing)?, self.rows);
        let command = self.again(&resident.version.id());
        let work = move || -> Result<(Run, String), Failure> {
            let rows = file::rows(&tried, &path, n_max, &control)?;
            let run =
                robustness::run(&tried, &rows, &items, seed, &control).map_err(|error| match error {
                    // The only deadline here is Ctrl-C.
                    ServiceError::DeadlinePassed => {
                        Failure::interrupted("nothing is kept of a part of a run")
                    }
                    other => other.into(),
                })?;
            let data = format!("{} rows of {} (sha256 {})", run.n, path.display(), hash_of(&path)?);
            Ok((run, data))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let (run, data) = done.map_err(|error| Failure::internal("the attack broke off", &error))??;
        Ok(Tried { service, resident, run, data, command })
    }
}

/// A run, and what its model's card says of it.
struct Tried {
    service: Arc<Service>,
    resident: Arc<Resident>,
    run: Run,
    data: String,
    command: String,
}

impl Tried {
    /// It stands on the model's card from now on.
    async fn keep(&self) -> Result<(), Failure> {
        let Tried { service, resident, run, data, command } = self;
        Ok(measured::keep_run(service.store(), resident, run, data, command).await?)
    }
}

fn not_kept(model: &str, failure: &Failure) {
    let (message, why, fix) = (&failure.message, &failure.why, &failure.fix);
    output::note(format!("warning: what was found is not on the card of {model}: {message}: {why}; {fix}"));
}

fn hash_of(path: &Path) -> Result<String, Failure> {
    Ok(match path.is_file() {
        true => digest(&files::read_bytes(path, limits::WEIGHT_FILE_BYTES_MAX)?),
        false => "not_applicable: a folder".to_owned(),
    })
}

fn read_suite(path: &Path) -> Result<Vec<Item>, Failure> {
    let items = suite_values(path)?;
    suite_of(&items).map_err(|why| unread(path, why))
}

/// The items of a suite, unread.
pub fn suite_values(path: &Path) -> Result<Vec<Value>, Failure> {
    let wrong = |why: String| unread(path, why);
    let text = std::fs::read_to_string(path).map_err(|error| {
        let mut failure = wrong(error.to_string());
        failure.exit = Exit::NotFound;
        failure
    })?;
    let document: Value = if path.extension().is_some_and(|extension| extension == "toml") {
        toml::from_str(&text).map_err(|error| wrong(error.to_string()))?
    } else {
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?
    };
    match document {
        Value::Array(items) => Ok(items),
        Value::Object(mut table) if table.keys().all(|key| key == "suite") => match table.remove("suite") {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(wrong("suite is no list".into())),
        },
        _ => Err(wrong("there must be one key, suite".into())),
    }
}

fn unread(path: &Path, why: String) -> Failure {
    Failure::usage(
        format!("the suite {} cannot be read", path.display()),
        why,
        "write suite = [{ type = \"pgd\", norm = \"linf\", eps = 0.1 }] (TOML), or the same as JSON",
    )
}

fn refused(run: &Run, gate: &Gate) -> Failure {
    let message = format!("{} does not pass the gate beside {}", run.model, gate.compared_to);
    let why = gate.why().unwrap_or_default();
    let mut failure =
        Failure::usage(message, why, "keep the other model, or train with train.robust and try again");
    failure.exit = Exit::Failed;
    failure.code = "gate_refused".into();
    failure
}

fn show_run(run: &Run, gate: Option<&Gate>) {
    let row = |f: &robustness::Finding| {
        let value = match f.ci95 {
            Some(ci95) => show::metric(&Metric { value: f.value, ci95, n: f.n }),
            None => format!("{:.4}", f.value),
        };
        vec![f.metric.to_owned(), f.method.clone(), f.setting.clone(), value, f.budget.clone()]
    };
    let rows: Vec<Vec<String>> = run.findings.iter().map(row).collect();
    output::table(&["metric", "method", "setting", &run.model, "budget"], &rows);
    if let Some(unit) = &run.unit {
        output::text(format!("eps, sigma and distances are in: {unit}"));
    }
    output::text(format!("{} rows, seed {}; intervals: Clopper-Pearson, 95 %", run.n, run.seed));
    for sign in &run.signs {
        use lyceum_robust::attack::FlagState;
        let state = match sign.state {
            FlagState::Clear => "clear",
            FlagState::Raised => "RAISED",
            FlagState::NotEvaluated => "not evaluated",
        };
        output::text(format!("sign {}: {state} ({})", sign.name, sign.detail));
    }
    if !run.not_evaluated.is_empty() {
        output::text(format!("not evaluated: {}", run.not_evaluated.join(", ")));
    }
    if let Some(gate) = gate {
        let word = if gate.passed { "passed" } else { "refused" };
        output::text(format!("gate beside {}: {word} (max_drop {})", gate.compared_to, gate.max_drop));
    }
}
