//! What breaks a limit, and by how much; and when nothing is left, which limit it was.

use crate::row::Row;
use lyceum_types::spec::choose::{Explainability, Limits};

/// A limit that a row breaks.
#[derive(Clone, Debug, PartialEq)]
pub struct Excess {
    /// The key of `[limits]`.
    pub limit: &'static str,
    /// What is allowed and what was found, where both are numbers.
    pub numbers: Option<(f64, f64)>,
    /// Both in words, and by how much.
    pub reason: String,
}

/// When a limit is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before training: what the architecture and an untrained model tell.
    Before,
    /// On the trained model.
    After,
}

/// Every limit that the row breaks at this stage. What is not known at the end breaks its limit too: a limit is
/// never taken as kept because nobody looked.
pub fn excesses(limits: &Limits, row: &Row, stage: Stage) -> Vec<Excess> {
    let latency = row.serving.as_ref().map(|serving| serving.alone.p95_ms);
    let wide = |n: Option<u64>| n.map(|n| n as f64);
    let numbers = [
        ("parameters", wide(limits.parameters), wide(row.parameters), ""),
        ("operations", wide(limits.operations), wide(row.operations), " an answer"),
        ("ram_bytes", wide(limits.ram_bytes), wide(row.ram_bytes), ""),
        ("latency_ms_p95", limits.latency_ms_p95, latency, " ms"),
        ("usd_per_1k", limits.usd_per_1k, row.usd_per_1k, " USD"),
    ];
    let mut found: Vec<Excess> = Vec::new();
    for (limit, allowed, value, unit) in numbers {
        let Some(allowed) = allowed else { continue };
        match value {
            Some(value) if value <= allowed => {}
            Some(value) => found.push(Excess {
                limit,
                numbers: Some((allowed, value)),
                reason: format!(
                    "{limit}: {}{unit}, {} allowed: {} times as much",
                    figure(value),
                    figure(allowed),
                    figure(value / allowed)
                ),
            }),
            None if stage == Stage::After => found.push(unknown(limit)),
            None => {}
        }
    }
    if stage == Stage::Before {
        let inexact = row.explained.as_ref().is_some_and(|explained| explained.exact.is_none());
        if limits.explainability == Some(Explainability::Exact) && inexact {
            let reason = "explainability: exact is wanted; no exact method explains this model".to_owned();
            found.push(Excess { limit: "explainability", numbers: None, reason });
        }
        return found;
    }
    if let Some(wanted) = limits.explainability {
        match &row.explained {
            None => found.push(unknown("explainability")),
            Some(explained) if explained.level() >= Some(wanted) => {}
            Some(explained) => {
                let measured = match &explained.measured {
                    Some(m) => format!(
                        "no exact method; {} is {} more comprehensive than random attributions (95 % interval {} to {})",
                        m.method,
                        figure(m.over_random.value),
                        figure(m.over_random.ci95[0]),
                        figure(m.over_random.ci95[1])
                    ),
                    None => "no exact method, and no measured one".to_owned(),
                };
                let reason = format!("explainability: {} is wanted; {measured}", wanted.as_str());
                found.push(Excess { limit: "explainability", numbers: None, reason });
            }
        }
    }
    if let Some(least) = limits.robust_accuracy {
        match &row.robustness {
            None => found.push(unknown("robust_accuracy")),
            Some(left) if left.accuracy.value >= least => {}
            Some(left) => {
                let value = left.accuracy.value;
                let reason = format!(
                    "robust_accuracy: {} under {}, {} wanted",
                    figure(value),
                    left.method,
                    figure(least)
                );
                // The nearest has the smallest second over first.
                found.push(Excess {
                    limit: "robust_accuracy",
                    numbers: Some((1.0 - least, 1.0 - value)),
                    reason,
                });
            }
        }
    }
    if let Some(allowed) = limits.epsilon_max {
        match row.epsilon {
            Some(epsilon) if epsilon <= allowed => {}
            Some(epsilon) => {
                let reason = format!("epsilon_max: ε = {}, {} allowed", figure(epsilon), figure(allowed));
                found.push(Excess { limit: "epsilon_max", numbers: Some((allowed, epsilon)), reason });
            }
            None => {
                let reason = format!(
                    "epsilon_max: trained without privacy, ε is infinite; {} allowed",
                    figure(allowed)
                );
                found.push(Excess { limit: "epsilon_max", numbers: None, reason });
            }
        }
    }
    found
}

fn unknown(limit: &'static str) -> Excess {
    Excess { limit, numbers: None, reason: format!("{limit}: not measured, so not known to be kept") }
}

