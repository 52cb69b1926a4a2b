//! `lyceum preview SPEC`: judges the data of a job spec and shows what the model will see of it, before
//! anything is trained. The examples are those of the batches that training fills.

mod chats;

use crate::commands::train::read_job;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, ValueEnum};
use lyceum_models::prepare::series::Fields;
use lyceum_models::prepare::text::Tokenizer;
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_train::data::{self, DataError, Dataset, Loaded};
use lyceum_train::preview::{self, Asked, Epoch, Look, Reads, Seen, SeenToken};
use lyceum_types::spec::Spec;
use lyceum_types::spec::parse::Job;
use serde_json::{Value, json};
use std::path::PathBuf;

const ROWS_MAX: u64 = 1000;
/// More numbers than this are drawn or summed up for people; `--json` has them all.
const NUMBERS_LISTED_MAX: usize = 64;

#[derive(Debug, Args)]
pub struct Preview {
    /// A job spec: TOML, or JSON where the name ends with .json
    spec: PathBuf,
    /// How many rows (of one long text: windows)
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=ROWS_MAX))]
    rows: u64,
    /// Which rows
    #[arg(long, value_enum, default_value = "train")]
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Train,
    Valid,
    Test,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Valid => "valid",
            Part::Test => "test",
        }
    }
}

impl Preview {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (job, base_dir) = read_job(&self.spec)?;
        let spec = match job {
            Job::Train(spec) => *spec,
            Job::Tune(spec) => {
                return chats::show(context, *spec, base_dir, self.part, self.rows as usize).await;
            }
        };
        let (control, part, n) = (context.control.clone(), self.part, self.rows as usize);
        let work = move || -> Result<Looked, Failure> {
            let loaded = data::load(&spec, &base_dir, &control)?;
            let set = of_part(&loaded, part)?;
            let look = if part == Part::Train { Look::Training } else { Look::InOrder };
            let seen = preview::examples(&spec, set, look, n);
            let epoch = preview::epoch(&spec, set, &control).map_err(DataError::Stopped)?;
            Ok(Looked { spec, loaded, seen, epoch })
        };
        let done = tokio::task::spawn_blocking(work).await;
        let looked = done.map_err(|error| Failure::internal("the preview broke off", &error))??;
        if context.is_json() {
            looked.as_json(part)
        } else {
            looked.for_people(part)
        }
        Ok(())
    }
}

fn of_part(loaded: &Loaded, part: Part) -> Result<&Dataset, Failure> {
    let set = match part {
        Part::Train => Some(&loaded.train),
        Part::Valid => loaded.valid.as_ref(),
        Part::Test => loaded.test.as_ref(),
    };
    set.filter(|set| !set.is_empty()).ok_or_else(|| {
        let fix = match part {
            Part::Valid => "add valid = \"…\" or valid_fraction = 0.1 under [data]",
            _ => "add test = \"…\" under [data]",
        };
        let message = format!("there is no {} part", part.as_str());
        Failure::new(Exit::Usage, "no_part", message, "the spec names no such rows", fix)
    })
}

struct Looked {
    spec: Spec,
    loaded: Loaded,
    seen: Vec<Seen>,
    epoch: Epoch,
}

impl Looked {
    fn preparation(&self) -> &Preparation {
        &self.loaded.preparation
    }

    fn as_json(&self, part: Part) {
        for seen in &self.seen {
            let mut line = json!({ "part": part.as_str(), "row": seen.row });
            let object = line.as_object_mut().expect("made above: bug");
            match &seen.reads {
                Reads::Numbers { shape, values } => {
                    object.insert("shape".into(), json!(shape));
                    object.insert("names".into(), json!(input_names(self.preparation())));
                    object.insert("values".into(), json!(values));
                }
                Reads::Tokens(tokens) => {
                    object.insert("tokens".into(), self.tokens_json(tokens));
                    object.insert("truncated".into(), json!(seen.n_truncated));
                }
                Reads::Pair { source, target } => {
                    object.insert("source".into(), self.tokens_json(source));
                    object.insert("target".into(), self.tokens_json(target));
                    object.insert("truncated".into(), json!(seen.n_truncated));
                }
            }
            let labels = self.preparation().output.labels();
            match &seen.asked {
                Asked::Nothing | Asked::Tokens => {}
                Asked::Class(class) => {
                    object.insert("label".into(), json!(labels.get(*class as usize)));
                }
                Asked::Steps(steps) => {
                    let names = steps.iter().map(|step| step.and_then(|class| labels.get(class as usize)));
                    object.insert("labels".into(), json!(names.collect::<Vec<_>>()));
                }
                Asked::Values(values) => {
                    object.insert("target_names".into(), json!(target_names(&self.preparation().output)));
                    object.insert("target_values".into(), json!(values));
                    object.insert("target".into(), json!(self.preparation().output.restore(values)));
                }
            }
            output::json_line(&line);
        }
        let epoch = &self.epoch;
        output::json_line(&json!({
            "event": "done", "part": part.as_str(), "shown": self.seen.len(),
            "epoch": {
                "examples": epoch.n_examples, "batches": epoch.n_batches, "loss_terms": epoch.n_terms,
                "tokens": epoch.n_tokens, "padding": epoch.n_padding, "longest": epoch.longest,
                "truncated": epoch.n_truncated,
            },
            "warnings": self.loaded.warnings,
        }));
    }

