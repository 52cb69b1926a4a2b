//! `lyceum budgets set|list|rm`

use crate::commands::prices::millionths;
use crate::commands::usage::usd;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::{Args, Subcommand};
use lyceum_store::ledger::budgets::{self, Period, Place, Window};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::KeyId;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Budgets {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set the most that may be spent; a request whose worst cost is not covered is refused
    Set {
        /// US dollars
        #[arg(value_name = "USD", value_parser = millionths)]
        limit: i64,
        #[command(flatten)]
        whose: Whose,
    },
    /// Show the budgets and where they stand
    List,
    /// Take a budget away
    Rm {
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Debug, Args)]
struct Whose {
    /// The organization (default: this installation's)
    #[arg(long, value_name = "ORG")]
    org: Option<String>,
    /// One project of it
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// One key of the project: key_…
    #[arg(long, value_name = "KEY", requires = "project")]
    api_key: Option<String>,
    /// month: every calendar month (UTC) anew; total: once
    #[arg(long, value_name = "PERIOD", default_value = "month")]
    period: String,
}

impl Whose {
    fn parse(self, context: &Context) -> Result<(Place, Period), Failure> {
        let api_key = match self.api_key {
            Some(key) => key.parse::<KeyId>()?.to_string(),
            None => String::new(),
        };
        let place = Place {
            tenant: self.org.unwrap_or_else(|| context.project.tenant.clone()),
            project: self.project.unwrap_or_default(),
            api_key,
        };
        Ok((place, self.period.parse()?))
    }
}

impl Budgets {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Set { limit, whose } => {
                let (place, period) = whose.parse(context)?;
                let store = context.store().await?;
                let budget = budgets::set(&store, &place, period, limit, Timestamp::now()).await?;
                if context.is_json() {
                    output::json_line(&json!({ "event": "done", "id": budget.id }));
                } else {
                    output::text(format!("{}: {} USD", budget.id, usd(limit)));
                }
                Ok(())
            }
            Command::Rm { whose } => {
                let (place, period) = whose.parse(context)?;
                let store = context.store().await?;
                budgets::remove(&store, &place, period).await?;
                if context.is_json() {
                    output::json_line(&json!({ "event": "done" }));
                }
                Ok(())
            }
            Command::List => list(context).await,
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let windows = budgets::windows(&store, Timestamp::now()).await?;
    if context.is_json() {
        let all: Vec<Value> = windows.iter().map(line).collect();
        output::json_line(&json!({ "budgets": all }));
        return Ok(());
    }
    let row = |window: &Window| {
        let Place { tenant, project, api_key } = window.budget.place.clone();
        let amounts = [window.budget.limit, window.spent, window.reserved].map(|n| format!("{:.6}", usd(n)));
        [tenant, project, api_key, window.budget.period.as_str().to_owned()]
            .into_iter()
            .chain(amounts)
            .collect()
    };
    let header = ["org", "project", "key", "period", "limit", "spent", "reserved"];
    output::table(&header, &windows.iter().map(row).collect::<Vec<Vec<String>>>());
    Ok(())
}

fn line(window: &Window) -> Value {
    let Place { tenant, project, api_key } = &window.budget.place;
    json!({
        "id": window.budget.id, "org": tenant, "project": project, "key": api_key,
        "period": window.budget.period.as_str(), "limit_usd": usd(window.budget.limit),
        "spent_usd": usd(window.spent), "reserved_usd": usd(window.reserved),
    })
}
