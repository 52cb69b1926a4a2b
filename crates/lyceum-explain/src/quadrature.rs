//! Gauss–Legendre nodes on [0, 1]: `∫₀¹ f ≈ Σ w_k f(x_k)`, exact for polynomials of degree 2n − 1.

use std::f64::consts::PI;

/// `n` nodes with their weights: roots of the Legendre polynomial by Newton's method from Tricomi's start.
pub(crate) fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let node = |k: usize| {
        let mut x = (PI * (k as f64 + 0.75) / (n as f64 + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            // P_0 = 1, P_1 = x, (j + 1) P_{j+1} = (2j + 1) x P_j − j P_{j−1}
            let (mut p0, mut p1) = (1.0, x);
            for j in 1..n {
                let j = j as f64;
                (p0, p1) = (p1, ((2.0 * j + 1.0) * x * p1 - j * p0) / (j + 1.0));
            }
            slope = n as f64 * (x * p1 - p0) / (x * x - 1.0);
            let step = p1 / slope;
            x -= step;
            if step.abs() < 1e-15 {
                break;
            }
        }
        // From [−1, 1] to [0, 1].
        ((1.0 - x) / 2.0, 1.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..n).map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_are_integrated_exactly() {
        for n in [1, 2, 3, 7, 20, 50, 200] {
            let nodes = gauss_legendre(n);
            assert!(nodes.windows(2).all(|w| w[0].0 < w[1].0) && nodes[0].0 > 0.0 && nodes[n - 1].0 < 1.0);
            for degree in [0, 1, n, 2 * n - 1] {
                let sum: f64 = nodes.iter().map(|(x, w)| w * x.powi(degree as i32)).sum();
                assert!((sum - 1.0 / (degree as f64 + 1.0)).abs() < 1e-12, "n {n}, degree {degree}: {sum}");
            }
        }
    }
}
