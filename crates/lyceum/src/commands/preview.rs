//! `lyceum preview SPEC`: judges the data of a job spec and shows what the model will see of it, before
//! anything is trained. The examples are those of the batches that training fills. What is shown is read from the JSON
//! that programs get, so that a server's preview looks like one that is made here.

mod chats;

use crate::commands::train::read_job;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, ValueEnum};
use lyceum_api::previews::PreviewBody;
use lyceum_service::fine_tuning::preview::{self, ROWS_MAX, Unseen};
use lyceum_types::spec::parse::Job;
use serde_json::Value;
use std::path::PathBuf;

/// More numbers than this are drawn or summed up for people; `--json` has them all.
const NUMBERS_LISTED_MAX: usize = 64;

#[derive(Debug, Args)]
pub struct Preview {
    /// A job spec: TOML, or JSON where the name ends with .json
    pub(in crate::commands) spec: PathBuf,
    /// How many rows (of one long text: windows)
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=ROWS_MAX as u64))]
    pub(in crate::commands) rows: u64,
    /// Which rows
    #[arg(long, value_enum, default_value = "train")]
    pub(in crate::commands) part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Train,
    Valid,
    Test,
}

impl From<Part> for preview::Part {
    fn from(part: Part) -> Self {
        match part {
            Part::Train => preview::Part::Train,
            Part::Valid => preview::Part::Valid,
            Part::Test => preview::Part::Test,
        }
    }
}

impl Preview {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (job, base_dir) = read_job(&self.spec)?;
        let asked = (self.part.into(), self.rows as usize);
        let spec = match job {
            Job::Train(spec) => *spec,
            Job::Tune(spec) => {
                let seen = chats::seen(context, *spec, base_dir, asked).await?;
                tell(context, &PreviewBody::from(&seen));
                return Ok(());
            }
        };
        let control = context.control.clone();
        let work = move || preview::rows(spec, &base_dir, asked, &control);
        let done = tokio::task::spawn_blocking(work).await;
        let seen = done.map_err(|error| Failure::internal("the preview broke off", &error))??;
        tell(context, &PreviewBody::from(&seen));
        Ok(())
    }
}

impl From<Unseen> for Failure {
    fn from(error: Unseen) -> Self {
        let message = error.to_string();
        match error {
            Unseen::Data(error) => error.into(),
            Unseen::NoPart(part) => {
                let fix = match part {
                    preview::Part::Test => "add test = \"…\" under [data]",
                    _ => "add valid = \"…\" or valid_fraction = 0.1 under [data]",
                };
                Failure::new(Exit::Usage, "no_part", message, "the spec names no such rows", fix)
            }
        }
    }
}

/// A line an example and one for all, or what people read of them.
pub fn tell(context: &Context, seen: &PreviewBody) {
    let PreviewBody { data, summary, .. } = seen;
    if context.is_json() {
        data.iter().for_each(output::json_line);
        output::json_line(summary);
        return;
    }
    for warning in summary["warnings"].as_array().into_iter().flatten() {
        output::note(format!("warning: {} ({})", text(&warning["message"]), text(&warning["hint"])));
    }
    let color = output::stdout_has_color();
    let is_chat = summary["reads"] == "chats";
    let asks = if is_chat { "that are learnt" } else { "that the loss asks for" };
    if data.first().is_none_or(|line| line["values"].is_null()) {
        output::text(match color {
            true => format!("tokens are parted by | and those {asks} are {}", painted("green", true)),
            false => format!("tokens are parted by | and those {asks} stand in [brackets]"),
        });
    }
    let n_names = data.first().map_or(0, |line| list(&line["names"]).len());
    if (1..=NUMBERS_LISTED_MAX).contains(&n_names) {
        table(data);
    } else {
        data.iter().for_each(|line| one(line, text(&summary["reads"]), color));
    }
    output::text(if is_chat { of_chats(summary) } else { of_batches(summary) });
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
}

/// Few named numbers a row: side by side.
fn table(lines: &[Value]) {
    let mut header = vec!["prepared input".to_owned()];
    header.extend(lines.iter().map(|line| format!("row {}", line["row"])));
    let names = list(&lines[0]["names"]).iter();
    let mut rows: Vec<Vec<String>> = names.map(|name| vec![text(name).to_owned()]).collect();
    let mut answers = vec!["→ answer".to_owned()];
    for line in lines {
        for (row, value) in rows.iter_mut().zip(numbers(&line["values"])) {
            row.push(format!("{value:.4}"));
        }
        answers.push(answer(line));
    }
    rows.push(answers);
    output::table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
}

fn one(line: &Value, reads: &str, color: bool) {
    let what = if reads == "windows" { "window from token" } else { "row" };
    output::text(format!("{what} {}", line["row"]));
    for (field, name) in [
        ("tokens", ""),
        ("source", "source  "),
        ("target", "target  "),
        ("preferred", "preferred      "),
        ("non_preferred", "non-preferred  "),
    ] {
        let is_read = list(&line[field]).iter().all(Value::is_object);
        if line[field].is_array() && is_read {
            output::text(format!("  {name}{}", marked(&line[field], color)));
        }
    }
    if line["values"].is_array() {
        let shape: Vec<usize> = numbers(&line["shape"]).into_iter().map(|n| n as usize).collect();
        in_numbers(&shape, &numbers(&line["values"]), reads == "pictures");
    }
    let answer = answer(line);
    if !answer.is_empty() {
        output::text(format!("  → {answer}"));
    }
    match line["truncated"].as_u64() {
        None | Some(0) => {}
        Some(n) => output::text(format!("  {n} more tokens are not read")),
    }
}

