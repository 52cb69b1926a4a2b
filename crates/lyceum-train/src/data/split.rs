//! Which rows train and which validate: stratified for classes, whole groups, the last part where order
//! matters; and folds for cross-validation. The same seed gives the same parts.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Positions of rows, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub train: Vec<usize>,
    pub valid: Vec<usize>,
}

/// How the rows of one file are parted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// All rows train.
    Whole,
    /// This fraction validates.
    Fraction(f64),
    /// Fold `fold` of `n_folds` validates.
    Fold { fold: usize, n_folds: usize },
}

/// Parts `n` rows. With `groups` (a key a row) a group stays whole; with `classes` each class is parted alike.
pub fn part(rule: Rule, n: usize, classes: Option<&[u32]>, groups: Option<&[String]>, seed: u64) -> Parts {
    let (rule_share, fold) = match rule {
        Rule::Whole => return Parts { train: (0..n).collect(), valid: vec![] },
        Rule::Fraction(fraction) => (fraction, None),
        Rule::Fold { fold, n_folds } => (1.0 / n_folds as f64, Some((fold, n_folds))),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5911_7000);
    // Units that stay together: groups, or single rows.
    let mut units: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let units: Vec<Vec<usize>> = match groups {
        Some(groups) => {
            for (row, group) in groups.iter().enumerate() {
                units.entry(group.clone()).or_default().push(row);
            }
            units.into_values().collect()
        }
        None => (0..n).map(|row| vec![row]).collect(),
    };
    // Strata: units by the class of their first row.
    let mut strata: BTreeMap<u32, Vec<Vec<usize>>> = BTreeMap::new();
    for unit in units {
        strata.entry(classes.map_or(0, |classes| classes[unit[0]])).or_default().push(unit);
    }
    let mut valid = Vec::new();
    let (mut dealt, mut n_seen) = (0, 0);
    for stratum in strata.values_mut() {
        stratum.shuffle(&mut rng);
        match fold {
            // Dealt like cards, each stratum going on where the last one ended: folds of even size.
            Some((fold, n_folds)) => {
                for unit in stratum.iter() {
                    if dealt % n_folds == fold {
                        valid.extend_from_slice(unit);
                    }
                    dealt += 1;
                }
            }
            None => {
                // Rounded over all strata so far, so that the whole part has its size too.
                n_seen += stratum.iter().map(Vec::len).sum::<usize>();
                let due = (n_seen as f64 * rule_share).round() as usize;
                let mut wanted = due.saturating_sub(valid.len());
                if wanted == 0 && stratum.len() >= 2 && classes.is_some() {
                    wanted = 1;
                }
                let mut taken = 0;
                for unit in &stratum[..stratum.len() - 1] {
                    if taken >= wanted {
                        break;
                    }
                    valid.extend_from_slice(unit);
                    taken += unit.len();
                }
            }
        }
    }
    valid.sort_unstable();
    let mut is_valid = vec![false; n];
    valid.iter().for_each(|&row| is_valid[row] = true);
    Parts { train: (0..n).filter(|&row| !is_valid[row]).collect(), valid }
}

/// The last `fraction` of `n` rows (characters, windows) validates: where the training part ends.
pub fn last_part(n: usize, fraction: f64) -> usize {
    (n as f64 * (1.0 - fraction)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stratified_part_has_each_class_in_proportion_and_is_reproducible() {
        let classes: Vec<u32> = (0..100).map(|i| u32::from(i % 10 == 0)).collect();
        let parts = part(Rule::Fraction(0.2), 100, Some(&classes), None, 7);
        assert_eq!((parts.train.len(), parts.valid.len()), (80, 20));
        assert_eq!(parts.valid.iter().filter(|&&row| classes[row] == 1).count(), 2);
        assert_eq!(parts, part(Rule::Fraction(0.2), 100, Some(&classes), None, 7));
        assert_ne!(parts, part(Rule::Fraction(0.2), 100, Some(&classes), None, 8));
    }

    #[test]
    fn groups_stay_whole() {
        let groups: Vec<String> = (0..60).map(|i| format!("g{}", i / 4)).collect();
        let parts = part(Rule::Fraction(0.25), 60, None, Some(&groups), 1);
        assert!(!parts.valid.is_empty());
        for row in &parts.valid {
            assert!(!parts.train.iter().any(|other| groups[*other] == groups[*row]));
        }
    }

    #[test]
    fn folds_cover_every_row_once_with_even_sizes_and_classes() {
        let classes: Vec<u32> = (0..53).map(|i| i % 3).collect();
        let mut seen = vec![0; 53];
        for fold in 0..5 {
            let parts = part(Rule::Fold { fold, n_folds: 5 }, 53, Some(&classes), None, 3);
            parts.valid.iter().for_each(|&row| seen[row] += 1);
            assert!((10..=11).contains(&parts.valid.len()), "{}", parts.valid.len());
            for class in 0..3 {
                let n = parts.valid.iter().filter(|&&row| classes[row] == class).count();
                assert!((3..=4).contains(&n), "{n}");
            }
        }
        assert_eq!(seen, vec![1; 53]);
    }

    #[test]
    fn the_last_part_is_nano_gpts() {
        assert_eq!(last_part(1_115_394, 0.1), 1_003_854);
    }
}
