//! New rows against the sketches that a model's manifest keeps of its training rows.
//!
//! A sketch knows a number's distribution function `F` at 15 points only, and there up to jumps: with `n` rows and
//! the quantile `q` between the order statistics `k` and `k + 1` (from 0), `F(q) ≥ (k + 1) / n` and
//! `F(q−) ≤ (k + [q > x_k]) / n`. The largest distance that these force is a lower bound of the
//! Kolmogorov–Smirnov statistic, and its p-value an upper bound: no drift is invented, and one between the points
//! can be missed. PSI and Wasserstein take the distribution as straight between the points.

use super::{Tested, benjamini_hochberg, chi_squared, holm, ks_p_value, psi};
use crate::error::RobustError;
use lyceum_types::manifest::{FeatureSketch, SKETCH_QUANTILES};
use std::collections::BTreeMap;

/// A name is joined with the rest where fewer rows than this would be expected of it.
const EXPECTED_MIN: f64 = 5.0;

/// The new values of one feature; None where missing.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    Numbers(Vec<Option<f64>>),
    Names(Vec<Option<String>>),
}

/// What one feature's values say.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureDrift {
    pub name: String,
    /// `ks` (a lower bound, see the module) or `chi_squared`.
    pub test: &'static str,
    pub tested: Tested,
    /// After Holm's and after Benjamini and Hochberg's correction over all tests of the comparison.
    pub p_holm: f64,
    pub p_bh: f64,
    pub psi: f64,
    /// For numbers, in standard deviations of the training rows where these are known and not 0.
    pub wasserstein: Option<f64>,
    /// Whether values are missing more or less often, where any are.
    pub missing: Option<Tested>,
    pub n: u64,
    pub n_reference: u64,
}

/// Compares features with their sketches, in the order given.
///
/// # Errors
/// A feature without rows or without a sketch, or a sketch of another kind.
pub fn compare(
    sketches: &[FeatureSketch],
    features: &[(String, Values)],
) -> Result<Vec<FeatureDrift>, RobustError> {
    let mut found = Vec::new();
    for (name, values) in features {
        let sketch = sketches
            .iter()
            .find(|s| &s.name == name)
            .ok_or_else(|| RobustError::Rows(format!("the manifest has no sketch of \"{name}\"")))?;
        found.push(match values {
            Values::Numbers(values) => numbers(sketch, values)?,
            Values::Names(values) => names(sketch, values)?,
        });
    }
    // Every test of the comparison counts, those of missing values too.
    let own: Vec<f64> = found.iter().map(|f| f.tested.p_value).collect();
    let missing = found.iter().filter_map(|f| f.missing.map(|m| m.p_value));
    let all: Vec<f64> = own.iter().copied().chain(missing).collect();
    let (holm, bh) = (holm(&all), benjamini_hochberg(&all));
    for (i, f) in found.iter_mut().enumerate() {
        (f.p_holm, f.p_bh) = (holm[i], bh[i]);
    }
    Ok(found)
}

fn numbers(sketch: &FeatureSketch, values: &[Option<f64>]) -> Result<FeatureDrift, RobustError> {
    let present: Vec<f64> = values.iter().flatten().copied().collect();
    let x = super::distance::sorted(&present)
        .map_err(|error| RobustError::Rows(format!("\"{}\": {error}", sketch.name)))?;
    if sketch.quantiles.len() != SKETCH_QUANTILES.len() {
        return Err(RobustError::Rows(format!("the sketch of \"{}\" is not one of numbers", sketch.name)));
    }
    let n_reference = sketch.n - sketch.n_missing;
    let statistic = distance_bound(&sketch.quantiles, n_reference, &x);
    let tested = Tested { statistic, p_value: ks_p_value(statistic, n_reference, x.len() as u64) };
    let (expected, actual) = decile_bins(&sketch.quantiles, &x);
    let moved = wasserstein(&sketch.quantiles, &x);
    Ok(FeatureDrift {
        name: sketch.name.clone(),
        test: "ks",
        tested,
        p_holm: tested.p_value,
        p_bh: tested.p_value,
        psi: psi(&expected, &actual)?,
        wasserstein: sketch.std.filter(|std| *std > 0.0).map(|std| moved / std),
        missing: missing(sketch, values.len() - present.len(), values.len())?,
        n: values.len() as u64,
        n_reference: sketch.n,
    })
}

