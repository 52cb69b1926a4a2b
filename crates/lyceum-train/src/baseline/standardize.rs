//! Columns with mean 0 and standard deviation 1, as the linear methods need them.

/// `(x − mean) / std` of each column, by training rows; a column that never moves becomes 0.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standardizer {
    means: Vec<f64>,
    /// 1 / std, or 0.
    scales: Vec<f64>,
}

impl Standardizer {
    /// `x`: `[n, width]`.
    pub(super) fn fit(x: &[f32], width: usize) -> Self {
        let n = (x.len() / width) as f64;
        let mut means = vec![0.0; width];
        for row in x.chunks_exact(width) {
            row.iter().zip(&mut means).for_each(|(value, mean)| *mean += f64::from(*value));
        }
        means.iter_mut().for_each(|mean| *mean /= n);
        let mut squares = vec![0.0; width];
        for row in x.chunks_exact(width) {
            for ((value, mean), square) in row.iter().zip(&means).zip(&mut squares) {
                *square += (f64::from(*value) - mean).powi(2);
            }
        }
        let scale = |(square, mean): (&f64, &f64)| {
            let std = (square / n).sqrt();
            // What is left of a constant column is the rounding of f32.
            if std > 1e-6 * mean.abs().max(1e-30) { 1.0 / std } else { 0.0 }
        };
        let scales = squares.iter().zip(&means).map(scale).collect();
        Standardizer { means, scales }
    }

    /// `[n, width]`
    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let width = self.means.len();
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(width) {
            let columns = row.iter().zip(&self.means).zip(&self.scales);
            out.extend(columns.map(|((value, mean), scale)| ((f64::from(*value) - mean) * scale) as f32));
        }
        out
    }
}
