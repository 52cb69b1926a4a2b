//! `lyceum budgets set|list|rm`

use crate::commands::admin::remote::text;
use crate::commands::admin::{list as list_of, say};
use crate::commands::usage::usd;
use crate::context::Context;
use crate::failure::Failure;
use clap::{Args, Subcommand};
use lyceum_store::ledger::budgets::{self, Period, Place, Window};
use lyceum_store::ledger::millionths;
use lyceum_store::tenancy::Act;
use lyceum_store::{Store, keys};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyId, Project};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Budgets {
    #[command(subcommand)]
    pub(in crate::commands) command: Command,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum Command {
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
pub(in crate::commands) struct Whose {
    /// The organization (default: this installation's; with --url the key's)
    #[arg(long, value_name = "ORG")]
    pub(in crate::commands) org: Option<String>,
    /// One project of it
    #[arg(long, value_name = "PROJECT")]
    pub(in crate::commands) project: Option<String>,
    /// One key of the project: key_…
    #[arg(long, value_name = "KEY", requires = "project")]
    pub(in crate::commands) api_key: Option<String>,
    /// month: every calendar month (UTC) anew; total: once
    #[arg(long, value_name = "PERIOD", default_value = "month")]
    pub(in crate::commands) period: String,
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
                require_key(&store, &place).await?;
                let act = Act::of_command_line(Timestamp::now());
                let budget = budgets::set(&store, &place, period, limit, &act).await?;
                done_with(context, &budget.id, limit);
                Ok(())
            }
            Command::Rm { whose } => {
                let (place, period) = whose.parse(context)?;
                let store = context.store().await?;
                budgets::remove(&store, &place, period, &Act::of_command_line(Timestamp::now())).await?;
                removed(context);
                Ok(())
            }
            Command::List => list(context).await,
        }
    }
}

/// Refuses the budget of a key that is not there.
async fn require_key(store: &Store, place: &Place) -> Result<(), Failure> {
    if !place.api_key.is_empty() {
        let project = Project { tenant: place.tenant.clone(), id: place.project.clone() };
        keys::find(store, &project, &place.api_key.parse()?).await?;
    }
    Ok(())
}

/// Says what was set.
pub(in crate::commands) fn done_with(context: &Context, id: &str, limit: i64) {
    say(context, &json!({ "event": "done", "id": id }), format!("{id}: {} USD", usd(limit)));
}

pub(in crate::commands) fn removed(context: &Context) {
    say(context, &json!({ "event": "done" }), "removed");
}

async fn list(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let windows = budgets::windows(&store, Timestamp::now()).await?;
    told(context, windows.iter().map(line).collect());
    Ok(())
}

/// Shows budgets, each as [`line`] tells it.
pub(in crate::commands) fn told(context: &Context, all: Vec<Value>) {
    let row = |window: Value| {
        let names = ["org", "project", "key", "period"].map(|field| text(&window, field));
        let amounts = ["limit_usd", "spent_usd", "reserved_usd"]
            .map(|field| format!("{:.6}", window[field].as_f64().unwrap_or_default()));
        let cells = names.into_iter().chain(amounts).collect();
        (window, cells)
    };
    let header = ["org", "project", "key", "period", "limit", "spent", "reserved"];
    list_of(context, "budgets", &header, all.into_iter().map(row).collect());
}

fn line(window: &Window) -> Value {
    let Place { tenant, project, api_key } = &window.budget.place;
    json!({
        "id": window.budget.id, "org": tenant, "project": project, "key": api_key,
        "period": window.budget.period.as_str(), "limit_usd": usd(window.budget.limit),
        "spent_usd": usd(window.spent), "reserved_usd": usd(window.reserved),
    })
}
