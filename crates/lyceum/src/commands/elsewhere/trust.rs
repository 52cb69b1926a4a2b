//! `attack`, `cascade`, `choose` and `privacy` through a server: data is brought, work is asked for and waited for.

use super::brought::{Brought, unless_refused};
use crate::commands::attack::{self, Attack};
use crate::commands::cascade::{self, CascadeCommand, What};
use crate::commands::choose::Choose;
use crate::commands::privacy::{AuditArgs, Privacy, PrivacyCommand};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::{Client, path_of};
use crate::{files, output};
use lyceum_types::cascade::{Cascade, CascadeReport};
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at work under way.
const LOOK: Duration = Duration::from_secs(1);
const SPEC_BYTES_MAX: u64 = 1 << 20;

/// Looks until the work has ended; Ctrl-C cancels it there.
async fn wait(context: &Context, client: &Client, path: &str, mut found: Value) -> Result<Value, Failure> {
    loop {
        match found["status"].as_str().unwrap_or_default() {
            "completed" | "done" => return Ok(found),
            "failed" | "cancelled" => {
                let status = found["status"].as_str().unwrap_or_default();
                let why = found["error"]["message"].as_str().or_else(|| found["error"].as_str());
                let message = format!("the server's work ended: {status}");
                let why = why.unwrap_or("it gives no reason").to_owned();
                return Err(Failure::new(Exit::Failed, "work_failed", message, why, "its log says more"));
            }
            _ => {}
        }
        if context.control.check().is_err() {
            client.post(&format!("{path}/cancel"), &json!({}))?;
            return Err(Failure::interrupted("the server was asked to end it"));
        }
        tokio::time::sleep(LOOK).await;
        found = client.get(path)?;
    }
}

pub(super) fn id_of(found: &Value) -> Result<&str, Failure> {
    found["id"].as_str().ok_or_else(|| {
        let why = "its answer has no id";
        Failure::new(Exit::Unreachable, "unreachable", "the server speaks otherwise", why, "check --url")
    })
}

impl Attack {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let _: ModelRef = self.model.parse()?;
        let mut body = json!({ "model": self.model, "seed": self.seed });
        if let Some(suite) = &self.suite {
            body["suite"] = Value::from(attack::suite_values(suite)?);
        }
        if let Some(rows) = self.rows {
            body["rows"] = json!(rows);
        }
        if let Some(other) = &self.compare_to {
            body["compare_to"] = json!(other);
        }
        for (name, bound) in [
            ("max_drop", self.max_drop),
            ("max_attack_success", self.max_attack_success),
            ("min_agreement", self.min_agreement),
        ] {
            if let Some(bound) = bound {
                body["gate"][name] = json!(bound);
            }
        }
        let bring =
            |data: &PathBuf| Brought::bring(client, (Path::new(""), &data.to_string_lossy()), "evals");
        let file = self.data.as_ref().map(bring).transpose()?;
        if let Some(file) = &file {
            body["data"] = json!(file.id);
        }
        let run = async {
            let started = client.post("/v1/robustness/runs", &body)?;
            let path = format!("/v1/robustness/runs/{}", path_of(id_of(&started)?));
            wait(context, client, &path, started).await
        };
        let done = run.await;
        let removed = file.map(|file| file.end(client));
        let done = done?;
        removed.transpose()?;
        if context.is_json() {
            output::json_line(&done);
        } else {
            show(&done);
        }
        let gate = &done["gate"];
        if gate.is_object() && gate["passed"] != true {
            let message = format!("{} does not pass the gate", self.model);
            let fix = "keep the other model, or train it otherwise and try again";
            return Err(Failure::new(Exit::Failed, "gate_refused", message, gate.to_string(), fix));
        }
        Ok(())
    }
}

fn show(run: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Number(number) => number.as_f64().map_or_else(String::new, |x| format!("{x:.4}")),
        Value::Array(ends) => {
            let ends: Vec<String> =
                ends.iter().filter_map(Value::as_f64).map(|x| format!("{x:.4}")).collect();
            format!("[{}]", ends.join(", "))
        }
        other => other.to_string(),
    };
    let row = |found: &Value| {
        ["metric", "method", "setting", "value", "ci95", "budget"].map(|field| text(&found[field])).to_vec()
    };
    let rows: Vec<Vec<String>> = run["results"].as_array().into_iter().flatten().map(row).collect();
    output::table(&["metric", "method", "setting", "value", "95 %", "budget"], &rows);
    if let Some(unit) = run["unit"].as_str() {
        output::text(format!("eps, sigma and distances are in: {unit}"));
    }
    output::text(format!("{} rows, seed {}", run["n"], run["seed"]));
    for flag in run["flags"].as_array().into_iter().flatten() {
        output::text(format!("sign {flag}"));
    }
    if run["gate"].is_object() {
        output::text(format!("gate: {}", run["gate"]));
    }
}

