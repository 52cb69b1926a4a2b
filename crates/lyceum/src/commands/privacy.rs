//! `lyceum privacy epsilon|sigma|ledger|budget`: the calculator, and what was taken of each data set.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use lyceum_privacy::account::ADJACENCY;
use lyceum_privacy::calibrate::Target;
use lyceum_privacy::{Accountant, Event, PrivacyError, epsilon, sigma};
use lyceum_service::privacy::{Account, together};
use lyceum_store::privacy::{self, Budget};
use lyceum_types::clock::Timestamp;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Privacy {
    #[command(subcommand)]
    command: PrivacyCommand,
}

#[derive(Debug, Subcommand)]
enum PrivacyCommand {
    /// What steps of noisy training cost
    Epsilon(EpsilonArgs),
    /// The noise for a cost
    Sigma(SigmaArgs),
    /// What was taken of each data set, and its budget
    Ledger,
    /// Set what may be learnt from a data file, over all jobs
    Budget(BudgetArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AccountantName {
    Rdp,
    Pld,
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
struct EpsilonArgs {
    /// The probability with which a step draws an example
    #[arg(long)]
    q: f64,
    /// The noise's deviation over the clipping norm
    #[arg(long)]
    sigma: f64,
    #[arg(long)]
    steps: u64,
    #[arg(long)]
    delta: f64,
    #[arg(long, value_enum, default_value = "pld")]
    accountant: AccountantName,
}

#[derive(Debug, Args)]
struct SigmaArgs {
    #[arg(long)]
    epsilon: f64,
    /// The probability with which a step draws an example
    #[arg(long)]
    q: f64,
    #[arg(long)]
    steps: u64,
    #[arg(long)]
    delta: f64,
    #[arg(long, value_enum, default_value = "pld")]
    accountant: AccountantName,
}

#[derive(Debug, Args)]
struct BudgetArgs {
    /// The training file
    file: PathBuf,
    #[arg(long)]
    epsilon: f64,
    #[arg(long)]
    delta: f64,
    #[arg(long, value_enum, default_value = "pld")]
    accountant: AccountantName,
}

impl Privacy {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            PrivacyCommand::Epsilon(args) => print_epsilon(&args, context),
            PrivacyCommand::Sigma(args) => print_sigma(&args, context),
            PrivacyCommand::Ledger => ledger(context).await,
            PrivacyCommand::Budget(args) => budget(args, context).await,
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

async fn ledger(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let budgets = privacy::budgets(&store, &context.project).await?;
    let spends = privacy::spends(&store, &context.project).await?;
    let accounts = together(budgets, spends).map_err(usage)?;
    if context.is_json() {
        let lines: Vec<Value> = accounts.iter().map(object).collect();
        output::json_line(&json!({ "data": lines }));
        return Ok(());
    }
    let row = |account: &Account| {
        let budget = account.budget.as_ref().map_or("none".to_owned(), |b| b.epsilon.to_string());
        vec![
            account.data_sha256.chars().take(12).collect(),
            account.spends.len().to_string(),
            format!("{:.4}", account.spent.epsilon),
            budget,
            account.spent.delta.to_string(),
            account.spent.accountant.as_str().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = accounts.iter().map(row).collect();
    output::table(&["data (sha256)", "jobs", "ε spent", "budget", "δ", "accountant"], &rows);
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
    privacy::set_budget(&store, &context.project, &budget).await?;
    if context.is_json() {
        output::json_line(&json!({ "data_sha256": budget.data_sha256, "budget": budget.epsilon }));
    } else {
        output::text(format!("ε = {} at δ = {} for {}", budget.epsilon, budget.delta, budget.data_sha256));
    }
    Ok(())
}

fn usage(error: PrivacyError) -> Failure {
    let why = "privacy cannot be accounted for with this number";
    Failure::new(Exit::Usage, "usage", error.to_string(), why, "lyceum privacy --help shows the flags")
}
