//! The drawings of a card as SVG: quality beside baselines with intervals, reliability, accuracy under attack. Each has
//! a title and a description for those who do not see it, and its numbers stand in the table below it.

use super::brief;
use super::html::escape;
use lyceum_types::card::{Number, Part, Sections};

const COLORS: [&str; 3] = ["var(--one)", "var(--two)", "var(--three)"];

pub fn of(part: Part, sections: &Sections) -> Vec<String> {
    let numbers = &sections.of(part).numbers;
    match part {
        Part::Quality => quality(numbers).into_iter().collect(),
        Part::Calibration => reliability(numbers).into_iter().collect(),
        Part::Robustness => robust(numbers),
        _ => Vec::new(),
    }
}

/// Shares of right answers, the model's first, each with its interval on a line from 0 to 1.
fn quality(numbers: &[Number]) -> Option<String> {
    let shares: Vec<&Number> =
        numbers.iter().filter(|n| n.unit == "share" && n.name.ends_with("accuracy")).collect();
    if shares.is_empty() {
        return None;
    }
    let (left, width, step) = (300.0, 400.0, 26.0);
    let height = step * shares.len() as f64 + 40.0;
    let x = |v: f64| left + width * v.clamp(0.0, 1.0);
    let mut body = String::new();
    for (i, n) in shares.iter().enumerate() {
        let y = 24.0 + step * i as f64;
        let is_model = shares[0].of == n.of;
        let color = if is_model { COLORS[0] } else { COLORS[1] };
        body += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            left - 10.0,
            y + 4.0,
            escape(&format!("{}: {}", n.of, n.name))
        );
        if let Some([low, high]) = n.ci95.value() {
            body += &format!(
                "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{color}\" stroke-width=\"3\"/>",
                x(*low),
                x(*high)
            );
        }
        body += &format!("<circle cx=\"{:.1}\" cy=\"{y}\" r=\"5\" fill=\"{color}\"/>", x(n.value));
    }
    let ticks = [0.0, 0.25, 0.5, 0.75, 1.0].map(|v| {
        let (x, y) = (x(v), height - 8.0);
        format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{v}</text>")
    });
    let words: Vec<String> =
        shares.iter().map(|n| format!("{} of {} is {}", n.name, n.of, brief(n.value))).collect();
    Some(svg(
        [left + width + 30.0, height],
        "Accuracy beside baselines",
        &words.join("; "),
        &(body + &ticks.concat()),
    ))
}

/// Accuracy over confidence; on the diagonal a model is as sure as it is right.
fn reliability(numbers: &[Number]) -> Option<String> {
    let bins: Vec<&Number> = numbers.iter().filter(|n| n.name == "accuracy in bin").collect();
    let points: Vec<(f64, &Number)> = bins.iter().filter_map(|n| Some((n.at.as_ref()?.value, *n))).collect();
    (!points.is_empty()).then(|| {
        let title = "Reliability: share of right answers over mean confidence";
        let frame = Frame::new(1.0, "confidence");
        let (a, b) = (frame.at(0.0, 0.0), frame.at(1.0, 1.0));
        let diagonal = format!(
            "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"var(--soft)\" stroke-dasharray=\"4 4\"/>",
            a.0, a.1, b.0, b.1
        );
        frame.finish(title, &[("bins", points)], diagonal)
    })
}

/// Accuracy under each attack over ε, a drawing a norm.
fn robust(numbers: &[Number]) -> Vec<String> {
    let attacked = |n: &&Number| n.name == "robust_accuracy" || n.name == "certified_accuracy";
    let mut norms: Vec<&str> =
        numbers.iter().filter(attacked).filter_map(|n| Some(n.at.as_ref()?.name.as_str())).collect();
    norms.sort_unstable();
    norms.dedup();
    let draw = |norm: &str| {
        let of = |name: &str| -> Vec<(f64, &Number)> {
            let here = numbers.iter().filter(|n| n.name == name);
            let mut points: Vec<(f64, &Number)> = here
                .filter_map(|n| n.at.as_ref().filter(|at| at.name == norm).map(|at| (at.value, n)))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let series: Vec<(&str, Vec<(f64, &Number)>)> =
            [("attacked", of("robust_accuracy")), ("certified", of("certified_accuracy"))]
                .into_iter()
                .filter(|(_, points)| !points.is_empty())
                .collect();
        let largest = series.iter().flat_map(|(_, points)| points).map(|(x, _)| *x).fold(0.0, f64::max);
        let title = format!("Accuracy over {norm}");
        Frame::new(largest.max(1e-9) * 1.05, norm).finish(&title, &series, String::new())
    };
    norms.into_iter().map(draw).collect()
}

/// Axes from 0 to `x_max` and from 0 to 1.
struct Frame<'a> {
    x_max: f64,
    x_name: &'a str,
}

const SIDE: f64 = 320.0;
const LEFT: f64 = 50.0;
const TOP: f64 = 20.0;

impl<'a> Frame<'a> {
    fn new(x_max: f64, x_name: &'a str) -> Self {
        Frame { x_max, x_name }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let round = |v: f64| (v * 10.0).round() / 10.0;
        (round(LEFT + SIDE * x / self.x_max), round(TOP + SIDE * (1.0 - y.clamp(0.0, 1.0))))
    }

    fn finish(&self, title: &str, series: &[(&str, Vec<(f64, &Number)>)], under: String) -> String {
        let mut body = format!(
            "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"var(--rule)\"/>{under}"
        );
        for v in [0.0, 0.5, 1.0] {
            let (_, y) = self.at(0.0, v);
            let (x, _) = self.at(v * self.x_max, 0.0);
            body += &format!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{v}</text>", LEFT - 8.0, y + 4.0);
            body += &format!(
                "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                TOP + SIDE + 18.0,
                brief(v * self.x_max)
            );
        }
        body += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            LEFT + SIDE / 2.0,
            TOP + SIDE + 38.0,
            escape(self.x_name)
        );
        let mut words = Vec::new();
        for (i, (name, points)) in series.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            for (x, n) in points {
                let (px, py) = self.at(*x, n.value);
                if let Some([low, high]) = n.ci95.value() {
                    let (a, b) = (self.at(*x, *low).1, self.at(*x, *high).1);
                    body += &format!(
                        "<line x1=\"{px}\" x2=\"{px}\" y1=\"{a}\" y2=\"{b}\" stroke=\"{color}\" stroke-width=\"2\"/>"
                    );
                }
                body += &format!("<circle cx=\"{px}\" cy=\"{py}\" r=\"4\" fill=\"{color}\"/>");
                words.push(format!("{name} at {}: {}", brief(*x), brief(n.value)));
            }
            let y = TOP + 16.0 + 18.0 * i as f64;
            body += &format!(
                "<text x=\"{}\" y=\"{y}\" fill=\"{color}\">{}</text>",
                LEFT + SIDE + 12.0,
                escape(name)
            );
        }
        svg([LEFT + SIDE + 110.0, TOP + SIDE + 50.0], title, &words.join("; "), &body)
    }
}

fn svg([width, height]: [f64; 2], title: &str, description: &str, body: &str) -> String {
    format!(
        "<svg role=\"img\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-size=\"12\" \
         font-family=\"system-ui,sans-serif\" fill=\"var(--ink)\"><title>{}</title><desc>{}</desc>{body}</svg>",
        escape(title),
        escape(description)
    )
}
