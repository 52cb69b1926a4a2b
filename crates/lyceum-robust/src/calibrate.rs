//! How far a probability can be believed: temperature, calibration error, reliability.
//!
//! Temperature scaling (Guo et al. 2017, arXiv:1706.04599) divides all logits by one `T > 0` that minimises the
//! negative log-likelihood on rows that did not train the model. It changes no answer, only how sure it sounds.

use crate::error::RobustError;
use crate::share::share;
use lyceum_models::answer::likeliest;
use lyceum_types::manifest::Metric;

/// Bins of confidence where nothing else is asked for (Guo et al. use 15).
pub const BINS: usize = 15;
pub const BINS_MAX: usize = 1000;

/// `1 / T` is looked for in this range.
const SHARPNESS: [f64; 2] = [1e-3, 1e3];
const NEWTON_STEPS_MAX: usize = 200;

/// A fitted temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    pub value: f64,
    /// Mean negative log-likelihood in nats at T = 1 and at `value`.
    pub nll_before: f64,
    pub nll_after: f64,
    pub n: u64,
}

/// Fits T on logits `[n, classes]`.
///
/// With `β = 1 / T` the mean of `lse(β z) − β z_y` is convex in β; its slope is the mean of `E_p[z] − z_y` and its
/// curvature the mean of `Var_p[z]`: Newton's method between two ends that close in.
///
/// # Errors
/// Rows that do not fit, or a likelihood that never stops rising (every row is right by a margin).
pub fn temperature(logits: &[f32], n_classes: usize, labels: &[u32]) -> Result<Temperature, RobustError> {
    check(logits, n_classes, labels)?;
    let at = |beta: f64| slopes(logits, n_classes, labels, beta);
    let [mut low, mut high] = SHARPNESS;
    let refuse = |reason: &str| {
        Err(RobustError::unsupported("a temperature", reason, "give more validation rows, or harder ones"))
    };
    if at(high).slope <= 0.0 {
        return refuse("every row is right, so that sharper is always better on them");
    }
    if at(low).slope >= 0.0 {
        return refuse("the logits say nothing about the labels, so that flatter is always better");
    }
    let mut beta = 1.0;
    for _ in 0..NEWTON_STEPS_MAX {
        let found = at(beta);
        if found.slope > 0.0 {
            high = beta;
        } else {
            low = beta;
        }
        let newton = beta - found.slope / found.curvature;
        let next = if newton > low && newton < high { newton } else { (low * high).sqrt() };
        if (next - beta).abs() <= 1e-12 * beta {
            break;
        }
        beta = next;
    }
    let n = labels.len() as u64;
    Ok(Temperature { value: 1.0 / beta, nll_before: at(1.0).nll, nll_after: at(beta).nll, n })
}

struct Slopes {
    nll: f64,
    slope: f64,
    curvature: f64,
}

fn slopes(logits: &[f32], n_classes: usize, labels: &[u32], beta: f64) -> Slopes {
    let mut sum = Slopes { nll: 0.0, slope: 0.0, curvature: 0.0 };
    for (z, &label) in logits.chunks_exact(n_classes).zip(labels) {
        let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut total, mut first, mut second) = (0.0, 0.0, 0.0);
        for z in z {
            let d = f64::from(z - max);
            let e = (beta * d).exp();
            (total, first, second) = (total + e, first + e * d, second + e * d * d);
        }
        let (mean, own) = (first / total, f64::from(z[label as usize] - max));
        sum.nll += total.ln() - beta * own;
        sum.slope += mean - own;
        sum.curvature += second / total - mean * mean;
    }
    let n = labels.len() as f64;
    Slopes { nll: sum.nll / n, slope: sum.slope / n, curvature: sum.curvature / n }
}

/// `softmax(z / T)` of each row, in f64.
pub fn probabilities(logits: &[f32], n_classes: usize, temperature: f64) -> Vec<f64> {
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(n_classes) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let start = out.len();
        out.extend(row.iter().map(|z| (f64::from(z - max) / temperature).exp()));
        let total: f64 = out[start..].iter().sum();
        out[start..].iter_mut().for_each(|p| *p /= total);
    }
    out
}

/// One bin of a reliability table: confidences in `(low, high]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Bin {
    pub low: f64,
    pub high: f64,
    pub n: u64,
    /// Of the rows inside; None where there is none.
    pub confidence: Option<f64>,
    pub accuracy: Option<Metric>,
}

/// How confidence and accuracy agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Reliability {
    /// `Σ |bin| / n · |accuracy − mean confidence|`.
    pub ece: f64,
    /// The largest of these gaps.
    pub mce: f64,
    /// `Σ_c (p_c − [c = y])²`, averaged over rows (Brier 1950).
    pub brier: f64,
    pub bins: Vec<Bin>,
    pub n: u64,
}