/// Why nothing is left: the limit that every candidate breaks and how near the nearest comes; without such a limit,
/// the candidate that breaks the least and what it breaks.
pub fn nothing_left(excluded: &[(&str, &[Excess])]) -> String {
    let Some((_, first)) = excluded.first() else { return "there is no candidate".into() };
    for excess in *first {
        let breaks = |(_, excesses): &(&str, &[Excess])| excesses.iter().any(|e| e.limit == excess.limit);
        if excluded.iter().all(breaks) {
            let of = |excesses: &[Excess]| excesses.iter().find(|e| e.limit == excess.limit).cloned();
            let ratio = |e: &Excess| e.numbers.map_or(f64::INFINITY, |(allowed, found)| found / allowed);
            let all = excluded.iter().filter_map(|(name, excesses)| of(excesses).map(|e| (*name, e)));
            let nearest = all.min_by(|a, b| ratio(&a.1).total_cmp(&ratio(&b.1)));
            let (name, nearest) = nearest.unwrap_or((excluded[0].0, excess.clone()));
            return format!(
                "no candidate is left: all {} break {}; the nearest is {name} ({})",
                excluded.len(),
                excess.limit,
                nearest.reason
            );
        }
    }
    let (name, excesses) = excluded.iter().min_by_key(|(_, excesses)| excesses.len()).unwrap_or(&excluded[0]);
    let reasons: Vec<&str> = excesses.iter().map(|e| e.reason.as_str()).collect();
    format!(
        "no candidate is left: no one limit excludes all {}, each breaks one; {name} breaks the fewest ({})",
        excluded.len(),
        reasons.join("; ")
    )
}

/// Three significant digits.
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-4..1e15).contains(&size) => format!("{value:.2e}"),
        size if size >= 100.0 => {
            let digits: Vec<char> = format!("{:.0}", size).chars().collect();
            let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
            for (i, digit) in digits.iter().enumerate() {
                if i > 0 && (digits.len() - i).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(*digit);
            }
            text
        }
        size => {
            let decimals = (2.0 - size.log10().floor()) as usize;
            let text = format!("{value:.decimals$}");
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Explained;
    use crate::serve::{Latency, Serving};

    fn row(parameters: u64, p95_ms: f64) -> Row {
        let latency = Latency { p50_ms: p95_ms / 2.0, p95_ms, n: 100 };
        let serving = Serving {
            alone: latency,
            together: latency,
            concurrency: 8,
            answers_per_s: 1.0,
            cpu_seconds_per_1k: None,
        };
        Row {
            parameters: Some(parameters),
            serving: Some(serving),
            ..Row::new("a".into(), "mlp".into(), None)
        }
    }

    #[test]
    fn an_excess_says_its_limit_and_by_how_much() {
        let limits = Limits { parameters: Some(1000), latency_ms_p95: Some(2.0), ..Limits::default() };
        let found = excesses(&limits, &row(2500, 1.5), Stage::Before);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].numbers, Some((1000.0, 2500.0)));
        assert_eq!(found[0].reason, "parameters: 2,500, 1,000 allowed: 2.5 times as much");
        assert!(excesses(&limits, &row(1000, 2.0), Stage::After).is_empty());
    }

    #[test]
    fn what_nobody_measured_does_not_keep_a_limit() {
        let limits = Limits {
            explainability: Some(Explainability::Exact),
            epsilon_max: Some(3.0),
            ..Limits::default()
        };
        let mut row = row(1, 1.0);
        assert!(excesses(&limits, &row, Stage::Before).is_empty());
        let names =
            |row: &Row| excesses(&limits, row, Stage::After).iter().map(|e| e.limit).collect::<Vec<_>>();
        assert_eq!(names(&row), ["explainability", "epsilon_max"]);
        row.explained = Some(Explained { exact: Some("linear_shap"), measured: None });
        row.epsilon = Some(2.5);
        assert!(names(&row).is_empty());
        row.epsilon = Some(3.5);
        assert_eq!(names(&row), ["epsilon_max"]);
    }

    #[test]
    fn when_nothing_is_left_the_limit_and_the_nearest_are_named() {
        let limits = Limits { parameters: Some(100), latency_ms_p95: Some(1.0), ..Limits::default() };
        let (a, b) = (row(150, 9.0), row(1000, 0.5));
        let (a, b) = (excesses(&limits, &a, Stage::After), excesses(&limits, &b, Stage::After));
        let sentence = nothing_left(&[("a", &a), ("b", &b)]);
        assert!(sentence.contains("all 2 break parameters"), "{sentence}");
        assert!(sentence.contains("the nearest is a (parameters: 150, 100 allowed: 1.5 times"), "{sentence}");
        let none = nothing_left(&[("a", &a[1..]), ("b", &b)]);
        assert!(none.contains("no one limit excludes all 2"), "{none}");
    }

    #[test]
    fn figures_have_three_digits() {
        let shown: Vec<String> =
            [0.0, 1234567.0, 150.4, 2.5, 0.01234, 99.95, 1e-7, -0.5].map(figure).to_vec();
        assert_eq!(shown, ["0", "1,234,567", "150", "2.5", "0.0123", "100", "1.00e-7", "-0.5"]);
    }
}
