//! `lyceum admin limits set|ls|rm`

use super::Desk;
use crate::failure::Failure;
use clap::{Args, Subcommand};
use lyceum_store::tenancy::rates;
use lyceum_types::limits::RATE_MAX;
use lyceum_types::tenancy::{RateLimit, RateSubject};
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub enum Limits {
    /// Set limits; what is not given stays as it is
    Set {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        limit: Numbers,
    },
    /// Show the limits of a project
    Ls { project: String },
    /// Remove the limits that were set
    Rm {
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, Args)]
pub struct Of {
    project: String,
    /// For this model (default: all together)
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// For this key (default: the whole project together)
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Numbers {
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=RATE_MAX))]
    requests_per_minute: Option<u64>,
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=RATE_MAX))]
    tokens_per_minute: Option<u64>,
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=RATE_MAX))]
    requests_per_day: Option<u64>,
    /// Under way at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=RATE_MAX))]
    concurrent_requests: Option<u64>,
}

impl Numbers {
    /// In the order in which they are shown.
    pub(super) fn all(&self) -> [Option<u64>; 4] {
        [self.requests_per_minute, self.tokens_per_minute, self.requests_per_day, self.concurrent_requests]
    }
}

impl Of {
    pub(super) fn project(&self) -> &str {
        &self.project
    }

    pub(super) fn subject(&self) -> Result<RateSubject, Failure> {
        let key = self.api_key.as_deref().map(str::parse).transpose()?;
        let model = self.model.as_deref().map(str::parse).transpose()?;
        Ok(RateSubject { key, model })
    }
}

impl Limits {
    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        match self {
            Limits::Set { of, limit } => {
                let (project, subject) = (desk.project(&of.project).await?, of.subject()?);
                let before = rates::list(&desk.store, &project).await?.remove(&subject).unwrap_or_default();
                let after = RateLimit {
                    requests_per_minute: limit.requests_per_minute.or(before.requests_per_minute),
                    tokens_per_minute: limit.tokens_per_minute.or(before.tokens_per_minute),
                    requests_per_day: limit.requests_per_day.or(before.requests_per_day),
                    concurrent_requests: limit.concurrent_requests.or(before.concurrent_requests),
                };
                rates::set(&desk.store, &project, &subject, after, &desk.act()).await?;
                desk.say(&told(&subject, after), format!("set {}", rates::id_of(&subject)));
            }
            Limits::Ls { project } => {
                let project = desk.project(&project).await?;
                let row = |(subject, limit): (RateSubject, RateLimit)| {
                    let number =
                        |limit: Option<u64>| limit.map_or_else(String::new, |limit| limit.to_string());
                    let row = vec![
                        rates::id_of(&subject),
                        number(limit.requests_per_minute),
                        number(limit.tokens_per_minute),
                        number(limit.requests_per_day),
                        number(limit.concurrent_requests),
                    ];
                    (told(&subject, limit), row)
                };
                let header = ["id", "requests/min", "tokens/min", "requests/day", "at once"];
                let all = rates::list(&desk.store, &project).await?;
                desk.list("limits", &header, all.into_iter().map(row).collect());
            }
            Limits::Rm { of } => {
                let (project, subject) = (desk.project(&of.project).await?, of.subject()?);
                rates::set(&desk.store, &project, &subject, RateLimit::default(), &desk.act()).await?;
                let id = rates::id_of(&subject);
                desk.say(&json!({"event": "done", "id": id}), format!("removed {id}"));
            }
        }
        Ok(())
    }
}

fn told(subject: &RateSubject, limit: RateLimit) -> Value {
    json!({"id": rates::id_of(subject), "model": subject.model.as_ref().map(ToString::to_string),
        "key": subject.key.as_ref().map(ToString::to_string),
        "requests_per_minute": limit.requests_per_minute, "tokens_per_minute": limit.tokens_per_minute,
        "requests_per_day": limit.requests_per_day, "concurrent_requests": limit.concurrent_requests})
}
