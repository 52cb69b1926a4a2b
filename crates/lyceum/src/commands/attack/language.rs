//! `lyceum attack` of a language model: the run of the server's route, made here.

use super::{Attack, hash_of, not_kept, suite_values, unread};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, output};
use lyceum_api::robustness::language::{run_body, suite_of};
use lyceum_service::Payer;
use lyceum_service::card::measured::keep_language_run;
use lyceum_service::language::is_imported;
use lyceum_service::robustness::Finding;
use lyceum_service::robustness::language::{
    Asked, AskedTexts, Bounds, Item, Prompt, Run, Trial, default_suite, of_file,
};
use lyceum_store::models::{self, Version};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use std::time::Duration;

/// Between two looks at Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// The version, where a name means one that was imported.
pub(super) async fn asked(context: &Context, model: &str) -> Result<Option<Version>, Failure> {
    let reference: ModelRef = model.parse()?;
    let store = context.store().await?;
    match models::resolve(&store, &context.project, &reference).await {
        Ok(version) => Ok(is_imported(&version).then_some(version)),
        Err(error) => Err(context.explain(&store, error).await),
    }
}

impl Attack {
    pub(super) async fn run_language(self, context: &Context, version: &Version) -> Result<(), Failure> {
        let suite = match &self.suite {
            Some(path) => suite_of(&suite_values(path)?).map_err(|why| unread(path, why))?,
            None => default_suite(),
        };
        let texts = self.texts(&suite)?;
        let (service, _) = context.speaker(&version.id()).await?;
        let asked = Asked { model: version.id().parse()?, texts, suite, seed: self.seed };
        let payer = Payer::local(&context.project);
        let bounds = Bounds {
            max_attack_success: self.max_attack_success,
            min_agreement: self.min_agreement,
            max_drop: self.max_drop,
        };
        let other = self.compare_to.as_deref().map(str::parse::<ModelRef>).transpose()?;
        let work = async { Trial::new(&service, &payer, asked, (other, bounds)).await?.carry_out().await };
        let interrupted = async {
            while context.control.check().is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let tried = tokio::select! {
            tried = work => tried?,
            () = interrupted => return Err(Failure::interrupted("nothing is kept of a part of a run")),
        };
        if context.is_json() {
            let now = Timestamp::now();
            output::json_line(&run_body(&format!("rob_{:x}", now.millis()), now.seconds(), &tried));
        } else {
            [Some(&tried.ours), tried.theirs.as_ref()].into_iter().flatten().for_each(show);
        }
        // What was found counts, whether or not it can be kept.
        if let Err(failure) = self.keep(context, &tried.ours).await {
            not_kept(&tried.ours.model, &failure);
        }
        let Some(verdict) = &tried.verdict else { return Ok(()) };
        let Some(why) = verdict.why() else {
            if !context.is_json() {
                output::text("gate: passed");
            }
            return Ok(());
        };
        let message = format!("{} does not pass the gate", tried.ours.model);
        let fix = "keep the other model, guard the project (lyceum admin guard), or tune it and try again";
        Err(Failure::new(Exit::Failed, "gate_refused", message, why, fix))
    }

    /// It stands on the model's card from now on.
    async fn keep(&self, context: &Context, run: &Run) -> Result<(), Failure> {
        let reference: ModelRef = run.model.parse()?;
        let store = context.store().await?;
        let version = models::resolve(&store, &context.project, &reference).await?;
        let data = match &self.data {
            Some(path) => format!("{} texts of {} (sha256 {})", run.n, path.display(), hash_of(path)?),
            None => String::new(),
        };
        Ok(keep_language_run(&store, &version, run, &data, &self.again(&run.model)).await?)
    }

    fn texts(&self, suite: &[Item]) -> Result<AskedTexts, Failure> {
        let Some(path) = &self.data else {
            if suite.iter().all(|item| !item.reads_texts()) {
                return Ok(AskedTexts::None);
            }
            let why = "environments are compared over texts of yours";
            return Err(Failure::usage("there is no DATA", why, "name a file with a text a line"));
        };
        let bytes = files::read_bytes(path, limits::ROBUSTNESS_FILE_BYTES_MAX)?;
        let name = path.display().to_string();
        let prompts: Vec<Prompt> = of_file(&name, &bytes, self.rows).map_err(|why| {
            let fix = "write a text a line, or a file .jsonl of {\"prompt\", \"answer\"} or {\"messages\"}";
            Failure::usage(format!("{name} cannot be read"), why, fix)
        })?;
        Ok(AskedTexts::Inline(prompts))
    }
}

fn show(run: &Run) {
    let row = |f: &Finding| {
        let value = match f.ci95 {
            Some([low, high]) => format!("{:.4} [{low:.4}, {high:.4}]", f.value),
            None if f.value != 0.0 && f.value.abs() < 1e-3 => format!("{:.2e}", f.value),
            None => format!("{:.4}", f.value),
        };
        vec![f.setting.clone(), f.metric.to_owned(), value, f.n.to_string(), f.budget.clone()]
    };
    let rows: Vec<Vec<String>> = run.findings.iter().map(row).collect();
    output::table(&["where", "metric", &run.model, "n", "how"], &rows);
    output::text(format!(
        "{} texts, seed {}; intervals: Clopper-Pearson, of attacks Wilson, 95 %",
        run.n, run.seed
    ));
    let mut flags: Vec<(&str, &str)> =
        run.findings.iter().flat_map(|f| f.flags.iter().map(|flag| (&*f.setting, &**flag))).collect();
    flags.sort_unstable();
    flags.dedup();
    for (setting, flag) in flags {
        output::text(format!("{setting}: {flag}"));
    }
    if !run.transcripts.is_empty() {
        output::text(format!("{} attacks succeeded; --json has their chats", run.transcripts.len()));
    }
    if !run.not_evaluated.is_empty() {
        output::text(format!("not evaluated: {}", run.not_evaluated.join("; ")));
    }
}
