//! Many tests at once: Holm's step-down correction (Holm 1979, Scandinavian Journal of Statistics 6).
//!
//! With p-values in ascending order, the adjusted `p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) · p_(j))`. Calling a
//! difference where `p̃ < α` errs in any of the m comparisons with probability at most α, however they depend on
//! each other.

/// Adjusted p-values, in the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut reached = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        reached = reached.max((p.len() - rank) as f64 * p[i]).min(1.0);
        adjusted[i] = reached;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::holm;
    use proptest::prelude::*;

    #[test]
    fn adjusted_values_are_those_of_statsmodels() {
        // statsmodels.stats.multitest.multipletests([0.01, 0.04, 0.03, 0.005], method="holm")[1]
        assert_eq!(holm(&[0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]);
        assert_eq!(holm(&[]), Vec::<f64>::new());
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }

    proptest! {
        #[test]
        fn they_keep_the_order_and_lie_between_the_raw_and_bonferronis(p in prop::collection::vec(0.0f64..1.0, 1..30)) {
            let adjusted = holm(&p);
            for i in 0..p.len() {
                prop_assert!(adjusted[i] >= p[i] && adjusted[i] <= (p.len() as f64 * p[i]).min(1.0) + 1e-12);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j]);
                }
            }
        }
    }
}