/// The largest distance of distribution functions that the sketch proves.
fn distance_bound(quantiles: &[f64], n_reference: u64, x: &[f64]) -> f64 {
    let (n, size) = (n_reference as f64, x.len() as f64);
    let mut largest = 0.0f64;
    for (&p, &q) in SKETCH_QUANTILES.iter().zip(quantiles) {
        let at = p * (n - 1.0);
        let (k, between) = (at.floor(), f64::from(u8::from(at.fract() > 0.0)));
        let up_to = x.partition_point(|x| *x <= q) as f64 / size;
        let below = x.partition_point(|x| *x < q) as f64 / size;
        largest = largest.max((k + 1.0) / n - up_to).max(below - (k + between) / n);
    }
    largest
}

/// Training and new shares between the deciles; equal deciles are one edge.
fn decile_bins(quantiles: &[f64], x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut edges: Vec<(f64, f64)> = Vec::new();
    for (&p, &q) in SKETCH_QUANTILES.iter().zip(quantiles) {
        let decile = (p * 10.0 - (p * 10.0).round()).abs() < 1e-9 && p > 0.0 && p < 1.0;
        match edges.last_mut() {
            Some(last) if decile && last.1 == q => last.0 = p,
            _ if decile => edges.push((p, q)),
            _ => {}
        }
    }
    let (mut expected, mut actual) = (Vec::new(), Vec::new());
    let (mut p_before, mut n_before) = (0.0, 0);
    for (p, q) in edges.into_iter().chain([(1.0, f64::INFINITY)]) {
        let up_to = x.partition_point(|x| *x <= q);
        expected.push(p - p_before);
        actual.push((up_to - n_before) as f64);
        (p_before, n_before) = (p, up_to);
    }
    (expected, actual)
}

/// `∫ |Q(p) − Q'(p)| dp` between a sample's steps and the sketch's straight pieces.
fn wasserstein(quantiles: &[f64], x: &[f64]) -> f64 {
    let n = x.len();
    let mut cuts: Vec<f64> = (0..=n).map(|i| i as f64 / n as f64).chain(SKETCH_QUANTILES).collect();
    cuts.sort_unstable_by(f64::total_cmp);
    let at = |p: f64| {
        let i = SKETCH_QUANTILES.partition_point(|q| *q <= p).clamp(1, SKETCH_QUANTILES.len() - 1);
        let (low, high) = (SKETCH_QUANTILES[i - 1], SKETCH_QUANTILES[i]);
        quantiles[i - 1] + (p - low) / (high - low) * (quantiles[i] - quantiles[i - 1])
    };
    let part = |cut: &[f64]| {
        let (from, to) = (cut[0], cut[1]);
        let own = x[((0.5 * (from + to) * n as f64) as usize).min(n - 1)];
        let (a, b) = (at(from) - own, at(to) - own);
        // A straight line that crosses 0 leaves two triangles.
        let mean = if a * b < 0.0 { (a * a + b * b) / (2.0 * (a - b).abs()) } else { (a + b).abs() / 2.0 };
        mean * (to - from)
    };
    cuts.windows(2).map(part).sum()
}

