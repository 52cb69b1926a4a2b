//! An explanation on the terminal: a coloured text, bars, or a picture of half blocks; plain columns where there
//! is no colour.

use super::{names, target_text};
use crate::output;
use lyceum_service::explain::{
    Answer, Change, Counterfactual, Explained, Explanation, InfluenceShown, Of, Parts, RowShown, colour,
    relative,
};

/// The longest bar.
const BAR: usize = 30;
/// Rows of bars; the rest is counted.
const BARS_MAX: usize = 24;

pub(super) fn show(explained: &Explained, coloured: bool) {
    match &explained.answer {
        Answer::Attributions { target, baseline, parts, explanation, counterfactual } => {
            output::text(head(&explained.model, &target_text(target), baseline, explanation));
            output::text(body(parts, explanation, coloured));
            output::text(foot(explanation));
            if let Some(counterfactual) = counterfactual {
                output::text(instead(counterfactual));
            }
        }
        Answer::Influence(found) => influence(&explained.model, found),
        Answer::Attention(attention) => {
            let what = match attention.kind {
                "rollout" => "attention rollout: a heuristic over weights, not an explanation",
                _ => "attention weights: where layers read from, not an explanation",
            };
            output::text(format!("{}  {what}", explained.model));
            let rows: Vec<Vec<String>> = attention
                .maps
                .iter()
                .map(|map| {
                    let last = &map.weights[map.weights.len().saturating_sub(map.n_keys)..];
                    let weights: Vec<String> = last.iter().map(|w| format!("{w:.2}")).collect();
                    vec![map.layer.to_string(), map.head.to_string(), weights.join(" ")]
                })
                .collect();
            output::table(&["layer", "head", "what the last row reads"], &rows);
        }
    }
}

fn influence(model: &str, found: &InfluenceShown) {
    let steps: Vec<String> = found.checkpoints.iter().map(|(step, _)| step.to_string()).collect();
    output::text(format!(
        "{model}  {}: rows of {} ({} of them) by TracIn over the checkpoints of steps {}",
        target_text(&found.target),
        found.file,
        found.n_rows,
        steps.join(", ")
    ));
    let row = |r: &RowShown| vec![r.row.to_string(), r.label.clone(), format!("{:+.4e}", r.influence)];
    let rows = found.helped.iter().chain(found.hindered.iter().rev());
    output::table(&["row", "label", "influence"], &rows.map(row).collect::<Vec<_>>());
    output::text("Rows count from 0. Above 0: the row lowered the loss of this answer when it was learnt.");
}

fn instead(c: &Counterfactual) -> String {
    let Some(found) = &c.found else {
        return format!("no small change to {} was found, which does not prove that there is none", c.label);
    };
    let change = |c: &Change| format!("{}: {} instead of {}", c.feature, c.to, c.from);
    let changes: Vec<String> = found.changes.iter().map(change).collect();
    format!("{} ({:.4}, asked again) with {}", c.label, found.probability, changes.join(", "))
}

fn head(model: &str, target: &str, baseline: &str, e: &Explanation) -> String {
    let exact = if e.exact { "exact" } else { "approximation" };
    format!(
        "{model}  why {target}   {} {:.4}   {} ({exact}, against {baseline})",
        e.quantity, e.output, e.method
    )
}

fn body(parts: &Parts, e: &Explanation, coloured: bool) -> String {
    let values: Vec<f64> = e.attributions.iter().map(|a| a.value).collect();
    if coloured && e.of == Of::Features {
        match parts {
            Parts::Text { .. } | Parts::Messages { .. } => return text(&names(parts, e), &values),
            Parts::Image { height, width, .. } => {
                if let Some(map) = parts.heatmap(e.elements.as_deref(), &values) {
                    return picture(&relative(&map), *height, *width);
                }
            }
            _ => {}
        }
    }
    let values: Vec<(f64, Option<f64>)> = e.attributions.iter().map(|a| (a.value, a.stderr)).collect();
    bars(&names(parts, e), &values)
}

/// Each part on the colour of its value.
fn text(names: &[String], values: &[f64]) -> String {
    let mut out = String::new();
    for (name, x) in names.iter().zip(relative(values)) {
        let [r, g, b] = colour(x);
        out.push_str(&format!("\x1b[48;2;{r};{g};{b}m\x1b[38;2;0;0;0m{name}\x1b[0m"));
    }
    out
}

