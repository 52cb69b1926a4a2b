//! `lyceum cascade create NAME`: a small model where its prediction set has one label, else a large one.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use lyceum_service::cascades::{Ask, Created, Plan, Source};
use lyceum_service::{Payer, ServiceError};
use lyceum_types::cascade::{Cascade, CascadeManifest, CascadeReport, Escalated, MemberCost};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Cascades of two models.
#[derive(Debug, Args)]
pub struct CascadeCommand {
    #[command(subcommand)]
    pub(in crate::commands) what: What,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum What {
    /// Fit thresholds on labelled rows, measure on others, and publish the cascade as a version
    Create(Box<Create>),
}

#[derive(Debug, Args)]
pub(in crate::commands) struct Create {
    /// What it is to be called
    pub name: String,
    /// The model that answers where its prediction set has one label
    #[arg(long)]
    pub small: String,
    /// The model that is asked otherwise
    #[arg(long)]
    pub large: String,
    /// Rows that neither model was trained on, a line each: {"input": …, "label": …}
    #[arg(long)]
    pub data: PathBuf,
    /// Rows to measure on; without it a part of --data is held out
    #[arg(long)]
    pub test: Option<PathBuf>,
    /// The share of --data that is held out
    #[arg(long, default_value_t = 0.5, conflicts_with = "test")]
    pub held_out: f64,
    /// The most that P(small answers and is wrong) may be
    #[arg(long, default_value_t = 0.1)]
    pub alpha: f64,
    /// Of the large model's sets; --alpha where nothing is said
    #[arg(long)]
    pub large_alpha: Option<f64>,
    /// What becomes of a question that the small model does not answer
    #[arg(long, value_enum, default_value_t = Then::Answer)]
    pub escalated: Then,
    /// What a language model is asked
    #[arg(long)]
    pub instructions: Option<String>,
    /// The labels; those of a model that was trained here where nothing is said
    #[arg(long, value_delimiter = ',')]
    pub labels: Option<Vec<String>>,
    /// Of the split into calibration and held-out rows
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::commands) enum Then {
    /// The large model's likeliest label
    Answer,
    /// That and the large model's prediction set
    Set,
    /// That where the large model's set has one label, else no answer
    Abstain,
}

impl Then {
    pub fn as_str(self) -> &'static str {
        match self {
            Then::Answer => "answer",
            Then::Set => "set",
            Then::Abstain => "abstain",
        }
    }
}

impl CascadeCommand {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let What::Create(create) = self.what;
        create.run(context).await
    }
}

impl Create {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let store = context.store().await?;
        let service = crate::assemble::service(&context.config, store)?;
        let source = |path: PathBuf| Source { shown: path.display().to_string(), path: (&path).into() };
        let ask = Ask {
            name: self.name.parse()?,
            small: self.small.parse()?,
            large: self.large.parse()?,
            data: source(self.data),
            test: self.test.map(source),
            held_out: self.held_out,
            alpha: self.alpha,
            large_alpha: self.large_alpha,
            escalated: match self.escalated {
                Then::Answer => Escalated::Answer,
                Then::Set => Escalated::Set,
                Then::Abstain => Escalated::Abstain,
            },
            instructions: self.instructions,
            choices: self.labels.map(|labels| labels.into_iter().map(|label| (label, None)).collect()),
            seed: self.seed,
        };
        let payer = Payer::local(&context.project);
        let plan = match Plan::new(&service, &payer, ask).await {
            Ok(plan) => plan,
            Err(ServiceError::Invalid { param, code, message }) => return Err(wrong(&param, code, message)),
            Err(error) => return Err(context.told(service.store(), error).await),
        };
        let (small, large, n_calibration, n_held_out) = plan.shown();
        if !context.is_json() {
            output::note(format!(
                "{n_calibration} rows calibrate, {n_held_out} measure: asking {small} and {large}"
            ));
        }
        let created = match plan.carry_out(&service, &context.control).await {
            Err(ServiceError::Refused { code: "stopped", .. }) => {
                return Err(Failure::interrupted("no cascade was made"));
            }
            other => other?,
        };
        say(context, &created);
        Ok(())
    }
}

/// What is wrong, by the option that says it here.
fn wrong(param: &str, code: &'static str, message: String) -> Failure {
    let option = match param {
        "name" => "NAME".to_owned(),
        "choices" => "--labels".to_owned(),
        other => format!("--{}", other.replace('_', "-")),
    };
    let fix = match param {
        "choices" => "name the labels of the question, as in --labels yes,no".to_owned(),
        "small" | "large" => format!("name another model with {option}; lyceum ls lists them"),
        _ => format!("say another {option}; lyceum cascade create --help says what it takes"),
    };
    let mut failure = Failure::new(Exit::Failed, code, message, "no cascade can be made of it", fix);
    failure.place.key = Some(option);
    failure
}

fn say(context: &Context, created: &Created) {
    let Created { version, manifest, cascade } = created;
    if context.is_json() {
        let mut line = object(manifest, cascade);
        line["event"] = "done".into();
        line["model"] = version.id().into();
        line["path"] = version.dir.display().to_string().into();
        output::json_line(&line);
        return;
    }
    output::text(format!("{}  {}", version.id(), version.dir.display()));
    for_people(&manifest.report, cascade);
}

/// What a cascade is and what was measured of it, for programs.
pub fn object(manifest: &CascadeManifest, cascade: &Cascade) -> Value {
    json!({ "definition": cascade, "definition_sha256": manifest.definition_sha256, "report": manifest.report })
}

/// The same for people.
pub fn for_people(report: &CascadeReport, cascade: &Cascade) {
    let t = &cascade.small_set;
    output::text(format!(
        "{} answers where exactly one label has 1 - p <= {:.6} (the {}. of {} calibration scores, alpha = {}); else {} \
         ({})",
        cascade.small.model,
        t.threshold,
        t.rank,
        t.n,
        t.alpha,
        cascade.large.model,
        cascade.escalated.as_str()
    ));
    let rows: Vec<Vec<String>> = report
        .shares
        .iter()
        .map(|(name, m)| {
            vec![
                name.clone(),
                format!("{:.4}", m.value),
                format!("{:.4} - {:.4}", m.ci95[0], m.ci95[1]),
                m.n.to_string(),
            ]
        })
        .collect();
    output::table(&["held-out rows", "share", "95 % (Clopper-Pearson)", "n"], &rows);
    let cell = |cost: &MemberCost| {
        let usd =
            cost.micro_usd.map_or_else(|| "no price".to_owned(), |usd| format!("{:.6}", usd / 1e6 * 1000.0));
        vec![format!("{:.3}", cost.seconds * 1e3), format!("{:.1}", cost.input_tokens), usd]
    };
    let rows = ["small", "large", "cascade"].iter().filter_map(|name| {
        let cost = report.cost.get(*name)?;
        Some([vec![(*name).to_owned()], cell(cost)].concat())
    });
    output::table(&["an answer of", "ms", "tokens read", "USD for 1,000"], &rows.collect::<Vec<_>>());
    if let (Some(large), Some(both)) = (report.cost.get("large"), report.cost.get("cascade")) {
        let saved = 100.0 * (1.0 - both.seconds / large.seconds);
        output::text(format!("{saved:.1} % of the large model's time is saved, one question after another"));
    }
    output::text(&report.statement);
    output::text(format!(
        "with probability 0.95 over the calibration rows, the small model's set misses at most {:.4} of new rows",
        report.miscoverage_bound95
    ));
    output::text(&cascade.calibration.disjoint);
}
