//! How well scores tell rows that were trained on from rows that were not.
//!
//! The area under the ROC curve with DeLong's interval (DeLong, DeLong & Clarke-Pearson 1988), and the true
//! positive rate at a low false positive rate with Clopper and Pearson's (Carlini et al. 2022,
//! arXiv:2112.03570: an attack that is sure of a few rows matters more than one that is a little right about
//! all).

use crate::error::PrivacyError;
use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF};

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub ci95: [f64; 2],
    /// Rows behind it.
    pub n: u64,
}

/// Of all members, the part that scores above all but `fpr` of the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TprAt {
    pub fpr: f64,
    pub tpr: Estimate,
}

/// What a membership attack reaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attack {
    pub auc: Estimate,
    pub tpr_at: Vec<TprAt>,
}

/// Higher scores mean "was trained on".
///
/// # Errors
/// When either list has fewer than two scores, or a score is not a number.
pub fn attack(members: &[f64], others: &[f64], fprs: &[f64]) -> Result<Attack, PrivacyError> {
    if members.len() < 2 || others.len() < 2 {
        let message = format!("{} members and {} others: at least two of each", members.len(), others.len());
        return Err(PrivacyError::Scores(message));
    }
    if members.iter().chain(others).any(|s| s.is_nan()) {
        return Err(PrivacyError::Scores("a score is not a number".into()));
    }
    Ok(Attack {
        auc: auc(members, others),
        tpr_at: fprs.iter().map(|&f| tpr_at(members, others, f)).collect(),
    })
}

/// How much of `sorted` lies below `x`, ties counting half.
fn share_below(sorted: &[f64], x: f64) -> f64 {
    let below = sorted.partition_point(|&s| s < x);
    let up_to = sorted.partition_point(|&s| s <= x);
    (below as f64 + up_to as f64) / (2.0 * sorted.len() as f64)
}

fn sorted(scores: &[f64]) -> Vec<f64> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn auc(members: &[f64], others: &[f64]) -> Estimate {
    let (by_member, by_other) = (sorted(members), sorted(others));
    let of_member: Vec<f64> = members.iter().map(|&m| share_below(&by_other, m)).collect();
    let of_other: Vec<f64> = others.iter().map(|&o| 1.0 - share_below(&by_member, o)).collect();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let value = mean(&of_member);
    let part = |v: &[f64]| {
        let mean = mean(v);
        v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (v.len() - 1) as f64 / v.len() as f64
    };
    let half = 1.959_963_984_540_054 * (part(&of_member) + part(&of_other)).sqrt();
    let ci95 = [(value - half).max(0.0), (value + half).min(1.0)];
    Estimate { value, ci95, n: (members.len() + others.len()) as u64 }
}

fn tpr_at(members: &[f64], others: &[f64], fpr: f64) -> TprAt {
    let by_other = sorted(others);
    // The threshold that at most `fpr` of the others pass.
    let allowed = (fpr * others.len() as f64).floor() as usize;
    let threshold = by_other[others.len() - 1 - allowed.min(others.len() - 1)];
    let hits = members.iter().filter(|&&m| m > threshold).count();
    TprAt { fpr, tpr: proportion(hits as u64, members.len() as u64) }
}

/// A proportion with Clopper and Pearson's exact interval.
pub fn proportion(hits: u64, n: u64) -> Estimate {
    let (k, m) = (hits as f64, n as f64);
    let quantile = |a: f64, b: f64, p: f64| Beta::new(a, b).expect("shapes above 0: bug").inverse_cdf(p);
    let low = if hits == 0 { 0.0 } else { quantile(k, m - k + 1.0, 0.025) };
    let high = if hits == n { 1.0 } else { quantile(k + 1.0, m - k, 0.975) };
    Estimate { value: k / m, ci95: [low, high], n }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_say_nothing_and_parted_ones_everything() {
        let same = attack(&[1.0; 10], &[1.0; 10], &[0.1]).unwrap();
        assert_eq!((same.auc.value, same.tpr_at[0].tpr.value), (0.5, 0.0));
        let apart = attack(&[2.0, 3.0, 4.0], &[0.0, 1.0], &[0.01]).unwrap();
        assert_eq!((apart.auc.value, apart.tpr_at[0].tpr.value), (1.0, 1.0));
        assert!(attack(&[1.0], &[0.0, 1.0], &[]).is_err());
        assert!(attack(&[1.0, f64::NAN], &[0.0, 1.0], &[]).is_err());
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        // scipy.stats.binomtest(8, 10).proportion_ci(): [0.4439, 0.9748].
        let of = proportion(8, 10);
        assert!((of.ci95[0] - 0.443_904_5).abs() < 1e-6 && (of.ci95[1] - 0.974_789_3).abs() < 1e-6);
        assert_eq!(proportion(0, 10).ci95[0], 0.0);
    }

    #[test]
    fn the_threshold_lets_no_more_than_the_rate_pass() {
        let others: Vec<f64> = (0..100).map(f64::from).collect();
        let members: Vec<f64> = (0..100).map(|i| f64::from(i) + 50.5).collect();
        // 5 of the others pass 94; members above 94: 94.5 … 149.5.
        assert!((tpr_at(&members, &others, 0.05).tpr.value - 0.56).abs() < 1e-12);
    }
}
