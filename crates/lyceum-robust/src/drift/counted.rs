//! Two windows of counts: numbers in fixed bins, and names. What a window leaves behind is how many values fell where.
//!
//! Of a number's distribution function a histogram knows the values at its edges. The largest distance there is a lower
//! bound of the Kolmogorov–Smirnov statistic, and its p-value an upper bound: no drift is invented, and one between two
//! edges can be missed.

use super::sketch::FeatureDrift;
use super::{Tested, benjamini_hochberg, chi_squared, holm, ks_p_value, psi};
use crate::error::RobustError;
use std::collections::BTreeMap;

/// What a bin of the stability index has at least: of values a window, and of both windows, each weighing half.
const BIN_MIN: f64 = 5.0;
const SHARE_MIN: f64 = 0.1;

/// How often numbers fell between edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Values up to each edge and above the one before, and those above all.
    counts: Vec<u64>,
}

impl Histogram {
    /// For these ascending edges, which whoever adds says again.
    pub fn new(edges: &[f64]) -> Self {
        Histogram { counts: vec![0; edges.len() + 1] }
    }

    /// With counts that were kept; None: they are not of these edges.
    pub fn of_counts(edges: &[f64], counts: Vec<u64>) -> Option<Self> {
        (counts.len() == edges.len() + 1).then_some(Histogram { counts })
    }

    /// Counts a number. One that is none is not counted.
    pub fn add(&mut self, edges: &[f64], x: f64) {
        if x.is_nan() {
            return;
        }
        let bin = edges.iter().position(|edge| x <= *edge).unwrap_or(edges.len());
        self.counts[bin] += 1;
    }

    pub fn n(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn counts(&self) -> &[u64] {
        &self.counts
    }
}

/// Counts of one feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    Numbers(Histogram),
    Names(BTreeMap<String, u64>),
}

impl Counted {
    pub fn n(&self) -> u64 {
        match self {
            Counted::Numbers(histogram) => histogram.n(),
            Counted::Names(counts) => counts.values().sum(),
        }
    }
}