/// Two pixels a character, each on the colour of its value.
fn picture(map: &[f64], height: usize, width: usize) -> String {
    let pixel = |row: usize, column: usize| match row < height {
        true => colour(map[row * width + column]),
        false => [255; 3],
    };
    let mut lines = Vec::new();
    for row in (0..height).step_by(2) {
        let mut line = String::from("  ");
        for column in 0..width {
            let ([r, g, b], [x, y, z]) = (pixel(row, column), pixel(row + 1, column));
            line.push_str(&format!("\x1b[38;2;{r};{g};{b}m\x1b[48;2;{x};{y};{z}m▀"));
        }
        line.push_str("\x1b[0m");
        lines.push(line);
    }
    lines.join("\n")
}

/// The largest values first, `+` speaking for and `-` against; each may have its standard error.
pub(in crate::commands) fn bars(names: &[String], values: &[(f64, Option<f64>)]) -> String {
    let mut order: Vec<usize> = (0..names.len()).collect();
    let size = |i: usize| values[i].0.abs();
    order.sort_by(|&a, &b| size(b).total_cmp(&size(a)).then(a.cmp(&b)));
    let largest = order.first().map_or(0.0, |&i| size(i));
    let shown = |name: &str| name.replace(['\n', '\r', '\t'], "·");
    let width = order.iter().take(BARS_MAX).map(|&i| shown(&names[i]).chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for &i in order.iter().take(BARS_MAX) {
        let (value, stderr) = values[i];
        let length = if largest > 0.0 { (value.abs() / largest * BAR as f64).round() as usize } else { 0 };
        let bar = if value < 0.0 { "-" } else { "+" }.repeat(length);
        let stderr = stderr.map_or(String::new(), |s| format!(" ± {}", short(s)));
        let padding = " ".repeat(width - shown(&names[i]).chars().count());
        lines.push(format!("  {}{padding}  {:>10}{stderr}  {bar}", shown(&names[i]), short(value)));
    }
    if names.len() > BARS_MAX {
        lines.push(format!("  … and {} more", names.len() - BARS_MAX));
    }
    lines.join("\n")
}

/// Four decimals, or two digits of what is smaller.
fn short(x: f64) -> String {
    if x == 0.0 || x.abs() >= 1e-3 { format!("{x:.4}") } else { format!("{x:.1e}") }
}

fn foot(e: &Explanation) -> String {
    let c = &e.checks;
    let mut said = Vec::new();
    if let Some(base) = e.base_value {
        said.push(format!("base value {base:.4}"));
    }
    match (c.completeness_gap, c.complete) {
        (Some(gap), Some(true)) => said.push(format!("adds up (gap {gap:.2e})")),
        (Some(gap), _) => said.push(format!("DOES NOT ADD UP: gap {gap:.2e}")),
        (None, _) => said.push("does not promise to add up".into()),
    }
    if let Some(fit) = &e.fit {
        let (n, n_unseen) = (fit.masks.len() - fit.n_held_out, fit.n_held_out);
        said.push(match fit.lds {
            Some(lds) => {
                format!("fitted to {n} masks, rank correlation {lds:.2} on {n_unseen} that it has not seen")
            }
            None => format!("fitted to {n} masks, which could not be judged"),
        });
        let drops = fit.drops.iter().map(|(k, drop)| format!("{drop:.2} without the first {k}"));
        said.push(format!("the answer loses {}", drops.collect::<Vec<_>>().join(", ")));
    }
    if let Some(x) = c.comprehensiveness {
        let [mean, _] = c.random_control.comprehensiveness.unwrap_or([f64::NAN; 2]);
        said.push(format!("comprehensiveness {x:.3} (random order {mean:.3})"));
    }
    match c.faithful {
        Some(true) => said.push("faithful: better than random orders".into()),
        Some(false) => said.push("NOT faithful: no better than random orders".into()),
        None => said.push("faithfulness not evaluated (--evaluate comprehensiveness)".into()),
    }
    let usage = e.usage;
    said.push(format!("{} passes, {} back", usage.forward_passes, usage.backward_passes));
    said.join("; ")
}