fn answer(line: &Value) -> String {
    if let Some(labels) = line["labels"].as_array() {
        let names = labels.iter().map(|label| label.as_str().unwrap_or("·"));
        return names.collect::<Vec<_>>().join(" ");
    }
    if line["target_values"].is_array() {
        let (scaled, original) = (numbers(&line["target_values"]), numbers(&line["target"]));
        let both = scaled.iter().zip(&original).zip(list(&line["target_names"]));
        let one = |((value, original), name): ((&f64, &f64), &Value)| {
            format!("{} = {original:.4} (as {value:.4})", text(name))
        };
        return both.map(one).collect::<Vec<_>>().join(", ");
    }
    text(&line["label"]).to_owned()
}

fn of_batches(summary: &Value) -> String {
    let epoch = &summary["epoch"];
    let mut lines = vec![format!(
        "{} part: {} examples an epoch in {} batches of {}, {} terms of the loss",
        text(&summary["part"]),
        epoch["examples"],
        epoch["batches"],
        epoch["batch_size"],
        epoch["loss_terms"]
    )];
    let (read, padding) =
        (epoch["tokens"].as_f64().unwrap_or_default(), epoch["padding"].as_f64().unwrap_or_default());
    if read > 0.0 {
        lines.push(format!(
            "{} tokens are read, {} at most an example; {:.1} % of the batches' places are padding; {} examples are cut",
            epoch["tokens"],
            epoch["longest"],
            padding / (read + padding) * 100.0,
            epoch["truncated"]
        ));
    }
    lines.join("\n")
}

fn of_chats(summary: &Value) -> String {
    let epoch = &summary["epoch"];
    format!(
        "{} part: {} examples an epoch, {} tokens ({} at most a sequence) without padding, {} of them learnt",
        text(&summary["part"]),
        epoch["examples"],
        epoch["tokens"],
        epoch["longest"],
        epoch["loss_terms"]
    )
}

/// Tokens parted by `|`, those with loss in green or in brackets.
fn marked(tokens: &Value, color: bool) -> String {
    let one = |token: &Value| {
        let has_loss = token["loss"] == true;
        let shown = text(&token["text"]).escape_debug().to_string();
        let shown = shown.replace("\\'", "'").replace("\\\"", "\"");
        match (color, has_loss) {
            (true, _) => painted(&shown, has_loss),
            (false, true) => format!("[{shown}]"),
            (false, false) => shown,
        }
    };
    list(tokens).iter().map(one).collect::<Vec<_>>().join("|")
}

fn painted(text: &str, has_loss: bool) -> String {
    if has_loss { format!("\u{1b}[32m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Many numbers: their shape and range, and a picture where they are one.
fn in_numbers(shape: &[usize], values: &[f64], is_picture: bool) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let first: Vec<String> = values.iter().take(8).map(|x| format!("{x:.4}")).collect();
    let more = if values.len() > 8 { ", …" } else { "" };
    output::text(format!(
        "  {shape:?} numbers from {low:.4} to {high:.4}, mean {mean:.4}: {}{more}",
        first.join(", ")
    ));
    if let (true, &[_, height, width]) = (is_picture, shape)
        && height.checked_mul(width).is_some_and(|n| n > 0 && n <= values.len())
    {
        output::text(drawn(values, height, width));
    }
}

/// The first channel in shades, at most 40 columns wide.
fn drawn(values: &[f64], height: usize, width: usize) -> String {
    let plane = &values[..height * width];
    let low = plane.iter().copied().fold(f64::INFINITY, f64::min);
    let high = plane.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shade =
        |x: f64| [' ', '░', '▒', '▓', '█'][((x - low) / (high - low).max(1e-9) * 4.0).round() as usize];
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
    use serde_json::json;

    #[test]
    fn tokens_with_loss_stand_in_brackets_or_are_green() {
        let token = |text: &str, loss: bool| json!({ "id": 0, "text": text, "loss": loss });
        let tokens = [token("a", false), token("\n", false), token("b", true), token("<eos>", true)];
        assert_eq!(marked(&json!(tokens), false), "a|\\n|[b]|[<eos>]");
        assert_eq!(marked(&json!(tokens[..3]), true), "a|\\n|\u{1b}[32mb\u{1b}[0m");
    }

    #[test]
    fn a_picture_is_drawn_row_by_row() {
        assert_eq!(drawn(&[0.0, 1.0, 1.0, 0.5], 2, 2), "    ██\n  ██▒▒");
    }

    #[test]
    fn answers_are_labels_steps_or_numbers_with_their_scaled_form() {
        assert_eq!(answer(&json!({ "label": "yes" })), "yes");
        assert_eq!(answer(&json!({ "labels": ["a", null] })), "a ·");
        let value = json!({ "target_names": ["y"], "target_values": [0.5], "target": [12.0] });
        assert_eq!(answer(&value), "y = 12.0000 (as 0.5000)");
        assert_eq!(answer(&json!({ "source": [], "target": [] })), "");
    }
}