/// Compares each feature of a window with the same one of the reference, corrected for the number of tests. Features that
/// either has no value of are left out.
///
/// # Errors
/// Windows of different features or bins.
pub fn compare(
    reference: &[(&'static str, Counted)],
    now: &[(&'static str, Counted)],
) -> Result<Vec<FeatureDrift>, RobustError> {
    if reference.len() != now.len() || reference.iter().zip(now).any(|(a, b)| a.0 != b.0) {
        return Err(RobustError::Rows("two windows of the same features are needed".into()));
    }
    let pairs = reference.iter().zip(now).filter(|((_, a), (_, b))| a.n() > 0 && b.n() > 0);
    let found = pairs.map(|((name, reference), (_, now))| one(name, reference, now));
    let mut found = found.collect::<Result<Vec<_>, _>>()?;
    let all: Vec<f64> = found.iter().map(|f| f.tested.p_value).collect();
    let (holm, bh) = (holm(&all), benjamini_hochberg(&all));
    for (i, f) in found.iter_mut().enumerate() {
        (f.p_holm, f.p_bh) = (holm[i], bh[i]);
    }
    Ok(found)
}

fn one(name: &str, reference: &Counted, now: &Counted) -> Result<FeatureDrift, RobustError> {
    let (expected, actual): (Vec<f64>, Vec<f64>) = match (reference, now) {
        (Counted::Numbers(a), Counted::Numbers(b)) if a.counts.len() == b.counts.len() => {
            a.counts.iter().zip(&b.counts).map(|(&a, &b)| (a as f64, b as f64)).unzip()
        }
        (Counted::Names(a), Counted::Names(b)) => {
            let mut names: Vec<&str> = a.keys().chain(b.keys()).map(String::as_str).collect();
            names.sort_unstable();
            names.dedup();
            let of =
                |counts: &BTreeMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or(0) as f64;
            names.into_iter().map(|name| (of(a, name), of(b, name))).unzip()
        }
        _ => return Err(RobustError::Rows(format!("\"{name}\" was counted in two ways"))),
    };
    let (test, tested) = match reference {
        Counted::Numbers(_) => ("ks", distance(&expected, &actual)),
        Counted::Names(_) => ("chi_squared", chi_squared(&expected, &actual)?),
    };
    let (expected, actual) = match reference {
        Counted::Numbers(_) => joined(&expected, &actual),
        Counted::Names(_) => (expected, actual),
    };
    Ok(FeatureDrift {
        name: name.to_owned(),
        test,
        tested,
        p_holm: tested.p_value,
        p_bh: tested.p_value,
        psi: psi(&expected, &actual)?,
        wasserstein: None,
        missing: None,
        n: now.n(),
        n_reference: reference.n(),
    })
}

/// Neighbouring bins together, so that each has a tenth of both windows' values, each window weighing half, and [`BIN_MIN`] a
/// window at least: the index of many bins with few values is large by chance alone. A bin that the reference leaves empty and
/// the other window fills stays one by itself.
fn joined(reference: &[f64], now: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (total_a, total_b): (f64, f64) = (reference.iter().sum(), now.iter().sum());
    let is_full = |x: f64, y: f64| (x / total_a + y / total_b) / 2.0 >= SHARE_MIN && x + y >= 2.0 * BIN_MIN;
    let (mut a, mut b): (Vec<f64>, Vec<f64>) = (vec![0.0], vec![0.0]);
    for (x, y) in reference.iter().zip(now) {
        let last = a.len() - 1;
        if is_full(a[last], b[last]) {
            a.push(0.0);
            b.push(0.0);
        }
        let last = a.len() - 1;
        a[last] += x;
        b[last] += y;
    }
    // What is left over belongs to the bin before it.
    let last = a.len() - 1;
    if last > 0 && !is_full(a[last], b[last]) {
        let (x, y) = (a.pop().unwrap_or_default(), b.pop().unwrap_or_default());
        a[last - 1] += x;
        b[last - 1] += y;
    }
    (a, b)
}

/// The largest distance of the distribution functions at the edges.
fn distance(a: &[f64], b: &[f64]) -> Tested {
    let (total_a, total_b): (f64, f64) = (a.iter().sum(), b.iter().sum());
    let (mut sum_a, mut sum_b, mut statistic) = (0.0, 0.0, 0.0f64);
    for (x, y) in a.iter().zip(b) {
        sum_a += x;
        sum_b += y;
        statistic = statistic.max((sum_a / total_a - sum_b / total_b).abs());
    }
    Tested { statistic, p_value: ks_p_value(statistic, total_a as u64, total_b as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::ks_two_samples;

    const EDGES: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

    fn window(values: &[f64], names: &[&'static str]) -> Vec<(&'static str, Counted)> {
        let mut histogram = Histogram::new(&EDGES);
        values.iter().for_each(|&x| histogram.add(&EDGES, x));
        let mut counts = BTreeMap::new();
        names.iter().for_each(|&name| *counts.entry(name.to_owned()).or_default() += 1);
        vec![("length", Counted::Numbers(histogram)), ("finish", Counted::Names(counts))]
    }

    #[test]
    fn values_on_the_edges_give_the_test_of_the_values_themselves_and_others_less() {
        let (a, b) = ([1.0, 1.0, 2.0, 4.0, 8.0, 8.0], [2.0, 4.0, 4.0, 8.0, 8.0]);
        let found = compare(&window(&a, &["stop"]), &window(&b, &["stop"])).unwrap();
        let exact = ks_two_samples(&a, &b).unwrap();
        assert_eq!(found[0].tested, exact);
        let (a, b) = ([0.2, 0.3, 0.4, 1.5], [0.7, 0.8, 0.9, 1.5]);
        let found = compare(&window(&a, &["stop"]), &window(&b, &["stop"])).unwrap();
        assert!(found[0].tested.statistic < ks_two_samples(&a, &b).unwrap().statistic);
    }

    /// Equal values have one bin, and what falls beside it has its own, on either side.
    #[test]
    fn the_index_tells_what_leaves_the_one_value_of_a_reference() {
        for (all, half) in [(3.0, 9.0), (3.0, 0.5), (0.5, 3.0), (9.0, 1.5)] {
            let reference = window(&[all; 40], &["stop"]);
            let same = compare(&reference, &window(&[all; 80], &["stop"])).unwrap();
            assert_eq!((same[0].tested.statistic, same[0].psi), (0.0, 0.0));
            let mixed: Vec<f64> = [[all; 40], [half; 40]].concat();
            let found = compare(&reference, &window(&mixed, &["stop"])).unwrap();
            assert_eq!(found[0].tested.statistic, 0.5);
            assert!(found[0].psi > 1.0, "{all} {half}: {}", found[0].psi);
            // A few of many are no bin of their own: one of a hundred moves no index.
            let few: Vec<f64> = [vec![all; 99], vec![half]].concat();
            assert_eq!(compare(&reference, &window(&few, &["stop"])).unwrap()[0].psi, 0.0);
        }
    }

    #[test]
    fn a_window_does_not_drift_from_itself_and_another_does() {
        let long: Vec<f64> = (0..200).map(|i| f64::from(i % 7)).collect();
        let names: Vec<&'static str> = (0..200).map(|i| if i % 5 == 0 { "length" } else { "stop" }).collect();
        let same = window(&long, &names);
        for f in compare(&same, &same).unwrap() {
            assert!(f.tested.statistic == 0.0 && f.p_holm == 1.0 && f.psi == 0.0, "{f:?}");
        }
        let moved = window(&long.iter().map(|x| x + 4.0).collect::<Vec<_>>(), &["length"; 200]);
        let found = compare(&same, &moved).unwrap();
        assert!(found.iter().all(|f| f.p_holm < 1e-6 && f.psi > 0.25), "{found:?}");
        assert_eq!((found[0].n, found[0].n_reference), (200, 200));
        assert!(compare(&same, &same[..1]).is_err());
        // Bins that neither window fills stand with their neighbours; nothing of a window is lost.
        let (a, b) = joined(&[1.0, 30.0, 2.0, 40.0, 0.0, 4.0], &[5.0, 1.0, 1.0, 1.0, 6.0, 7.0]);
        assert_eq!((a, b), (vec![31.0, 42.0, 4.0], vec![6.0, 2.0, 13.0]));
        assert_eq!(joined(&[1.0, 2.0], &[3.0, 4.0]), (vec![3.0], vec![7.0]));
        // What nobody counted is not compared.
        let silent = window(&[], &names);
        assert_eq!(compare(&same, &silent).unwrap().len(), 1);
        let mut histogram = Histogram::new(&EDGES);
        [f64::NAN, -3.0, 100.0].iter().for_each(|&x| histogram.add(&EDGES, x));
        assert_eq!(histogram.counts(), [1, 0, 0, 0, 1]);
    }
}
