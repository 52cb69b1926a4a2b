//! `lyceum embed MODEL [TEXT...]`: a vector of each text, one JSON object a line.

use crate::commands::run;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{assemble, output};
use clap::Args;
use lyceum_service::Payer;
use lyceum_service::Service;
use lyceum_service::embeddings::{self, Request, Text};
use lyceum_store::models;
use lyceum_types::ids::ModelRef;
use serde_json::json;
use std::io::BufRead;

/// Lines that are read before they are answered.
pub const TEXTS_AT_ONCE: usize = 256;
/// The longest line of stdin.
const LINE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Args)]
pub struct Embed {
    /// An imported embedding model: `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// The texts; without any, each line of stdin is one
    pub(in crate::commands) texts: Vec<String>,
    /// Only the vector's first numbers, scaled to length 1 again where the model's vectors are
    #[arg(long, value_name = "N")]
    pub(in crate::commands) dimensions: Option<usize>,
}

impl Embed {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let model: ModelRef = self.model.parse()?;
        let store = context.store().await?;
        if let Err(error) = models::resolve(&store, &context.project, &model).await {
            return Err(context.explain(&store, error).await);
        }
        let service = assemble::service(&context.config, store)?;
        let asked = Asked { context, service: &service, model, dimensions: self.dimensions };
        if !self.texts.is_empty() {
            for (i, texts) in self.texts.chunks(TEXTS_AT_ONCE).enumerate() {
                asked.answer(i * TEXTS_AT_ONCE, texts.to_vec()).await?;
            }
            return Ok(());
        }
        let mut first = 0;
        loop {
            let texts = tokio::task::spawn_blocking(move || lines(first)).await;
            let texts = texts.map_err(|error| Failure::internal("stdin cannot be read", &error))??;
            if texts.is_empty() {
                return Ok(());
            }
            let n = texts.len();
            asked.answer(first, texts).await?;
            first += n;
        }
    }
}

struct Asked<'a> {
    context: &'a Context,
    service: &'a Service,
    model: ModelRef,
    dimensions: Option<usize>,
}

impl Asked<'_> {
    /// Prints a line for each text; `first` is the number of the first of them.
    async fn answer(&self, first: usize, texts: Vec<String>) -> Result<(), Failure> {
        if self.context.control.check().is_err() {
            return Err(Failure::interrupted("the texts before were answered"));
        }
        if let Some(at) = texts.iter().position(String::is_empty) {
            let message = format!("text {} is empty", first + at);
            return Err(Failure::usage(message, "there is nothing to read in it", "leave it out"));
        }
        let inputs = texts.into_iter().map(Text::Words).collect();
        let request = Request { model: self.model.clone(), inputs, dimensions: self.dimensions };
        let made = embeddings::create(self.service, &Payer::local(&self.context.project), request).await;
        let made = made.map_err(|error| numbered(error.into(), first))?;
        for (i, vector) in made.vectors.iter().enumerate() {
            output::json_line(&json!({ "index": first + i, "embedding": vector }));
        }
        Ok(())
    }
}

/// Counts the place of a text among all of them, not among those that were asked for together.
pub fn numbered(mut failure: Failure, first: usize) -> Failure {
    let place = failure.place.key.as_deref().and_then(|key| {
        let at = key.strip_prefix("input")?;
        if at.is_empty() { Some(0) } else { at.strip_prefix('[')?.strip_suffix(']')?.parse::<usize>().ok() }
    });
    if let Some(place) = place {
        failure.place.key = Some(format!("text {}", first + place));
    }
    failure
}

/// The next lines of stdin; none at its end. `first` is the number of the first of them.
pub fn lines(first: usize) -> Result<Vec<String>, Failure> {
    let mut input = std::io::stdin().lock();
    let mut texts = Vec::new();
    while texts.len() < TEXTS_AT_ONCE {
        let mut line = Vec::new();
        let mut bounded = std::io::Read::take(&mut input, LINE_BYTES_MAX);
        let n = bounded.read_until(b'\n', &mut line);
        let n = n.map_err(|error| Failure::internal("stdin cannot be read", &error))?;
        if n == 0 {
            break;
        }
        if n as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            let why = format!("a line has more than {LINE_BYTES_MAX} bytes");
            return Err(Failure::new(
                Exit::Failed,
                "too_large",
                "stdin is no list of texts",
                why,
                "write a text a line",
            ));
        }
        let line = run::text(line, &format!("text {}", first + texts.len()))?;
        texts.push(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    Ok(texts)
}