/// The reliability of probabilities `[n, classes]`, over equal bins of the likeliest class's probability.
///
/// # Errors
/// Rows that do not fit, or no bins.
pub fn reliability(
    probabilities: &[f64],
    n_classes: usize,
    labels: &[u32],
    n_bins: usize,
) -> Result<Reliability, RobustError> {
    if !(1..=BINS_MAX).contains(&n_bins) {
        return Err(RobustError::parameter("bins", format!("{n_bins} is not in 1..={BINS_MAX}")));
    }
    let narrow: Vec<f32> = probabilities.iter().map(|p| *p as f32).collect();
    check(&narrow, n_classes, labels)?;
    let (mut n_in, mut right, mut sure) = (vec![0u64; n_bins], vec![0u64; n_bins], vec![0.0; n_bins]);
    let mut brier = 0.0;
    for ((p, narrow), &label) in
        probabilities.chunks_exact(n_classes).zip(narrow.chunks_exact(n_classes)).zip(labels)
    {
        let answer = likeliest(narrow);
        let confidence = p[answer as usize];
        let bin = ((confidence * n_bins as f64).ceil() as usize).clamp(1, n_bins) - 1;
        n_in[bin] += 1;
        right[bin] += u64::from(answer == label);
        sure[bin] += confidence;
        let target = |c: usize| f64::from(u8::from(c == label as usize));
        brier += p.iter().enumerate().map(|(c, p)| (p - target(c)).powi(2)).sum::<f64>();
    }
    let n = labels.len() as f64;
    let gap = |b: usize| (right[b] as f64 - sure[b]).abs();
    let filled = || (0..n_bins).filter(|&b| n_in[b] > 0);
    let bin = |b: usize| {
        Ok(Bin {
            low: b as f64 / n_bins as f64,
            high: (b + 1) as f64 / n_bins as f64,
            n: n_in[b],
            confidence: (n_in[b] > 0).then(|| sure[b] / n_in[b] as f64),
            accuracy: if n_in[b] > 0 { Some(share(right[b], n_in[b])?) } else { None },
        })
    };
    Ok(Reliability {
        ece: filled().map(gap).sum::<f64>() / n,
        mce: filled().map(|b| gap(b) / n_in[b] as f64).fold(0.0, f64::max),
        brier: brier / n,
        bins: (0..n_bins).map(bin).collect::<Result<_, RobustError>>()?,
        n: labels.len() as u64,
    })
}

pub(crate) fn check(rows: &[f32], n_classes: usize, labels: &[u32]) -> Result<(), RobustError> {
    if labels.is_empty() {
        return Err(RobustError::Rows("there are none".into()));
    }
    if n_classes < 2 || rows.len() != labels.len() * n_classes {
        let text =
            format!("{} labels do not fit {} numbers of {n_classes} classes", labels.len(), rows.len());
        return Err(RobustError::Rows(text));
    }
    if let Some(row) = labels.iter().position(|&l| l as usize >= n_classes) {
        return Err(RobustError::Rows(format!("row {row} has the label {} of {n_classes}", labels[row])));
    }
    match rows.iter().position(|z| !z.is_finite()) {
        Some(at) => Err(RobustError::NotFinite { row: at / n_classes }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_undoes_the_factor_that_made_a_model_too_sure() {
        // Labels drawn in proportion to softmax(z): T is near 1, and k times near it of k z.
        let mut rng = crate::generator(3, 0);
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..20_000 {
            let z: [f32; 4] = std::array::from_fn(|_| lyceum_models::space::gaussian(&mut rng) * 2.0);
            let p = probabilities(&z, 4, 1.0);
            let mut at = rand::RngExt::random::<f64>(&mut rng);
            let label = p
                .iter()
                .position(|p| {
                    at -= p;
                    at < 0.0
                })
                .unwrap_or(3);
            logits.extend(z);
            labels.push(label as u32);
        }
        let one = temperature(&logits, 4, &labels).unwrap();
        assert!((one.value - 1.0).abs() < 0.03, "{one:?}");
        let sharper: Vec<f32> = logits.iter().map(|z| z * 5.0).collect();
        let five = temperature(&sharper, 4, &labels).unwrap();
        assert!((five.value / one.value - 5.0).abs() < 1e-5 && five.nll_after < five.nll_before);
        assert!((five.nll_after - one.nll_after).abs() < 1e-9);
        // A calibrated model is within noise of the diagonal; the sharpened one is not.
        let ece = |t: f64| reliability(&probabilities(&sharper, 4, t), 4, &labels, 15).unwrap().ece;
        assert!(ece(five.value) < 0.015 && ece(1.0) > 0.1, "{} {}", ece(five.value), ece(1.0));
    }

    #[test]
    fn a_likelihood_without_a_best_temperature_is_refused() {
        let error = temperature(&[9.0, 0.0, 0.0, 9.0], 2, &[0, 1]).unwrap_err();
        assert!(error.to_string().contains("every row is right"), "{error}");
        let error = temperature(&[9.0, 0.0, 0.0, 9.0], 2, &[1, 0]).unwrap_err();
        assert!(error.to_string().contains("say nothing"), "{error}");
        assert!(temperature(&[1.0, f32::NAN], 2, &[0]).is_err());
        assert!(temperature(&[1.0, 2.0], 2, &[2]).is_err());
        assert!(temperature(&[], 2, &[]).is_err());
    }

    #[test]
    fn a_table_counts_every_row_once() {
        let p = [0.9, 0.1, 0.6, 0.4, 0.2, 0.8, 1.0, 0.0];
        let found = reliability(&p, 2, &[0, 1, 1, 1], 10).unwrap();
        assert_eq!(found.bins.iter().map(|b| b.n).sum::<u64>(), 4);
        let expected = (0.1 + 0.6 + 0.2 + 1.0) / 4.0;
        assert!((found.ece - expected).abs() < 1e-12 && (found.mce - 1.0).abs() < 1e-12, "{found:?}");
        assert!((found.brier - (0.02 + 0.72 + 0.08 + 2.0) / 4.0).abs() < 1e-12);
        assert!(found.bins[0].accuracy.is_none());
    }
}
