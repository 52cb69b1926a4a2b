//! Recall and precision on the labelled set (made by `fixtures/scripts/labelled_pii.py`, whose check digits are its own).
//! A finding counts where kind, first and last character are those of the label. Run with `--no-capture` for the table.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

use lyceum_guard::{Analyser, Kind, Wanted};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Line {
    kind: String,
    text: String,
    spans: Vec<(usize, usize, String)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    labels: usize,
    found: usize,
    /// Of the sentences that do not say what the value is.
    bare_labels: usize,
    bare_found: usize,
    wrong: usize,
}

impl Count {
    fn recall(self) -> f64 {
        self.found as f64 / self.labels as f64
    }

    /// Of what is said to be something: `named` sentences.
    fn named(self) -> f64 {
        (self.found - self.bare_found) as f64 / (self.labels - self.bare_labels) as f64
    }

    fn precision(self) -> f64 {
        self.found as f64 / (self.found + self.wrong).max(1) as f64
    }
}

fn counts() -> BTreeMap<Kind, Count> {
    let analyser = Analyser::default();
    let mut counts: BTreeMap<Kind, Count> = BTreeMap::new();
    for line in include_str!("../fixtures/labelled.jsonl").lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        let is_bare = usize::from(line.kind == "bare");
        let labels: Vec<(usize, usize, Kind)> =
            line.spans.iter().map(|(start, end, kind)| (*start, *end, kind.parse().unwrap())).collect();
        for (_, _, kind) in &labels {
            let count = counts.entry(*kind).or_default();
            count.labels += 1;
            count.bare_labels += is_bare;
        }
        let found = analyser.analyse(&line.text, &Wanted::default()).unwrap();
        for (start, end, kind) in &labels {
            if !found.iter().any(|f| (f.start, f.end, f.kind) == (*start, *end, *kind)) {
                println!("  {kind} at {start}..{end} is missed in {:?}", line.text);
            }
        }
        for found in found {
            let count = counts.entry(found.kind).or_default();
            if labels.contains(&(found.start, found.end, found.kind)) {
                count.found += 1;
                count.bare_found += is_bare;
            } else {
                count.wrong += 1;
                println!("  {} is no {}: {:?}", &line.text[found.bytes.clone()], found.kind, line.text);
            }
        }
    }
    counts
}

#[test]
fn recall_and_precision_hold_their_floors() {
    let counts = counts();
    println!("{:<18}{:>7}{:>8}{:>8}{:>11}", "entity", "labels", "recall", "(named)", "precision");
    for (kind, count) in &counts {
        let (recall, named, precision) = (count.recall(), count.named(), count.precision());
        println!("{kind:<18}{:>7}{recall:>8.3}{named:>8.3}{precision:>11.3}", count.labels);
        assert!(recall >= 0.65 && named >= 0.9 && precision >= 0.95, "{kind}: {count:?}");
    }
    let all = counts.values().fold(Count::default(), |a, b| Count {
        labels: a.labels + b.labels,
        found: a.found + b.found,
        bare_labels: a.bare_labels + b.bare_labels,
        bare_found: a.bare_found + b.bare_found,
        wrong: a.wrong + b.wrong,
    });
    let (recall, named, precision) = (all.recall(), all.named(), all.precision());
    println!("{:<18}{:>7}{recall:>8.3}{named:>8.3}{precision:>11.3}", "all", all.labels);
    assert!(recall >= 0.96 && named >= 0.99 && precision >= 0.99, "{all:?}");
    assert_eq!(
        counts.len(),
        Kind::ALL.iter().filter(|kind| kind.is_private() && !kind.takes_a_model()).count(),
        "every kind is in the set"
    );
}
