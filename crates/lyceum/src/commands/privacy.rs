//! `lyceum privacy epsilon|sigma|ledger|budget|audit|saw|receipt`: the calculator, what was taken of each data set, what
//! an attack finds, and which models saw a row.

mod lines;
mod receipt;

use crate::context::{Context, Speaker};
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use lyceum_privacy::account::ADJACENCY;
use lyceum_privacy::calibrate::Target;
use lyceum_privacy::{Accountant, Event, PrivacyError, epsilon, membership, sigma};
use lyceum_service::audits;
use lyceum_service::card::measured::{Costly, keep_membership};
use lyceum_service::privacy::{Account, together};
use lyceum_service::saw::{self, Wanted};
use lyceum_service::tenancy::Act;
use lyceum_store::privacy::{self, Budget};
use lyceum_train::TrainError;
use lyceum_types::clock::Timestamp;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Privacy {
    #[command(subcommand)]
    pub(in crate::commands) command: PrivacyCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum PrivacyCommand {
    /// What steps of noisy training cost
    Epsilon(EpsilonArgs),
    /// The noise for a cost
    Sigma(SigmaArgs),
    /// What was taken of each data set, and its budget
    Ledger,
    /// Set what may be learnt from a data file, over all jobs
    Budget(BudgetArgs),
    /// How well losses tell rows that a model was trained on from rows that it was not; kept for its card and its
    /// privacy report
    Audit(AuditArgs),
    /// Which models saw a row of a data file
    Saw(SawArgs),
    /// Check the signed receipt of an answer (X-Privacy-Receipt), and that it is of this request and answer
    Receipt(receipt::ReceiptArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::commands) enum AccountantName {
    Rdp,
    Pld,
}

impl AccountantName {
    /// As requests name it.
    pub(in crate::commands) fn wire(self) -> &'static str {
        match self {
            AccountantName::Rdp => "rdp",
            AccountantName::Pld => "pld",
        }
    }
}

impl From<AccountantName> for Accountant {
    fn from(name: AccountantName) -> Self {
        match name {
            AccountantName::Rdp => Accountant::Rdp,
            AccountantName::Pld => Accountant::Pld,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::commands) struct EpsilonArgs {
    /// The probability with which a step draws an example
    #[arg(long)]
    pub(in crate::commands) q: f64,
    /// The noise's deviation over the clipping norm
    #[arg(long)]
    pub(in crate::commands) sigma: f64,
    #[arg(long)]
    pub(in crate::commands) steps: u64,
    #[arg(long)]
    pub(in crate::commands) delta: f64,
    #[arg(long, value_enum, default_value = "pld")]
    pub(in crate::commands) accountant: AccountantName,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct SigmaArgs {
    #[arg(long)]
    pub(in crate::commands) epsilon: f64,
    /// The probability with which a step draws an example
    #[arg(long)]
    pub(in crate::commands) q: f64,
    #[arg(long)]
    pub(in crate::commands) steps: u64,
    #[arg(long)]
    pub(in crate::commands) delta: f64,
    #[arg(long, value_enum, default_value = "pld")]
    pub(in crate::commands) accountant: AccountantName,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct BudgetArgs {
    /// The training file
    pub(in crate::commands) file: PathBuf,
    #[arg(long)]
    pub(in crate::commands) epsilon: f64,
    #[arg(long)]
    pub(in crate::commands) delta: f64,
    #[arg(long, value_enum, default_value = "pld")]
    pub(in crate::commands) accountant: AccountantName,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct AuditArgs {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// Rows that it was trained on
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) members: PathBuf,
    /// Rows of the same kind that it was not trained on
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) others: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct SawArgs {
    /// The data file
    file: PathBuf,
    /// The row, counted from 0; a header is none
    #[arg(required_unless_present = "text")]
    row: Option<u64>,
    /// Every row that holds these words
    #[arg(long, conflicts_with = "row")]
    text: Option<String>,
}

impl Privacy {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            PrivacyCommand::Epsilon(args) => print_epsilon(&args, context),
            PrivacyCommand::Sigma(args) => print_sigma(&args, context),
            PrivacyCommand::Ledger => ledger(context).await,
            PrivacyCommand::Budget(args) => budget(args, context).await,
            PrivacyCommand::Audit(args) => audit(args, context).await,
            PrivacyCommand::Saw(args) => saw(args, context).await,
            PrivacyCommand::Receipt(args) => args.run(context, None),
        }
    }
}

fn print_epsilon(args: &EpsilonArgs, context: &Context) -> Result<(), Failure> {
    let accountant = Accountant::from(args.accountant);
    let event = Event::new(args.q, args.sigma, args.steps).map_err(usage)?;
    let guarantee = epsilon(&[event], args.delta, accountant).map_err(usage)?;
    if !context.is_json() {
        output::text(format!("ε = {:.4} at δ = {}", guarantee.epsilon, guarantee.delta));
        output::text(format!("by {}: {}", accountant.as_str(), accountant.conversion()));
        output::text(lyceum_privacy::words::statement(&guarantee, "example"));
        return Ok(());
    }
    let mut line = json!({
        "epsilon": guarantee.epsilon.is_finite().then_some(guarantee.epsilon),
        "delta": guarantee.delta,
        "accountant": accountant.as_str(),
        "adjacency": ADJACENCY,
    });
    if let Some(order) = guarantee.order {
        line["order"] = json!(order);
    }
    output::json_line(&line);
    Ok(())
}

fn print_sigma(args: &SigmaArgs, context: &Context) -> Result<(), Failure> {
    let target = Target { epsilon: args.epsilon, delta: args.delta };
    let found = sigma(target, args.q, args.steps, &[], args.accountant.into()).map_err(usage)?;
    if context.is_json() {
        output::json_line(&json!({ "sigma": found }));
    } else {
        output::text(format!("σ = {found:.4}"));
    }
    Ok(())
}

/// The columns of the ledger.
pub(in crate::commands) const LEDGER: [&str; 6] =
    ["data (sha256)", "jobs", "ε spent", "budget", "δ", "accountant"];

/// How many jobs read a file with noise, and how many without.
pub(in crate::commands) fn jobs(n: usize, n_unprotected: usize) -> String {
    match n_unprotected {
        0 => n.to_string(),
        _ => format!("{n} and {n_unprotected} without noise"),
    }
}

async fn ledger(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let budgets = privacy::budgets(&store, &context.project).await?;
    let spends = privacy::spends(&store, &context.project).await?;
    let unprotected = privacy::unprotected(&store, &context.project).await?;
    let accounts = together(budgets, spends, &unprotected).map_err(usage)?;
    if context.is_json() {
        let lines: Vec<Value> = accounts.iter().map(object).collect();
        output::json_line(&json!({ "data": lines }));
        return Ok(());
    }
    let row = |account: &Account| {
        let budget = account.budget.as_ref().map_or("none".to_owned(), |b| b.epsilon.to_string());
        vec![
            account.data_sha256.chars().take(12).collect(),
            jobs(account.spends.len(), account.unprotected.len()),
            format!("{:.4}", account.spent.epsilon),
            budget,
            account.spent.delta.to_string(),
            account.spent.accountant.as_str().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = accounts.iter().map(row).collect();
    output::table(&LEDGER, &rows);
    Ok(())
}

fn object(account: &Account) -> Value {
    let spend = |s: &privacy::Spend| json!({ "job": s.job, "q": s.q, "sigma": s.sigma, "steps": s.steps, "created_at": s.created_at.seconds() });
    json!({
        "data_sha256": account.data_sha256,
        "budget": account.budget.as_ref().map(|b| b.epsilon),
        "epsilon": account.spent.epsilon.is_finite().then_some(account.spent.epsilon),
        "delta": account.spent.delta,
        "accountant": account.spent.accountant.as_str(),
        "adjacency": ADJACENCY,
        "ledger": account.spends.iter().map(spend).collect::<Vec<_>>(),
        "unprotected": account.unprotected.iter().map(|plain| &plain.job).collect::<Vec<_>>(),
    })
}

async fn budget(args: BudgetArgs, context: &Context) -> Result<(), Failure> {
    let is_right = args.epsilon > 0.0 && args.epsilon.is_finite() && args.delta > 0.0 && args.delta < 1.0;
    if !is_right {
        let fix = "write as in --epsilon 3 --delta 1e-5";
        return Err(Failure::usage("the budget is no (ε, δ)", "ε is above 0, δ between 0 and 1", fix));
    }
    let bytes = std::fs::read(&args.file).map_err(|error| Failure::file("read", &args.file, &error))?;
    let budget = Budget {
        data_sha256: lyceum_train::checkpoint::digest(&bytes),
        epsilon: args.epsilon,
        delta: args.delta,
        accountant: Accountant::from(args.accountant).as_str().into(),
        created_at: Timestamp::now(),
    };
    let store = context.store().await?;
    let act = Act::of_command_line(budget.created_at);
    privacy::set_budget(&store, &context.project, &budget, &act).await?;
    if context.is_json() {
        output::json_line(&json!({ "data_sha256": budget.data_sha256, "budget": budget.epsilon }));
    } else {
        output::text(format!("ε = {} at δ = {} for {}", budget.epsilon, budget.delta, budget.data_sha256));
    }
    Ok(())
}

/// How the attack is called in a card.
const BY_LOSS: &str = "loss (Yeom et al. 2018)";

/// The loss attack (Yeom et al. 2018): rows with small losses are said to be members.
async fn audit(args: AuditArgs, context: &Context) -> Result<(), Failure> {
    let (service, speaker) = context.speaker(&args.model).await?;
    let resident = match speaker {
        Speaker::Trained(resident) => resident,
        Speaker::Language(_, language) => return lines::audit(&service, &language, args, context).await,
    };
    let (asked, control) = (resident.clone(), context.control.clone());
    let work = move || -> Result<_, TrainError> {
        let scores = |path: &PathBuf| audits::of_rows(&asked, path.as_path(), &control);
        let (members, others) = (scores(&args.members)?, scores(&args.others)?);
        let n = (members.len() + others.len()) as u64;
        Ok((membership::attack(&members, &others, &audits::FPRS)?, n, args))
    };
    let done = tokio::task::spawn_blocking(work).await;
    let (attack, n, args) = done.map_err(|error| Failure::internal("the audit broke off", &error))??;
    let (members, others) = (args.members.display(), args.others.display());
    let again =
        format!("lyceum privacy audit {} --members {members} --others {others}", resident.version.id());
    let data = format!("{members} (members) and {others} (others)");
    let measured = (service.store(), &*resident as &dyn Costly);
    keep_membership(measured, (&attack, BY_LOSS), &data, n, &again).await?;
    let claimed = resident.manifest.privacy.as_ref();
    let model = resident.version.id();
    if context.is_json() {
        output::json_line(&json!({
            "model": model,
            "attack": "loss",
            "auc": attack.auc,
            "tpr_at": attack.tpr_at,
            "epsilon_claimed": claimed.and_then(|report| report.epsilon),
            "delta": claimed.map(|report| report.delta),
        }));
        return Ok(());
    }
    show(&model, "membership by loss", &attack);
    Ok(())
}

/// The attack for people.
fn show(model: &str, title: &str, attack: &membership::Attack) {
    let cells = |e: &membership::Estimate| format!("{:.4} [{:.4}, {:.4}]", e.value, e.ci95[0], e.ci95[1]);
    let mut rows = vec![vec!["area under the curve".to_owned(), cells(&attack.auc)]];
    rows.extend(attack.tpr_at.iter().map(|at| {
        vec![format!("members found where {} % of others are accused", 100.0 * at.fpr), cells(&at.tpr)]
    }));
    output::table(&[title, model], &rows);
    let low = attack.auc.ci95[0];
    output::text(if low > 0.5 {
        "The model tells its rows from others: 0.5 would be a guess."
    } else {
        "This attack does not tell the model's rows from others; a stronger one might."
    });
}

async fn saw(args: SawArgs, context: &Context) -> Result<(), Failure> {
    let bytes = std::fs::read(&args.file).map_err(|error| Failure::file("read", &args.file, &error))?;
    let data_sha256 = lyceum_train::checkpoint::digest(&bytes);
    drop(bytes);
    let wanted = match (args.row, args.text) {
        (Some(row), _) => Wanted::Row(row),
        (None, text) => Wanted::Text(text.unwrap_or_default()),
    };
    let rows = saw::rows_of(&args.file, wanted).await?;
    let store = context.store().await?;
    let answer = saw::answer(&store, &context.project, data_sha256, rows).await?;
    if context.is_json() {
        let body = lyceum_api::privacy::SawBody::from(answer);
        output::json_line(&serde_json::to_value(body).expect("an answer is plain data: bug"));
        return Ok(());
    }
    if answer.rows.is_empty() {
        output::text("no row of the file holds these words");
    }
    for row in &answer.rows {
        let line = |seen: &saw::Seen| {
            vec![seen.model.clone(), seen.sight.as_str().replace('_', " "), seen.how.clone()]
        };
        match &row.seen[..] {
            [] => output::text(format!("row {}: no version that is kept was made from this file", row.row)),
            seen => {
                output::text(format!("row {}", row.row));
                output::table(&["model", "the row was", "how"], &seen.iter().map(line).collect::<Vec<_>>());
            }
        }
    }
    if answer.more > 0 {
        output::text(format!("{} more rows hold these words", answer.more));
    }
    for limit in saw::LIMITS {
        output::text(format!("note: {limit}"));
    }
    Ok(())
}

fn usage(error: PrivacyError) -> Failure {
    let why = "privacy cannot be accounted for with this number";
    Failure::new(Exit::Usage, "usage", error.to_string(), why, "lyceum privacy --help shows the flags")
}