    fn tokens_json(&self, tokens: &[SeenToken]) -> Value {
        let tokenizer = self.preparation().tokenizer();
        let token = |t: &SeenToken| {
            let text = tokenizer.map_or_else(String::new, |tokenizer| tokenizer.token_text(t.id));
            json!({ "id": t.id, "text": text, "loss": t.has_loss })
        };
        tokens.iter().map(token).collect()
    }

    fn for_people(&self, part: Part) {
        for warning in &self.loaded.warnings {
            output::note(format!("warning: {} ({})", warning.message, warning.hint));
        }
        let color = output::stdout_has_color();
        if !matches!(self.seen.first().map(|seen| &seen.reads), Some(Reads::Numbers { .. })) {
            output::text(if color {
                format!(
                    "tokens are parted by | and those that the loss asks for are {}",
                    painted("green", true)
                )
            } else {
                "tokens are parted by | and those that the loss asks for stand in [brackets]".to_owned()
            });
        }
        if self.fits_a_table() {
            self.table();
        } else {
            self.seen.iter().for_each(|seen| self.one(seen, color));
        }
        self.summary(part);
    }

    /// Few named numbers a row: side by side.
    fn fits_a_table(&self) -> bool {
        let names = input_names(self.preparation()).len();
        (1..=NUMBERS_LISTED_MAX).contains(&names)
    }

    fn table(&self) {
        let names = input_names(self.preparation());
        let mut header = vec!["prepared input".to_owned()];
        header.extend(self.seen.iter().map(|seen| format!("row {}", seen.row)));
        let mut rows: Vec<Vec<String>> = names.into_iter().map(|name| vec![name]).collect();
        let mut answer = vec!["→ answer".to_owned()];
        for seen in &self.seen {
            let Reads::Numbers { values, .. } = &seen.reads else { continue };
            for (row, value) in rows.iter_mut().zip(values) {
                row.push(format!("{value:.4}"));
            }
            answer.push(self.answer(&seen.asked));
        }
        rows.push(answer);
        output::table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    }

    fn one(&self, seen: &Seen, color: bool) {
        let what = if self.loaded.train.context().is_some() { "window from token" } else { "row" };
        output::text(format!("{what} {}", seen.row));
        let tokenizer = self.preparation().tokenizer();
        let tokens = |tokens: &[SeenToken]| tokenizer.map_or_else(String::new, |t| marked(t, tokens, color));
        match &seen.reads {
            Reads::Numbers { shape, values } => numbers(self.preparation(), shape, values),
            Reads::Tokens(read) => output::text(format!("  {}", tokens(read))),
            Reads::Pair { source, target } => {
                output::text(format!("  source  {}", tokens(source)));
                output::text(format!("  target  {}", tokens(target)));
            }
        }
        let answer = self.answer(&seen.asked);
        if !answer.is_empty() {
            output::text(format!("  → {answer}"));
        }
        if seen.n_truncated > 0 {
            output::text(format!("  {} more tokens are not read", seen.n_truncated));
        }
    }

