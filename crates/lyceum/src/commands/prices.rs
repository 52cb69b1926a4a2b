//! `lyceum prices set|list`

use crate::commands::admin::remote::{moment, text};
use crate::commands::admin::{list as list_of, say};
use crate::commands::usage::usd;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::{Args, Subcommand};
use lyceum_store::ledger::millionths;
use lyceum_store::ledger::prices::{self, EVERY, Price, Rates};
use lyceum_store::tenancy::Act;
use lyceum_types::clock::Timestamp;
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub struct Prices {
    #[command(subcommand)]
    pub(in crate::commands) command: Command,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum Command {
    /// Add a price, which holds for requests from now on; older ones stay in the list
    Set(Set),
    /// Show every price that there ever was, the newest first
    List,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct Set {
    /// The model's name; '*': every model that has no price of its own
    model: String,
    /// US dollars for a million tokens that are read
    #[arg(long, value_name = "USD", default_value = "0", value_parser = millionths)]
    input: i64,
    /// US dollars for a million tokens that had been read before (default: as --input)
    #[arg(long, value_name = "USD", value_parser = millionths)]
    cached_input: Option<i64>,
    /// US dollars for a million tokens that are made
    #[arg(long, value_name = "USD", default_value = "0", value_parser = millionths)]
    output: i64,
    /// US dollars for a million tokens that a fine-tuning is trained on
    #[arg(long, value_name = "USD", default_value = "0", value_parser = millionths)]
    training: i64,
    /// US dollars for a million rows that another training is trained on
    #[arg(long, value_name = "USD", default_value = "0", value_parser = millionths)]
    training_row: i64,
    /// US dollars for a million seconds on a processor, of choices
    #[arg(long, value_name = "USD", default_value = "0", value_parser = millionths)]
    cpu_second: i64,
    /// US dollars for a million passes: rows of predictions, explanations, certificates, attacks
    #[arg(long, value_name = "USD", default_value = "0", value_parser = millionths)]
    pass: i64,
    /// Only for this organization
    #[arg(long, value_name = "ORG")]
    org: Option<String>,
    /// Only for this project of the organization
    #[arg(long, value_name = "PROJECT", requires = "org")]
    project: Option<String>,
}

impl Prices {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Set(args) => set(context, args).await,
            Command::List => list(context).await,
        }
    }
}

async fn set(context: &Context, args: Set) -> Result<(), Failure> {
    let (place, rates) = (args.place(), args.rates());
    let store = context.store().await?;
    let price = prices::set(&store, place, rates, &Act::of_command_line(Timestamp::now())).await?;
    added(context, &line(&price));
    Ok(())
}

/// Says which price was added.
pub(in crate::commands) fn added(context: &Context, line: &Value) {
    let words = format!("price {} of {}", line["price"], line["model"].as_str().unwrap_or_default());
    say(context, line, words);
}

impl Set {
    /// Organisation, project and model.
    pub(in crate::commands) fn place(&self) -> (&str, &str, &str) {
        (self.org.as_deref().unwrap_or(EVERY), self.project.as_deref().unwrap_or(EVERY), &self.model)
    }

    pub(in crate::commands) fn rates(&self) -> Rates {
        Rates {
            input: self.input,
            cached_input: self.cached_input.unwrap_or(self.input),
            output: self.output,
            training: self.training,
            training_row: self.training_row,
            cpu_second: self.cpu_second,
            pass: self.pass,
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let prices = prices::list(&store).await?;
    told(context, prices.all().iter().map(line).collect());
    Ok(())
}

/// Shows prices, each as [`line`] tells it.
pub(in crate::commands) fn told(context: &Context, all: Vec<Value>) {
    let header = [
        "price",
        "org",
        "project",
        "model",
        "input",
        "cached",
        "output",
        "training",
        "training_row",
        "cpu_second",
        "pass",
        "since",
    ];
    let row = |price: Value| {
        let names = ["org", "project", "model"].map(|field| text(&price, field));
        let rates = RATES.map(|name| price["usd_per_million"][name].as_f64().unwrap_or_default().to_string());
        let cells = [price["price"].to_string()].into_iter().chain(names).chain(rates);
        let cells = cells.chain([moment(&price, "created")]).collect();
        (price, cells)
    };
    list_of(context, "prices", &header, all.into_iter().map(row).collect());
    if !context.is_json() {
        output::note("US dollars for a million tokens, rows, seconds or passes");
    }
}

const RATES: [&str; 7] =
    ["input", "cached_input", "output", "training", "training_row", "cpu_second", "pass"];

fn line(price: &Price) -> Value {
    let rates: Map<String, Value> =
        price.rates.named().iter().map(|(name, rate)| ((*name).to_owned(), usd(*rate).into())).collect();
    json!({
        "price": price.version, "org": price.tenant, "project": price.project, "model": price.model,
        "usd_per_million": rates, "created": price.created_at.seconds(),
    })
}
