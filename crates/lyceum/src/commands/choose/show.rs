//! A choice for people: one row a candidate, what ties, and the sentence.

use crate::output;
use lyceum_choose::limits::figure;
use lyceum_choose::race::Out;
use lyceum_choose::row::{Explained, Row, Standing};
use lyceum_choose::scores::Loss;
use lyceum_choose::{Selection, rule};
use serde_json::Value;
use std::path::Path;

pub fn print(found: &Selection, document: &Value, path: &Path) {
    let metric = found.loss.metric();
    let header = [
        "candidate",
        metric,
        "95 %",
        "p50 ms",
        "p95 ms",
        "p95 loaded",
        "CPU s/1k",
        "memory",
        "disk",
        "params",
        "ops",
        "train s",
        "ECE",
        "explain",
        "attacked",
        "",
    ];
    let mut order: Vec<&Row> = found.rows.iter().collect();
    let rank = |row: &Row| match row.standing {
        Standing::Finalist | Standing::Baseline => 0,
        Standing::Out(_) => 1,
        Standing::Excluded(_) => 2,
    };
    let better = |row: &Row| {
        row.quality
            .as_ref()
            .map_or(f64::INFINITY, |q| if found.loss == Loss::Error { -q.value } else { q.value })
    };
    order.sort_by(|a, b| rank(a).cmp(&rank(b)).then(better(a).total_cmp(&better(b))));
    output::table(&header, &order.into_iter().map(|row| cells(found.loss, row)).collect::<Vec<_>>());
    output::text(format!(
        "{} held-out rows, {} seeds, {:.0} % of the training as written; blank: not measured",
        found.n_rows,
        found.seeds,
        found.share * 100.0
    ));
    for tie in &found.ties {
        output::text(self::tie(found, tie));
    }
    if let Ok(taken) = &found.recommendation {
        output::text(format!("\n{}", taken.sentence));
        model(document);
    }
    if let Some(test) = document["test"]["metrics"].as_object() {
        let name = format!("test_{metric}");
        let metric = test.get(&name).and_then(|m| serde_json::from_value(m.clone()).ok());
        if let Some(metric) = metric {
            output::text(format!(
                "On the test part, opened once: {name} {}",
                crate::commands::show::metric(&metric)
            ));
        }
    }
    for (what, why) in &found.not_evaluated {
        output::note(format!("not evaluated: {what}: {why}"));
    }
    output::note(format!("{:.0} s; everything is in {}", found.seconds, path.display()));
}

/// Which version it is, and how a language model is asked so.
pub fn model(document: &Value) {
    let recommendation = &document["recommendation"];
    let Some(model) = recommendation["model"].as_str() else { return };
    match recommendation["ask"].as_object() {
        None => output::text(format!("Registered as {model}.")),
        Some(ask) => {
            let words = ask.get("instructions").and_then(Value::as_str).unwrap_or_default();
            let (first, n) = (words.lines().next().unwrap_or_default(), words.lines().count());
            let more =
                if n > 1 { format!(" (and {} lines more, in the document)", n - 1) } else { String::new() };
            output::text(format!("It is {model}: ask POST /v1/decisions \"{first}\"{more}."));
        }
    }
}

fn cells(loss: Loss, row: &Row) -> Vec<String> {
    let blank = String::new;
    let ms = |value: f64| format!("{value:.2}");
    let serving = row.serving.as_ref();
    let quality = row.quality.as_ref();
    let mark = match (&row.standing, row.pareto) {
        (Standing::Finalist, true) => "on the front".to_owned(),
        (Standing::Finalist, false) => blank(),
        (Standing::Baseline, _) => "baseline".to_owned(),
        _ => why_out(row).unwrap_or_default(),
    };
    vec![
        row.name.clone(),
        quality.map_or_else(blank, |q| rule::quality(loss, q.value)),
        quality.map_or_else(blank, |q| {
            format!("{} – {}", rule::quality(loss, q.ci95[0]), rule::quality(loss, q.ci95[1]))
        }),
        serving.map_or_else(blank, |s| ms(s.alone.p50_ms)),
        serving.map_or_else(blank, |s| ms(s.alone.p95_ms)),
        serving.map_or_else(blank, |s| ms(s.together.p95_ms)),
        serving.and_then(|s| s.cpu_seconds_per_1k).map_or_else(blank, figure),
        row.ram_bytes.map_or_else(blank, output::bytes),
        row.disk_bytes.map_or_else(blank, output::bytes),
        row.parameters.map_or_else(blank, |n| figure(n as f64)),
        row.operations.map_or_else(blank, |n| figure(n as f64)),
        row.training_seconds.map_or_else(blank, figure),
        row.ece.as_ref().map_or_else(blank, |ece| format!("{:.3}", ece.value)),
        row.explained.as_ref().map_or_else(blank, explained),
        row.robustness.as_ref().map_or_else(blank, |r| format!("{:.1} %", r.accuracy.value * 100.0)),
        mark,
    ]
}

/// The level that holds; blank where nothing was measured.
fn explained(explained: &Explained) -> String {
    match (explained.level(), &explained.measured) {
        (Some(level), _) => level.as_str().to_owned(),
        (None, Some(_)) => "not faithful".to_owned(),
        (None, None) => String::new(),
    }
}

/// Why a row is not compared to the end; None where it is.
pub fn why_out(row: &Row) -> Option<String> {
    match &row.standing {
        Standing::Finalist | Standing::Baseline => None,
        Standing::Excluded(excesses) => {
            Some(excesses.iter().map(|excess| excess.reason.as_str()).collect::<Vec<_>>().join("; "))
        }
        Standing::Out(ended) => Some(out(ended)),
    }
}

pub fn out(out: &Out) -> String {
    match out {
        Out::Slower { rung, share, .. } => {
            format!("outrun after {:.0} % of the training (rung {})", share * 100.0, rung + 1)
        }
        Out::Failed(why) => why.clone(),
        Out::Budget => "the budget was over".into(),
    }
}

/// `A, B and C are not distinguishable; about 1,900 held-out rows would separate A from C`
pub fn tie(found: &Selection, tie: &lyceum_choose::Tie) -> String {
    let name = |i: usize| found.rows[i].name.as_str();
    let names: Vec<&str> = tie.members.iter().map(|&i| name(i)).collect();
    let (last, first) = names.split_last().map_or(("", &[][..]), |(last, first)| (*last, first));
    let them = format!("{} from {}", name(tie.apart.0), name(tie.apart.1));
    let separation = rule::separation(tie.separation).replace("them", &them);
    format!("{} and {last} are not distinguishable; {separation}", first.join(", "))
}
