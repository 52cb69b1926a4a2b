//! Many tests at once: p-values corrected so that a false alarm stays as rare as it was promised to be.

/// Holm 1979: the chance of one false alarm or more stays below alpha, whatever the tests' dependence.
/// `p_(i) ↦ max_{j ≤ i} min(1, (m − j + 1) p_(j))`.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let order = ascending(p);
    let mut out = vec![0.0; p.len()];
    let mut most = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        most = most.max(((p.len() - rank) as f64 * p[i]).min(1.0));
        out[i] = most;
    }
    out
}

/// Benjamini & Hochberg 1995: of the alarms, the expected share of false ones stays below alpha (independent or
/// positively dependent tests). `p_(i) ↦ min_{j ≥ i} min(1, m p_(j) / j)`.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let order = ascending(p);
    let mut out = vec![0.0; p.len()];
    let mut least = 1.0f64;
    for (rank, &i) in order.iter().enumerate().rev() {
        least = least.min(p.len() as f64 * p[i] / (rank + 1) as f64);
        out[i] = least;
    }
    out
}

fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_are_those_of_the_papers() {
        let p = [0.01, 0.04, 0.03, 0.005];
        let close = |a: Vec<f64>, b: [f64; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(holm(&p), [0.03, 0.06, 0.06, 0.02]), "{:?}", holm(&p));
        assert!(close(benjamini_hochberg(&p), [0.02, 0.04, 0.04, 0.02]), "{:?}", benjamini_hochberg(&p));
        assert!(holm(&[]).is_empty());
    }
}
