//! Quality against cost as an SVG of our own: light, without scripts or fonts, readable by a screen reader (title,
//! description, and a title on every point).

use lyceum_choose::limits::figure;
use lyceum_choose::row::{Row, Standing};
use lyceum_choose::scores::Loss;
use lyceum_choose::{Selection, rule};
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 54.0;
const BOTTOM: f64 = 62.0;

struct Point<'a> {
    row: &'a Row,
    cost: f64,
    value: f64,
    ci95: [f64; 2],
    is_taken: bool,
}

/// The whole file.
pub fn draw(name: &str, found: &Selection) -> String {
    let taken = found.recommendation.as_ref().ok().map(|taken| taken.row);
    let points: Vec<Point<'_>> = found
        .rows
        .iter()
        .enumerate()
        .filter(|(_, row)| matches!(row.standing, Standing::Finalist | Standing::Excluded(_)))
        .filter_map(|(i, row)| {
            let (quality, serving) = (row.quality.as_ref()?, row.serving.as_ref()?);
            let cost = serving.cpu_seconds_per_1k.unwrap_or(serving.alone.p50_ms);
            Some(Point { row, cost, value: quality.value, ci95: quality.ci95, is_taken: taken == Some(i) })
        })
        .collect();
    let sentence = match &found.recommendation {
        Ok(taken) => taken.sentence.clone(),
        Err(sentence) => sentence.clone(),
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-labelledby=\"title description\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <title id=\"title\">{}</title>\n<desc id=\"description\">{}</desc>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"17\" fill=\"#1a1a1a\">{}</text>\n",
        escape(&format!("{name}: quality against cost")),
        escape(&sentence),
        escape(&format!("{name}: {} against processor time", found.loss.metric())),
    );
    if points.is_empty() {
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"90\" fill=\"#1a1a1a\">No candidate was measured to the end.</text>\n</svg>"
        );
        return out;
    }
    let axes = Axes::of(&points);
    axes.draw(found, &mut out);
    front(&points, &axes, found.loss, &mut out);
    points.iter().for_each(|point| mark(point, &axes, found.loss, &mut out));
    out.push_str("</svg>\n");
    out
}

/// Logarithms of costs across, qualities up.
struct Axes {
    cost: [f64; 2],
    value: [f64; 2],
}

impl Axes {
    fn of(points: &[Point<'_>]) -> Self {
        let around = |low: f64, high: f64, least: f64| {
            let room = ((high - low) * 0.12).max(least);
            [low - room, high + room]
        };
        let costs = points.iter().map(|p| p.cost.max(1e-12).log10());
        let (low, high) = costs.fold((f64::MAX, f64::MIN), |(l, h), c| (l.min(c), h.max(c)));
        let values = points.iter().flat_map(|p| p.ci95);
        let (below, above) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        Axes { cost: around(low, high, 0.15), value: around(below, above, 1e-9 + above.abs() * 1e-3) }
    }

    fn x(&self, cost: f64) -> f64 {
        let share = (cost.max(1e-12).log10() - self.cost[0]) / (self.cost[1] - self.cost[0]);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value - self.value[0]) / (self.value[1] - self.value[0]);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, found: &Selection, out: &mut String) {
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for i in 0..=4 {
            let part = f64::from(i) / 4.0;
            let value = self.value[0] + part * (self.value[1] - self.value[0]);
            let cost = 10f64.powf(self.cost[0] + part * (self.cost[1] - self.cost[0]));
            let (x, y) = (self.x(cost), self.y(value));
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#e3e3e3\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444444\">{}</text>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444444\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                rule::quality(found.loss, value),
                floor + 20.0,
                figure(cost),
            );
        }
        let cost = if found.not_evaluated.iter().any(|(what, _)| what == "cpu_seconds_per_1k") {
            "milliseconds of an answer"
        } else {
            "CPU seconds for 1,000 answers"
        };
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#1a1a1a\">{cost} (logarithmic)</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 16.0
        );
    }
}

/// The front as steps from the cheapest to the best.
fn front(points: &[Point<'_>], axes: &Axes, loss: Loss, out: &mut String) {
    let mut on: Vec<&Point<'_>> = points.iter().filter(|point| point.row.pareto).collect();
    on.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    let mut path = String::new();
    for (i, point) in on.iter().enumerate() {
        let (x, y) = (axes.x(point.cost), axes.y(point.value));
        let _ = if i == 0 { write!(path, "M{x:.1} {y:.1}") } else { write!(path, "H{x:.1}V{y:.1}") };
    }
    let words = on.iter().map(|p| format!("{} {}", p.row.name, rule::quality(loss, p.value)));
    let words = escape(&words.collect::<Vec<_>>().join(", "));
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"none\" stroke=\"#0b6e99\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\">\
         <title>Pareto front: {words}</title></path>"
    );
}

fn mark(point: &Point<'_>, axes: &Axes, loss: Loss, out: &mut String) {
    let (x, y) = (axes.x(point.cost), axes.y(point.value));
    let excluded = matches!(point.row.standing, Standing::Excluded(_));
    let color = match (point.is_taken, excluded) {
        (true, _) => "#b3261e",
        (false, true) => "#9a9a9a",
        (false, false) => "#0b6e99",
    };
    let role = match (point.is_taken, excluded) {
        (true, _) => " (taken)",
        (false, true) => " (breaks a limit)",
        (false, false) => "",
    };
    let name = escape(&point.row.name);
    let (low, high) = (axes.y(point.ci95[0]), axes.y(point.ci95[1]));
    let anchor = if x > WIDTH - 160.0 { ("end", -9.0) } else { ("start", 9.0) };
    let _ = writeln!(
        out,
        "<g><title>{name}{role}: {} ({} to {}), cost {}</title>\
         <path d=\"M{x:.1} {low:.1}V{high:.1}\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
         <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{}\" fill=\"{color}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{}\" fill=\"#1a1a1a\"{}>{name}{role}</text></g>",
        rule::quality(loss, point.value),
        rule::quality(loss, point.ci95[0]),
        rule::quality(loss, point.ci95[1]),
        figure(point.cost),
        if point.is_taken { 6 } else { 4 },
        x + anchor.1,
        y - 7.0,
        anchor.0,
        if point.is_taken { " font-weight=\"bold\"" } else { "" },
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
