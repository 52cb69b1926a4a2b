//! An explanation as a drawing (SVG) and as a page (HTML) that needs nothing beside itself.

use super::names;
use lyceum_service::explain::{Explanation, Of, Parts, colour, relative};
use serde_json::Value;

const WIDTH: usize = 720;
const LINE: usize = 22;
/// Width of one character of the fixed font.
const CHARACTER: f64 = 8.4;

/// The drawing alone.
pub(super) fn drawing(parts: &Parts, e: &Explanation) -> String {
    let values: Vec<f64> = e.attributions.iter().map(|a| a.value).collect();
    match (parts, &e.of) {
        (Parts::Text { .. } | Parts::Messages { .. }, Of::Features) => text(&names(parts, e), &values),
        (Parts::Image { height, width, .. }, Of::Features) => {
            match parts.heatmap(e.elements.as_deref(), &values) {
                Some(map) => picture(&relative(&map), *height, *width),
                None => bars(&names(parts, e), &values),
            }
        }
        _ => bars(&names(parts, e), &values),
    }
}

/// A page: what was explained, the drawing, and every number as a table.
pub(super) fn page(model: &str, target: &str, parts: &Parts, e: &Explanation, body: &Value) -> String {
    let rows: Vec<String> = names(parts, e)
        .iter()
        .zip(&e.attributions)
        .map(|(name, a)| {
            let stderr = a.stderr.map_or(String::new(), |s| format!("{s:.6}"));
            format!("<tr><td>{}</td><td>{:.6}</td><td>{stderr}</td></tr>", escaped(name), a.value)
        })
        .collect();
    let pretty = serde_json::to_string_pretty(&body["checks"]).unwrap_or_default();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>\
         body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:48rem;padding:0 1rem}}\
         table{{border-collapse:collapse}}td,th{{border-bottom:1px solid #ccc;padding:.2rem .8rem;text-align:left}}\
         svg{{max-width:100%;height:auto}}pre{{overflow:auto}}</style></head>\n<body>\n<h1>{title}</h1>\n\
         <p>{method} ({exact}) of the {quantity} {output:.6}. Red speaks for, blue against.</p>\n{svg}\n\
         <h2>Values</h2>\n<table><thead><tr><th>part</th><th>value</th><th>standard error</th></tr></thead>\
         <tbody>\n{rows}\n</tbody></table>\n<h2>Checks</h2>\n<pre>{checks}</pre>\n</body></html>\n",
        title = escaped(&format!("Why {model} says {target}")),
        method = e.method,
        exact = if e.exact { "exact" } else { "an approximation" },
        quantity = e.quantity,
        output = e.output,
        svg = drawing(parts, e),
        rows = rows.join("\n"),
        checks = escaped(&pretty),
    )
}

fn svg(width: usize, height: usize, inner: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"attributions\" font-family=\"monospace\" \
         font-size=\"14\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{inner}</svg>\n"
    )
}

/// Parts in lines, each on the colour of its value.
fn text(names: &[String], values: &[f64]) -> String {
    let per_line = (WIDTH as f64 / CHARACTER) as usize - 2;
    let (mut inner, mut line, mut column) = (String::new(), 0, 0);
    for ((name, x), value) in names.iter().zip(relative(values)).zip(values) {
        // A part longer than a line is cut into pieces; a line break ends one.
        let characters: Vec<char> = name.chars().collect();
        for piece in characters.split_inclusive(|&c| c == '\n') {
            for piece in piece.chunks(per_line) {
                let shown: String = piece.iter().map(|&c| if c.is_control() { ' ' } else { c }).collect();
                let n = piece.len();
                if column + n > per_line {
                    (line, column) = (line + 1, 0);
                }
                let [r, g, b] = colour(x);
                let (left, top) = (8.0 + column as f64 * CHARACTER, 6 + line * LINE);
                inner.push_str(&format!(
                    "<g><title>{value:.6}</title><rect x=\"{left:.1}\" y=\"{top}\" width=\"{:.1}\" \
                     height=\"{}\" fill=\"rgb({r},{g},{b})\"/><text x=\"{left:.1}\" y=\"{}\" \
                     xml:space=\"preserve\" textLength=\"{:.1}\">{}</text></g>\n",
                    n as f64 * CHARACTER,
                    LINE - 3,
                    top + 15,
                    n as f64 * CHARACTER,
                    escaped(&shown)
                ));
                column += n;
            }
            if piece.last() == Some(&'\n') {
                (line, column) = (line + 1, 0);
            }
        }
    }
    svg(WIDTH, (line + 1) * LINE + 12, &inner)
}

fn picture(map: &[f64], height: usize, width: usize) -> String {
    let side = (360 / height.max(width).max(1)).max(2);
    let mut inner = String::new();
    for (i, &x) in map.iter().enumerate() {
        let ([r, g, b], row, column) = (colour(x), i / width, i % width);
        inner.push_str(&format!(
            "<rect x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\" fill=\"rgb({r},{g},{b})\"/>\n",
            column * side,
            row * side
        ));
    }
    svg(width * side, height * side, &inner)
}

/// Horizontal bars from a middle line, in the order of the parts.
fn bars(names: &[String], values: &[f64]) -> String {
    let (middle, half) = (WIDTH as f64 * 0.66, WIDTH as f64 * 0.3);
    let mut inner = format!(
        "<line x1=\"{middle}\" x2=\"{middle}\" y1=\"0\" y2=\"{}\" stroke=\"#888888\"/>\n",
        names.len() * LINE + 12
    );
    for (i, ((name, x), value)) in names.iter().zip(relative(values)).zip(values).enumerate() {
        let (top, length) = (6 + i * LINE, x.abs() * half);
        let left = if x < 0.0 { middle - length } else { middle };
        let fill = if x < 0.0 { "#2b6cb0" } else { "#c53030" };
        let short: String = name.chars().take(36).map(|c| if c.is_control() { ' ' } else { c }).collect();
        inner.push_str(&format!(
            "<text x=\"8\" y=\"{}\">{}</text><rect x=\"{left:.1}\" y=\"{top}\" width=\"{length:.1}\" \
             height=\"{}\" fill=\"{fill}\"><title>{value:.6}</title></rect>\n",
            top + 15,
            escaped(&short),
            LINE - 4
        ));
    }
    svg(WIDTH, names.len() * LINE + 12, &inner)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_user_are_never_markup() {
        let drawn = text(&["<script>alert(1)</script>".into(), " & \"more\"\n".into()], &[1.0, -0.5]);
        assert!(!drawn.contains("<script") && drawn.contains("&lt;script&gt;"));
        assert!(drawn.contains("rgb(255,0,0)") && drawn.contains("rgb(128,128,255)"), "{drawn}");
    }

    #[test]
    fn long_texts_wrap_and_bars_stay_inside() {
        let words: Vec<String> = (0..60).map(|i| format!("word{i} ")).collect();
        let drawn = text(&words, &vec![0.5; 60]);
        for part in drawn.split(" x=\"").skip(1) {
            let x: f64 = part.split('"').next().unwrap().parse().unwrap();
            assert!(x < WIDTH as f64);
        }
        let drawn = bars(&["a".into(), "b".into()], &[3.0, -3.0]);
        assert!(drawn.contains("#2b6cb0") && drawn.contains("#c53030"));
    }
}