    fn answer(&self, asked: &Asked) -> String {
        let output = &self.preparation().output;
        let label = |class: u32| output.labels().get(class as usize).cloned().unwrap_or_default();
        match asked {
            Asked::Nothing | Asked::Tokens => String::new(),
            Asked::Class(class) => label(*class),
            Asked::Steps(steps) => {
                let names = steps.iter().map(|step| step.map_or_else(|| "·".to_owned(), label));
                names.collect::<Vec<_>>().join(" ")
            }
            Asked::Values(values) => {
                let original = output.restore(values);
                let both = values.iter().zip(&original).zip(target_names(output));
                let one = |((value, original), name): ((&f32, &f64), String)| {
                    format!("{name} = {original:.4} (as {value:.4})")
                };
                both.map(one).collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn summary(&self, part: Part) {
        let epoch = &self.epoch;
        let mut lines = vec![format!(
            "{} part: {} examples an epoch in {} batches of {}, {} terms of the loss",
            part.as_str(),
            epoch.n_examples,
            epoch.n_batches,
            self.spec.train.batch_size,
            epoch.n_terms
        )];
        if epoch.n_tokens > 0 {
            let places = (epoch.n_tokens + epoch.n_padding) as f64;
            lines.push(format!(
                "{} tokens are read, {} at most an example; {:.1} % of the batches' places are padding; {} examples are cut",
                epoch.n_tokens,
                epoch.longest,
                epoch.n_padding as f64 / places * 100.0,
                epoch.n_truncated
            ));
        }
        output::text(lines.join("\n"));
    }
}

/// Tokens parted by `|`, those with loss in green or in brackets.
fn marked(tokenizer: &Tokenizer, tokens: &[SeenToken], color: bool) -> String {
    marked_with(|id| tokenizer.token_text(id), tokens, color)
}

/// As [`marked`], of tokens whose texts are asked for.
fn marked_with(text_of: impl Fn(u32) -> String, tokens: &[SeenToken], color: bool) -> String {
    let one = |t: &SeenToken| {
        let text: String = text_of(t.id).escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"");
        if color {
            painted(&text, t.has_loss)
        } else if t.has_loss {
            format!("[{text}]")
        } else {
            text
        }
    };
    let parted = tokens.iter().map(one).collect::<Vec<_>>();
    parted.join("|")
}

fn painted(text: &str, has_loss: bool) -> String {
    if has_loss { format!("\u{1b}[32m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// The names of the prepared numbers; none where they have only places (pictures, sounds).
fn input_names(preparation: &Preparation) -> Vec<String> {
    match &preparation.input {
        InputPreparation::Tabular(encoder) => encoder.input_names(),
        InputPreparation::Series(series) => match &series.fields {
            Fields::Steps(names) => names.clone(),
            Fields::Channels(names) => (0..series.steps)
                .flat_map(|step| names.iter().map(move |name| format!("{name}[{step}]")))
                .collect(),
        },
        _ => vec![],
    }
}

fn target_names(output: &OutputPreparation) -> Vec<String> {
    match output {
        OutputPreparation::Values { names, .. } => names.clone(),
        _ => vec![],
    }
}

/// Many numbers: their shape and range, and a picture where they are one.
fn numbers(preparation: &Preparation, shape: &[usize], values: &[f32]) {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len().max(1) as f64;
    let first: Vec<String> = values.iter().take(8).map(|x| format!("{x:.4}")).collect();
    let more = if values.len() > 8 { ", …" } else { "" };
    output::text(format!(
        "  {shape:?} numbers from {low:.4} to {high:.4}, mean {mean:.4}: {}{more}",
        first.join(", ")
    ));
    if let (InputPreparation::Image(_), &[_, height, width]) = (&preparation.input, shape) {
        output::text(drawn(values, height, width));
    }
}

/// The first channel in shades, at most 40 columns wide.
fn drawn(values: &[f32], height: usize, width: usize) -> String {
    let plane = &values[..height * width];
    let low = plane.iter().copied().fold(f32::INFINITY, f32::min);
    let high = plane.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shade =
        |x: f32| [' ', '░', '▒', '▓', '█'][((x - low) / (high - low).max(1e-9) * 4.0).round() as usize];
    let step = width.div_ceil(40).max(1);
    let line = |y: usize| {
        let shades = (0..width).step_by(step).flat_map(|x| [shade(plane[y * width + x]); 2]);
        format!("  {}", shades.collect::<String>().trim_end())
    };
    (0..height).step_by(step).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::prepare::text::Specials;

    #[test]
    fn tokens_with_loss_stand_in_brackets_or_are_green() {
        let tokenizer = Tokenizer::chars(["a\nb"], Specials { eos: true, ..Specials::default() });
        let tokens = [(1, false), (0, false), (2, true), (3, true)];
        let tokens = tokens.map(|(id, has_loss)| SeenToken { id, has_loss });
        assert_eq!(marked(&tokenizer, &tokens, false), "a|\\n|[b]|[<eos>]");
        assert_eq!(marked(&tokenizer, &tokens[..3], true), "a|\\n|\u{1b}[32mb\u{1b}[0m");
    }

    #[test]
    fn a_picture_is_drawn_row_by_row() {
        assert_eq!(drawn(&[0.0, 1.0, 1.0, 0.5], 2, 2), "    ██\n  ██▒▒");
    }
}
