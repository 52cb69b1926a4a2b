//! `lyceum prices set|list`

use crate::commands::usage::usd;
use crate::context::Context;
use crate::failure::Failure;
use crate::{output, time};
use clap::{Args, Subcommand};
use lyceum_store::ledger::UNIT;
use lyceum_store::ledger::prices::{self, EVERY, Price, Rates};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::ModelName;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Prices {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a price, which holds for requests from now on; older ones stay in the list
    Set(Set),
    /// Show every price that there ever was, the newest first
    List,
}

#[derive(Debug, Args)]
struct Set {
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

/// An amount of money with at most six digits behind the point, exactly.
pub fn millionths(text: &str) -> Result<i64, String> {
    let wrong =
        || format!("{text:?} is no amount: write as in 0.15, with six digits behind the point at most");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 6 || text.ends_with('.') {
        return Err(wrong());
    }
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let part: i64 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    whole.checked_mul(UNIT).and_then(|whole| whole.checked_add(part)).ok_or_else(wrong)
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
    if args.model != EVERY {
        args.model.parse::<ModelName>()?;
    }
    let rates = Rates {
        input: args.input,
        cached_input: args.cached_input.unwrap_or(args.input),
        output: args.output,
        training: args.training,
        training_row: args.training_row,
        cpu_second: args.cpu_second,
        pass: args.pass,
    };
    let place =
        (args.org.as_deref().unwrap_or(EVERY), args.project.as_deref().unwrap_or(EVERY), &*args.model);
    let store = context.store().await?;
    let price = prices::set(&store, place, rates, Timestamp::now()).await?;
    if context.is_json() {
        output::json_line(&line(&price));
    } else {
        output::text(format!("price {} of {}", price.version, price.model));
    }
    Ok(())
}

async fn list(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let prices = prices::list(&store).await?;
    if context.is_json() {
        let all: Vec<Value> = prices.all().iter().map(line).collect();
        output::json_line(&json!({ "prices": all }));
        return Ok(());
    }
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
    let row = |price: &Price| {
        let Rates { input, cached_input, output, training, training_row, cpu_second, pass } = price.rates;
        let amounts = [input, cached_input, output, training, training_row, cpu_second, pass]
            .map(|rate| usd(rate).to_string());
        [price.version.to_string(), price.tenant.clone(), price.project.clone(), price.model.clone()]
            .into_iter()
            .chain(amounts)
            .chain([time::for_people(price.created_at)])
            .collect()
    };
    output::table(&header, &prices.all().iter().map(row).collect::<Vec<Vec<String>>>());
    output::note("US dollars for a million tokens, rows, seconds or passes");
    Ok(())
}

fn line(price: &Price) -> Value {
    let Rates { input, cached_input, output, training, training_row, cpu_second, pass } = price.rates;
    json!({
        "price": price.version, "org": price.tenant, "project": price.project, "model": price.model,
        "usd_per_million": {
            "input": usd(input), "cached_input": usd(cached_input), "output": usd(output),
            "training": usd(training), "training_row": usd(training_row), "cpu_second": usd(cpu_second),
            "pass": usd(pass),
        },
        "created": price.created_at.seconds(),
    })
}

#[cfg(test)]
mod tests {
    use super::millionths;

    #[test]
    fn amounts_are_exact_or_refused() {
        assert_eq!(millionths("0.15"), Ok(150_000));
        assert_eq!(millionths("12"), Ok(12_000_000));
        assert_eq!(millionths("0.000001"), Ok(1));
        for text in ["", ".5", "5.", "-1", "1e3", "0.0000001", "1,5", "9999999999999999999"] {
            assert!(millionths(text).is_err(), "{text}");
        }
    }
}
