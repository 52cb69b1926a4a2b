//! `lyceum usage`: what was done and what it cost, by whom it was asked.

use crate::context::Context;
use crate::failure::Failure;
use crate::{output, time};
use clap::{Args, ValueEnum};
use lyceum_store::ledger::{Counts, Entry, UNIT, entries};
use lyceum_types::clock::Timestamp;
use lyceum_types::limits;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub struct Usage {
    /// What is summed up
    #[arg(long, value_enum, default_value = "model")]
    pub(in crate::commands) by: By,
    /// From how long ago: 24h, 30d
    #[arg(long, value_name = "DURATION", default_value = "30d")]
    pub(in crate::commands) since: String,
    /// Comma-separated values with a header
    #[arg(long, conflicts_with = "json")]
    pub(in crate::commands) csv: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::commands) enum By {
    Key,
    Project,
    Model,
    Day,
    /// Every entry of the ledger
    Request,
}

impl By {
    pub(in crate::commands) fn name(self) -> &'static str {
        match self {
            By::Key => "key",
            By::Project => "project",
            By::Model => "model",
            By::Day => "day",
            By::Request => "request",
        }
    }
}

/// Requests, what they counted and their cost in millionths, by the name of what is summed up.
pub(in crate::commands) type Groups = BTreeMap<String, (u64, Counts, i64)>;

const DAY_MS: i64 = 86_400_000;

/// Entries that are read at once.
const PAGE: u32 = 10_000;

impl Usage {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let ago = time::duration(&self.since, "--since 30d")?;
        let now = Timestamp::now();
        let since = Timestamp::from_millis(now.millis() - ago.as_millis() as i64);
        let span = (since, Timestamp::from_millis(now.millis() + 1));
        match self.by {
            By::Request => self.requests(context, span).await,
            _ => self.sums(context, span).await,
        }
    }

    async fn sums(&self, context: &Context, span: (Timestamp, Timestamp)) -> Result<(), Failure> {
        let store = context.store().await?;
        let tenant = &context.project.tenant;
        let sums = entries::sums(&store, tenant, span, DAY_MS, limits::USAGE_SUMS_MAX).await?;
        let mut groups = Groups::new();
        for sum in sums {
            let name = match self.by {
                By::Key => sum.api_key,
                By::Project => sum.project,
                By::Day => day(sum.bucket),
                By::Model | By::Request => sum.model,
            };
            let (n, counts, cost) = groups.entry(name).or_default();
            *n += sum.n_requests;
            *counts += sum.counts;
            *cost += sum.cost;
        }
        self.told_sums(context, groups)
    }

    /// Shows what each has asked, used and cost.
    pub(in crate::commands) fn told_sums(&self, context: &Context, groups: Groups) -> Result<(), Failure> {
        let by = self.by.name();
        if context.is_json() {
            let rows: Vec<Value> = groups
                .iter()
                .map(|(name, (n, counts, cost))| {
                    let mut row = json!({ by: name, "requests": n, "cost_usd": usd(*cost) });
                    numbers(counts).iter().for_each(|(name, n)| row[*name] = Value::from(*n));
                    row
                })
                .collect();
            output::json_line(&json!({ "usage": rows }));
            return Ok(());
        }
        let header: Vec<&str> = [by, "requests"]
            .into_iter()
            .chain(numbers(&Counts::default()).map(|(name, _)| name))
            .chain(["cost_usd"])
            .collect();
        let rows = groups.into_iter().map(|(name, (n, counts, cost))| {
            let counts = numbers(&counts).map(|(_, n)| n.to_string());
            [name, n.to_string()].into_iter().chain(counts).chain([format!("{:.6}", usd(cost))]).collect()
        });
        self.print(&header, &rows.collect::<Vec<Vec<String>>>())
    }

    async fn requests(&self, context: &Context, span: (Timestamp, Timestamp)) -> Result<(), Failure> {
        let store = context.store().await?;
        let (mut rows, mut after) = (Vec::new(), String::new());
        loop {
            let page = entries::list(&store, &context.project.tenant, span, &after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.request.id.clone();
            rows.extend(page);
        }
        let all: Vec<Value> = rows.iter().map(line).collect();
        self.told(context, &all)
    }

    /// Shows entries, each as [`line`] tells it.
    pub(in crate::commands) fn told(&self, context: &Context, all: &[Value]) -> Result<(), Failure> {
        if context.is_json() {
            all.iter().for_each(output::json_line);
            return Ok(());
        }
        let row = |entry: &Value| {
            let cell = |field: &&str| match &entry[*field] {
                Value::String(text) => text.clone(),
                Value::Number(usd) if *field == "cost_usd" => {
                    format!("{:.6}", usd.as_f64().unwrap_or_default())
                }
                other => other.to_string(),
            };
            ENTRY.iter().map(cell).collect()
        };
        self.print(&ENTRY, &all.iter().map(row).collect::<Vec<Vec<String>>>())
    }

    pub(in crate::commands) fn print(&self, header: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        if !self.csv {
            output::table(header, rows);
            return Ok(());
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        let written = writer
            .write_record(header)
            .and_then(|()| rows.iter().try_for_each(|row| writer.write_record(row)))
            .map_err(|error| Failure::internal("writing CSV failed", &error));
        written?;
        let bytes =
            writer.into_inner().map_err(|error| Failure::internal("writing CSV failed", error.error()))?;
        output::write_stdout(&String::from_utf8_lossy(&bytes));
        Ok(())
    }
}

/// What is told of an entry, in its order.
const ENTRY: [&str; 17] = [
    "request",
    "time",
    "project",
    "key",
    "model",
    "route",
    "class",
    "outcome",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "training_tokens",
    "training_rows",
    "cpu_seconds",
    "passes",
    "price",
    "cost_usd",
];

fn line(entry: &Entry) -> Value {
    let request = &entry.request;
    let mut row = json!({
        "request": request.id, "time": entry.settled_at.date_time(), "project": request.project,
        "key": request.api_key, "model": format!("{}@{}", request.model, request.model_version),
        "route": request.route, "class": request.class.as_str(), "outcome": entry.outcome.as_str(), "price": entry.price,
        "cost_usd": usd(entry.cost),
    });
    numbers(&entry.counts).iter().for_each(|(name, n)| row[*name] = Value::from(*n));
    row
}

fn numbers(counts: &Counts) -> [(&'static str, u64); 7] {
    [
        ("input_tokens", counts.input_tokens),
        ("cached_tokens", counts.cached_tokens),
        ("output_tokens", counts.output_tokens),
        ("training_tokens", counts.training_tokens),
        ("training_rows", counts.training_rows),
        ("cpu_seconds", counts.cpu_seconds),
        ("passes", counts.passes),
    ]
}

/// `2026-11-27`
fn day(millis: i64) -> String {
    let text = Timestamp::from_millis(millis).date_time();
    text.split_once('T').map_or_else(|| text.clone(), |(day, _)| day.to_owned())
}

/// For showing only: sums are made of whole millionths.
pub fn usd(millionths: i64) -> f64 {
    millionths as f64 / UNIT as f64
}
