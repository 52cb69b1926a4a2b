//! One real answer of a starter, drawn for a terminal: the same call that a client makes, on a row that
//! training did not see.

use super::starters::{Show, Starter};
use crate::failure::Failure;
use lyceum_service::Payer;
use lyceum_service::completions::{self, Prompt, Sampling};
use lyceum_service::predict::{self, Prediction};
use lyceum_service::{Content, Service};
use lyceum_types::ids::{ModelRef, Project};
use serde_json::{Map, Value};

/// The answer, ready to print.
pub async fn answer(
    service: &Service,
    project: &Project,
    model: &str,
    starter: &Starter,
) -> Result<String, Failure> {
    let reference: ModelRef = model.parse()?;
    if let Show::Continue { prompt, max_tokens } = starter.show {
        let text = complete(service, project, reference, prompt, max_tokens).await?;
        let joint = if model.starts_with("addition") { "=" } else { "" };
        return Ok(format!("  {prompt}{joint}{text}"));
    }
    let resident = service.resident(project, &reference).await?;
    let held_out = resident.manifest.split.get("valid").and_then(|rows| rows.first()).copied().unwrap_or(0);
    let text = String::from_utf8_lossy(starter.data);
    let row = |i: u64| text.lines().nth(i as usize + 1).unwrap_or_default().to_owned();
    let cells = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let header = cells(text.lines().next().unwrap_or_default());
    let (content, drawing) = match starter.show {
        Show::Row => {
            let values = cells(&row(held_out));
            let named: Map<String, Value> = header
                .iter()
                .zip(&values)
                .filter(|(name, _)| *name != "diagnosis")
                .map(|(name, value)| (name.clone(), value.parse::<f64>().map_or(Value::Null, Value::from)))
                .collect();
            let truth = values.last().cloned().unwrap_or_default();
            (Content::Row(named), format!("  a patient (row {held_out}, truly {truth})"))
        }
        Show::Digit => {
            let values = cells(&row(held_out));
            let pixels: Vec<f32> = values[..64].iter().filter_map(|v| v.parse().ok()).collect();
            let drawing = draw(&pixels);
            (Content::Numbers(pixels), drawing)
        }
        Show::Text => {
            let line = row(held_out);
            let (sentence, label) = line.rsplit_once(',').unwrap_or((&line, ""));
            let sentence = sentence.trim_matches('"').replace("\"\"", "\"");
            let drawing = format!("  \"{sentence}\" (truly {label})");
            (Content::Text(sentence), drawing)
        }
        Show::Forecast => {
            let values: Vec<f32> =
                text.lines().skip(1).filter_map(|l| l.rsplit(',').next()?.trim().parse().ok()).collect();
            let seen = values[values.len() - 28..].to_vec();
            let drawing = format!("  the last four weeks  {}", spark(&seen));
            (Content::Numbers(seen), drawing)
        }
        Show::Continue { .. } => return Ok(String::new()),
    };
    let (_, predictions) = predict::create(service, &Payer::local(project), &reference, &[content]).await?;
    let said: Vec<String> = predictions.iter().map(say).collect();
    Ok(format!("{drawing}\n{}", said.join("\n")))
}

async fn complete(
    service: &Service,
    project: &Project,
    model: ModelRef,
    prompt: &str,
    max_tokens: usize,
) -> Result<String, Failure> {
    // An answer that is right or wrong is the likeliest one; a text is drawn.
    let temperature = if max_tokens < 16 { 0.0 } else { 0.8 };
    let request = completions::Request {
        model,
        prompts: vec![Prompt::Text(prompt.to_owned())],
        n: 1,
        max_tokens: Some(max_tokens),
        sampling: Sampling { temperature: Some(temperature), seed: Some(1), ..Sampling::default() },
        stop: Vec::new(),
        stop_ids: Vec::new(),
        logprobs: None,
        echo: false,
        prompt_logprobs: None,
        ignore_eos: false,
        priority: completions::Priority::Interactive,
    };
    let mut running = completions::create(service, &Payer::local(project), request).await?;
    let mut text = String::new();
    while let Some(piece) = running.next().await? {
        text.push_str(&piece.text);
    }
    Ok(text)
}

fn say(prediction: &Prediction) -> String {
    match prediction {
        Prediction::Label { label, probabilities } => {
            let mut order = probabilities.clone();
            order.sort_by(|a, b| b.1.total_cmp(&a.1));
            let shown: Vec<String> =
                order.iter().take(3).map(|(label, p)| format!("{label} {:.1} %", p * 100.0)).collect();
            format!("  → {label}   ({})", shown.join(", "))
        }
        Prediction::Number(number) => format!("  → {number:.1}"),
        Prediction::Numbers(numbers) => {
            let values: Vec<f32> = numbers.iter().map(|&x| x as f32).collect();
            let listed: Vec<String> = numbers.iter().map(|x| format!("{x:.0}")).collect();
            format!("  → the next days      {}  {}", spark(&values), listed.join(" "))
        }
        Prediction::Steps(steps) => steps.iter().map(say).collect::<Vec<_>>().join("\n"),
    }
}

/// 8 by 8 pixels as characters, two columns each.
fn draw(pixels: &[f32]) -> String {
    let shade = |p: &f32| [' ', '░', '▒', '▓', '█'][((p / 16.0 * 4.0).round() as usize).min(4)];
    let line = |row: &[f32]| {
        let shades: String = row.iter().flat_map(|p| [shade(p), shade(p)]).collect();
        format!("  {shades}")
    };
    pixels.chunks(8).map(line).collect::<Vec<_>>().join("\n")
}

/// Numbers as a line of bars.
fn spark(values: &[f32]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let bar = |v: &f32| BARS[(((v - low) / (high - low).max(1e-9) * 7.0).round() as usize).min(7)];
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawings_have_their_shape() {
        assert_eq!(spark(&[0.0, 1.0, 2.0]), "▁▅█");
        assert_eq!(spark(&[3.0, 3.0]), "▁▁");
        let digit = draw(&[16.0; 64]);
        assert_eq!(digit.lines().count(), 8);
        assert!(digit.lines().all(|l| l.trim().chars().count() == 16));
    }

    #[test]
    fn every_starter_is_a_valid_spec_that_names_its_file() {
        for starter in &super::super::STARTERS {
            let spec = lyceum_types::spec::Spec::from_toml(starter.spec, starter.spec_name).unwrap();
            assert_eq!(spec.data.train, starter.file);
            assert!(!starter.data.is_empty());
        }
    }
}