fn names(sketch: &FeatureSketch, values: &[Option<String>]) -> Result<FeatureDrift, RobustError> {
    let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
    let n_present = values.iter().flatten().count();
    if n_present == 0 || !sketch.quantiles.is_empty() {
        let why = if n_present == 0 { "has no rows" } else { "has a sketch of numbers" };
        return Err(RobustError::Rows(format!("\"{}\" {why}", sketch.name)));
    }
    for value in values.iter().flatten() {
        *counts.entry(value).or_default() += 1.0;
    }
    let reference = (sketch.n - sketch.n_missing) as f64;
    let share = n_present as f64 / (n_present as f64 + reference);
    let (mut expected, mut actual) = (vec![0.0], vec![0.0]);
    let mut known = 0.0;
    for (name, &count) in &sketch.counts {
        let own = counts.remove(name.as_str()).unwrap_or(0.0);
        known += count as f64;
        if (count as f64 + own) * share.min(1.0 - share) < EXPECTED_MIN {
            expected[0] += count as f64;
            actual[0] += own;
        } else {
            expected.push(count as f64);
            actual.push(own);
        }
    }
    // Rare names that the sketch left out, and names that training never saw.
    expected[0] += (reference - known).max(0.0);
    actual[0] += counts.values().sum::<f64>();
    let tested = chi_squared(&expected, &actual)?;
    Ok(FeatureDrift {
        name: sketch.name.clone(),
        test: "chi_squared",
        tested,
        p_holm: tested.p_value,
        p_bh: tested.p_value,
        psi: psi(&expected, &actual)?,
        wasserstein: None,
        missing: missing(sketch, values.len() - n_present, values.len())?,
        n: values.len() as u64,
        n_reference: sketch.n,
    })
}

fn missing(sketch: &FeatureSketch, n_missing: usize, n: usize) -> Result<Option<Tested>, RobustError> {
    if sketch.n_missing == 0 && n_missing == 0 {
        return Ok(None);
    }
    let before = [sketch.n_missing as f64, (sketch.n - sketch.n_missing) as f64];
    let now = [n_missing as f64, (n - n_missing) as f64];
    Ok(Some(chi_squared(&before, &now)?))
}