impl CascadeCommand {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let What::Create(create) = self.what;
        let mut body = json!({ "name": create.name, "small": create.small, "large": create.large,
            "alpha": create.alpha, "large_alpha": create.large_alpha, "escalated": create.escalated.as_str(),
            "instructions": create.instructions, "seed": create.seed });
        if let Some(labels) = &create.labels {
            body["choices"] = labels.iter().map(|label| json!({ "value": label })).collect();
        }
        if create.test.is_none() {
            body["held_out"] = json!(create.held_out);
        }
        let mut brought = Vec::new();
        let work = async {
            for (part, path) in [("data", Some(&create.data)), ("test", create.test.as_ref())] {
                let Some(path) = path else { continue };
                let kept = client.upload(path, "user_data")?;
                brought.push(id_of(&kept)?.to_owned());
                body[part] = kept["id"].clone();
            }
            let started = client.post("/v1/cascades", &body)?;
            let path = format!("/v1/cascades/{}", path_of(id_of(&started)?));
            wait(context, client, &path, started).await
        };
        let done = work.await;
        // The rows were brought for this cascade alone.
        let removed = removed(client, &brought);
        let done = done?;
        removed?;
        if context.is_json() {
            output::json_line(
                &json!({ "event": "done", "model": done["model"], "definition": done["definition"],
                "definition_sha256": done["sha256"], "report": done["report"] }),
            );
            return Ok(());
        }
        let otherwise = |error: serde_json::Error| {
            let why = format!("its answer is no cascade: {error}");
            let message = "the server speaks otherwise";
            Failure::new(Exit::Unreachable, "unreachable", message, why, "check --url")
        };
        let definition: Cascade = serde_json::from_value(done["definition"].clone()).map_err(otherwise)?;
        let report: CascadeReport = serde_json::from_value(done["report"].clone()).map_err(otherwise)?;
        output::text(done["model"].as_str().unwrap_or_default());
        cascade::for_people(&report, &definition);
        Ok(())
    }
}

impl Choose {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        if self.no_register || self.svg.is_some() {
            let why = "the server registers the winner, and draws nothing";
            return Err(Failure::usage(
                "--no-register and --svg do not go with --url",
                why,
                "leave them out",
            ));
        }
        let mut document = document(&self.spec)?;
        let folder = self.spec.parent().unwrap_or(Path::new("."));
        let mut brought = Vec::new();
        let mut bring = || {
            for part in ["train", "valid", "test"] {
                let Some(name) = document["data"][part].as_str().map(str::to_owned) else { continue };
                let file = Brought::bring(client, (folder, &name), "user_data")?;
                output::note(format!("{name} is {} there", file.id));
                document["data"][part] = json!(file.id);
                brought.push(file);
            }
            client.post("/v1/model_selections", &document)
        };
        let started = bring();
        let started = unless_refused(started, client, brought)?;
        let path = format!("/v1/model_selections/{}", path_of(id_of(&started)?));
        output::note(format!("{} is under way", id_of(&started)?));
        let done = wait(context, client, &path, started).await?;
        if context.is_json() {
            output::json_line(&done);
            return Ok(());
        }
        if let Some(nothing) = done["nothing_left"].as_str() {
            output::text(nothing);
        }
        let taken = &done["recommendation"];
        if let Some(sentence) = taken["sentence"].as_str() {
            output::text(sentence);
        }
        if let Some(model) = taken["model"].as_str() {
            output::text(format!("Registered as {model}."));
        }
        output::note("--json has every row, tie and interval");
        Ok(())
    }
}

/// A spec as a document, judged by the server.
pub(super) fn document(path: &Path) -> Result<Value, Failure> {
    let text = files::read_text(path, SPEC_BYTES_MAX)?;
    let read = if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        toml::from_str(&text).map_err(|error| error.to_string())
    };
    let wrong = |why: String| Failure::usage(format!("{} cannot be read", path.display()), why, "correct it");
    let document: Value = read.map_err(wrong)?;
    match &document["data"] {
        Value::Object(_) => Ok(document),
        _ => Err(wrong("it has no [data]".into())),
    }
}