/// How far in the tails of a number's training values `x` lies: the two-sided share of training rows at least as
/// far out, never below `1 / (n + 1)`, straight between the sketch's points.
pub fn tail(sketch: &FeatureSketch, x: f64) -> f64 {
    let q = &sketch.quantiles;
    let least = 1.0 / (sketch.n - sketch.n_missing + 1) as f64;
    if q.len() != SKETCH_QUANTILES.len() {
        return least;
    }
    let share = if x < q[0] {
        0.0
    } else if x > q[q.len() - 1] {
        1.0
    } else {
        // Of equal points the ones that say "more usual".
        let (first, last) = (q.partition_point(|q| *q < x), q.partition_point(|q| *q <= x));
        if last > first {
            let (low, high) = (SKETCH_QUANTILES[first], SKETCH_QUANTILES[last - 1]);
            0.5f64.clamp(low, high)
        } else {
            let (low, high) = (q[first - 1], q[first]);
            let (p_low, p_high) = (SKETCH_QUANTILES[first - 1], SKETCH_QUANTILES[first]);
            p_low + (x - low) / (high - low) * (p_high - p_low)
        }
    };
    (2.0 * share.min(1.0 - share)).clamp(least, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::gaussian;
    use crate::drift::ks_two_samples;

    /// As training makes it.
    fn sketch(name: &str, x: &[f64]) -> FeatureSketch {
        let mut x = x.to_vec();
        x.sort_unstable_by(f64::total_cmp);
        let n = x.len();
        let mean = x.iter().sum::<f64>() / n as f64;
        let quantile = |p: &f64| {
            let at = p * (n - 1) as f64;
            let low = at.floor() as usize;
            x[low] + at.fract() * (x[(low + 1).min(n - 1)] - x[low])
        };
        FeatureSketch {
            name: name.into(),
            n: n as u64,
            n_missing: 0,
            mean: Some(mean),
            std: Some((x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64).sqrt()),
            min: x.first().copied(),
            max: x.last().copied(),
            quantiles: SKETCH_QUANTILES.iter().map(quantile).collect(),
            counts: BTreeMap::new(),
        }
    }

    fn normal(seed: u64, n: usize, shift: f64) -> Vec<f64> {
        let mut rng = crate::generator(seed, 0);
        (0..n).map(|_| f64::from(gaussian(&mut rng)) + shift).collect()
    }

    #[test]
    fn a_sketch_never_claims_more_than_the_rows_and_finds_a_shift() {
        let train = normal(1, 700, 0.0);
        // Numbers with many ties too: rounding them makes jumps at the quantiles.
        for round in [f64::NAN, 1.0, 2.0] {
            let rounded = |v: Vec<f64>| -> Vec<f64> {
                v.into_iter().map(|x| if round.is_nan() { x } else { (x * round).round() / round }).collect()
            };
            let train = rounded(train.clone());
            let sketch = sketch("x", &train);
            for (seed, shift) in [(2, 0.0), (3, 0.1), (4, 0.5), (5, -2.0)] {
                let new = rounded(normal(seed, 300, shift));
                let full = ks_two_samples(&train, &new).unwrap();
                let values = Values::Numbers(new.iter().map(|x| Some(*x)).collect());
                let found = &compare(std::slice::from_ref(&sketch), &[("x".into(), values)]).unwrap()[0];
                assert!(found.tested.statistic <= full.statistic + 1e-12, "{round} {shift}");
                assert!(found.tested.p_value >= full.p_value - 1e-12);
                // Where rows tie at the quantiles the bound is weaker: it finds what is large.
                let small = if round.is_nan() { 0.4 } else { 1.0 };
                assert!(shift.abs() < small || found.p_holm < 1e-3, "{round} {shift}: {found:?}");
                if round.is_nan() {
                    let exact = crate::drift::wasserstein(&train, &new).unwrap();
                    let moved = found.wasserstein.unwrap() * sketch.std.unwrap();
                    assert!((moved - exact).abs() < 0.05, "{shift}: {moved} {exact}");
                    assert!((found.psi < 0.1) == (shift < 0.4 && shift > -0.4), "{shift}: {}", found.psi);
                }
            }
        }
    }

    #[test]
    fn false_alarms_over_many_windows_stay_below_their_level() {
        let sketch = sketch("x", &normal(1, 2000, 0.0));
        let alarm = |seed: &u64| {
            let values = Values::Numbers(normal(100 + seed, 150, 0.0).into_iter().map(Some).collect());
            let found = compare(std::slice::from_ref(&sketch), &[("x".into(), values)]).unwrap();
            found[0].p_holm < 0.05
        };
        let n_alarms = (0..200).filter(alarm).count();
        assert!(n_alarms <= 18, "{n_alarms} of 200");
    }

    #[test]
    fn names_that_training_never_saw_and_missing_values_are_drift() {
        let mut sketch = sketch("zip", &[1.0]);
        (sketch.quantiles, sketch.n, sketch.n_missing) = (vec![], 200, 0);
        sketch.counts = BTreeMap::from([("a".into(), 100), ("b".into(), 100)]);
        let run = |names: &[Option<&str>]| {
            let names = names.iter().map(|n| n.map(str::to_owned)).collect();
            compare(std::slice::from_ref(&sketch), &[("zip".into(), Values::Names(names))]).unwrap().remove(0)
        };
        let same = run(&[Some("a"), Some("b")].repeat(30));
        assert!(same.tested.p_value > 0.99 && same.missing.is_none() && same.psi < 1e-9);
        let unseen = run(&[Some("a"), Some("c")].repeat(30));
        assert!(unseen.p_holm < 1e-6 && unseen.psi > 1.0, "{unseen:?}");
        let gaps = run(&[Some("a"), Some("b"), None].repeat(20));
        assert!(gaps.missing.unwrap().p_value < 1e-6 && gaps.tested.p_value > 0.99);
        let wrong = Values::Numbers(vec![Some(1.0)]);
        assert!(compare(std::slice::from_ref(&sketch), &[("zip".into(), wrong.clone())]).is_err());
        assert!(compare(std::slice::from_ref(&sketch), &[("other".into(), wrong)]).is_err());
    }

    #[test]
    fn tails_are_shares_of_training_rows() {
        let x: Vec<f64> = (0..=1000).map(f64::from).collect();
        let sketch = sketch("x", &x);
        for (x, share) in [(500.0, 1.0), (50.0, 0.1), (990.0, 0.02), (250.0, 0.5)] {
            assert!((tail(&sketch, x) - share).abs() < 2e-3, "{x}: {}", tail(&sketch, x));
        }
        assert_eq!(tail(&sketch, 5000.0), 1.0 / 1002.0);
    }
}