impl AuditArgs {
    async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let mut brought = Vec::new();
        for path in [&self.members, &self.others] {
            match client.upload(path, "evals").and_then(|file| id_of(&file).map(str::to_owned)) {
                Ok(id) => brought.push(id),
                Err(failure) => {
                    removed(client, &brought)?;
                    return Err(failure);
                }
            }
        }
        let body = json!({ "model": self.model, "members": brought[0], "others": brought[1] });
        let run = async {
            let started = client.post("/v1/privacy/audits", &body)?;
            let path = format!("/v1/privacy/audits/{}", path_of(id_of(&started)?));
            wait(context, client, &path, started).await
        };
        let done = run.await;
        // The rows were brought for this audit alone.
        let removed = removed(client, &brought);
        let done = done?;
        removed?;
        if context.is_json() {
            output::json_line(&done);
            return Ok(());
        }
        let cells = |found: &Value| format!("{} {}", found["value"], found["ci95"]);
        let mut rows = vec![vec!["area under the curve".to_owned(), cells(&done["auc"])]];
        for at in done["tpr_at"].as_array().into_iter().flatten() {
            rows.push(vec![
                format!("members found where {} of others are accused", at["fpr"]),
                cells(&at["tpr"]),
            ]);
        }
        let title = format!("membership by {}", done["attack"].as_str().unwrap_or_default());
        output::table(&[&title, &self.model], &rows);
        if let Some(statement) = done["canaries"]["statement"].as_str() {
            output::text(statement);
        }
        Ok(())
    }
}

fn removed(client: &Client, brought: &[String]) -> Result<(), Failure> {
    brought.iter().try_for_each(|id| client.delete(&format!("/v1/files/{id}")).map(drop))
}

/// What was spent of each data file, as the command shows it where the data folder is.
fn ledger(found: &Value) {
    let row = |account: &Value| {
        let spent = &account["spent"];
        let number = |value: &Value| value.as_f64().map_or("∞".to_owned(), |x| format!("{x:.4}"));
        let n = |list: &Value| list.as_array().map_or(0, Vec::len);
        vec![
            account["data_sha256"].as_str().unwrap_or_default().chars().take(12).collect(),
            crate::commands::privacy::jobs(n(&account["ledger"]), n(&account["unprotected"])),
            number(&spent["epsilon"]),
            account["epsilon"].as_f64().map_or("none".to_owned(), |budget| budget.to_string()),
            spent["delta"].to_string(),
            spent["accountant"].as_str().unwrap_or_default().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = found["data"].as_array().into_iter().flatten().map(row).collect();
    output::table(&crate::commands::privacy::LEDGER, &rows);
}

impl Privacy {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let found = match self.command {
            PrivacyCommand::Epsilon(args) => {
                let body = json!({ "q": args.q, "sigma": args.sigma, "steps": args.steps, "delta": args.delta,
                    "accountant": args.accountant.wire() });
                client.post("/v1/privacy/epsilon", &body)?
            }
            PrivacyCommand::Sigma(args) => {
                let body = json!({ "epsilon": args.epsilon, "q": args.q, "steps": args.steps,
                    "delta": args.delta, "accountant": args.accountant.wire() });
                client.post("/v1/privacy/sigma", &body)?
            }
            PrivacyCommand::Ledger => {
                let found = client.get("/v1/privacy/budgets")?;
                if !context.is_json() {
                    ledger(&found);
                    return Ok(());
                }
                found
            }
            PrivacyCommand::Budget(args) => {
                let bytes = files::read_bytes(&args.file, limits::WEIGHT_FILE_BYTES_MAX)?;
                let body = json!({ "data_sha256": lyceum_train::checkpoint::digest(&bytes),
                    "epsilon": args.epsilon, "delta": args.delta, "accountant": args.accountant.wire() });
                client.post("/v1/privacy/budgets", &body)?
            }
            PrivacyCommand::Receipt(args) => return args.run(context, Some(client)),
            PrivacyCommand::Saw(_) => {
                let why = "the server knows files by their ids, and this one is here";
                let fix = "POST /v1/privacy/saw with the id of a file of /v1/files, or run it on the server's machine";
                return Err(Failure::usage("lyceum privacy saw cannot ask a server", why, fix));
            }
            PrivacyCommand::Audit(args) => return args.run_remote(context, client).await,
        };
        if context.is_json() {
            output::json_line(&found);
            return Ok(());
        }
        match (found["sigma"].as_f64(), found["epsilon"].as_f64()) {
            (Some(sigma), _) => output::text(format!("σ = {sigma:.4}")),
            (_, Some(epsilon)) => output::text(format!("ε = {epsilon:.4} at δ = {}", found["delta"])),
            _ => output::text(serde_json::to_string_pretty(&found).expect("JSON can be written: bug")),
        }
        Ok(())
    }
}
