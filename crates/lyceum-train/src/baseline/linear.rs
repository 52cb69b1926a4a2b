//! Linear regression with a ridge: `min ‖Y − X W − b‖² + λ ‖W‖²` on standardised columns, λ = 1
//! (scikit-learn's `Ridge`).

use super::BaselineError;
use super::standardize::Standardizer;
use lyceum_kernels::matmul::{Epilogue, Mat, Precision, Write, matmul};
use lyceum_types::control::Control;

const PENALTY: f64 = 1.0;
/// The largest system that is solved directly; beyond it, conjugate gradients.
const DIRECT_MAX: usize = 1536;
const ITERATIONS_MAX: usize = 500;
/// Rows of a block whose products are summed in f32, before blocks are summed in f64.
const BLOCK: usize = 512;

/// A fitted regressor of standardised columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    standardizer: Standardizer,
    width: usize,
    /// `[n_outputs, width]`
    weights: Vec<f64>,
    /// `[n_outputs]`: the targets' means, since the columns' are 0.
    biases: Vec<f64>,
}

impl Linear {
    /// `x`: `[n, width]`; `targets`: `[n, n_outputs]`.
    ///
    /// # Errors
    /// No rows, or the control's stop.
    pub fn fit(
        x: &[f32],
        width: usize,
        targets: &[f32],
        n_outputs: usize,
        control: &Control,
    ) -> Result<Self, BaselineError> {
        if x.is_empty() || width == 0 || n_outputs == 0 {
            return Err(BaselineError::Empty { baseline: "linear" });
        }
        let n = x.len() / width;
        assert_eq!(targets.len(), n * n_outputs, "linear: features and targets do not agree: bug");
        let standardizer = Standardizer::fit(x, width);
        let x = standardizer.apply(x);
        let mean = |output| {
            targets.iter().skip(output).step_by(n_outputs).map(|v| f64::from(*v)).sum::<f64>() / n as f64
        };
        let biases: Vec<f64> = (0..n_outputs).map(mean).collect();
        // Centred targets, one output after the other.
        let centred: Vec<Vec<f64>> = (0..n_outputs)
            .map(|o| targets.iter().skip(o).step_by(n_outputs).map(|v| f64::from(*v) - biases[o]).collect())
            .collect();
        let mut weights = Vec::with_capacity(n_outputs * width);
        if width <= DIRECT_MAX {
            // (XᵀX + λI) w = Xᵀy
            let factor = Cholesky::new(gram(&x, n, width, control)?, width, control)?;
            for y in &centred {
                weights.extend(factor.solve(transposed_product(&x, width, y)));
            }
        } else {
            for y in &centred {
                weights.extend(conjugate_gradients(&x, width, y, control)?);
            }
        }
        Ok(Linear { standardizer, width, weights, biases })
    }

    /// `x`: `[n, width]` → `[n, n_outputs]`.
    pub fn predict(&self, x: &[f32]) -> Vec<f64> {
        let x = self.standardizer.apply(x);
        let mut out = Vec::with_capacity(x.len() / self.width * self.biases.len());
        for row in x.chunks_exact(self.width) {
            let answer = |(weights, bias): (&[f64], &f64)| bias + dot(weights, row);
            out.extend(self.weights.chunks_exact(self.width).zip(&self.biases).map(answer));
        }
        out
    }
}

/// `XᵀX + λI`, `[width, width]`.
fn gram(x: &[f32], n: usize, width: usize, control: &Control) -> Result<Vec<f64>, BaselineError> {
    let mut out = vec![0.0; width * width];
    let mut block = vec![0.0f32; width * width];
    for start in (0..n).step_by(BLOCK) {
        control.check()?;
        let rows = BLOCK.min(n - start);
        let x = Mat::new(&x[start * width..(start + rows) * width], rows, width);
        matmul(x.t(), x, &mut block, Write::Overwrite, Epilogue::default(), Precision::F32);
        out.iter_mut().zip(&block).for_each(|(to, from)| *to += f64::from(*from));
    }
    for i in 0..width {
        out[i * width + i] += PENALTY;
    }
    Ok(out)
}

/// `Xᵀ y`
fn transposed_product(x: &[f32], width: usize, y: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; width];
    for (row, y) in x.chunks_exact(width).zip(y) {
        out.iter_mut().zip(row).for_each(|(to, value)| *to += y * f64::from(*value));
    }
    out
}

fn dot(weights: &[f64], row: &[f32]) -> f64 {
    weights.iter().zip(row).map(|(weight, value)| weight * f64::from(*value)).sum()
}

/// `L` of `A = L Lᵀ`, row by row.
struct Cholesky {
    lower: Vec<f64>,
    n: usize,
}

impl Cholesky {
    fn new(mut a: Vec<f64>, n: usize, control: &Control) -> Result<Self, BaselineError> {
        for i in 0..n {
            control.check()?;
            let (above, below) = a.split_at_mut(i * n);
            let row = &mut below[..n];
            for j in 0..i {
                let before = &above[j * n..j * n + n];
                let sum: f64 = row[..j].iter().zip(&before[..j]).map(|(a, b)| a * b).sum();
                row[j] = (row[j] - sum) / before[j];
            }
            let sum: f64 = row[..i].iter().map(|value| value * value).sum();
            // The ridge keeps the pivot above λ but for rounding.
            row[i] = (row[i] - sum).max(PENALTY * 1e-3).sqrt();
        }
        Ok(Cholesky { lower: a, n })
    }

    fn solve(&self, mut b: Vec<f64>) -> Vec<f64> {
        let n = self.n;
        for i in 0..n {
            let row = &self.lower[i * n..i * n + i];
            let sum: f64 = row.iter().zip(&b).map(|(a, b)| a * b).sum();
            b[i] = (b[i] - sum) / self.lower[i * n + i];
        }
        for i in (0..n).rev() {
            b[i] /= self.lower[i * n + i];
            let value = b[i];
            for j in 0..i {
                b[j] -= self.lower[i * n + j] * value;
            }
        }
        b
    }
}

/// Solves `(XᵀX + λI) w = Xᵀy` without forming the matrix (Hestenes and Stiefel 1952).
fn conjugate_gradients(
    x: &[f32],
    width: usize,
    y: &[f64],
    control: &Control,
) -> Result<Vec<f64>, BaselineError> {
    let mut residual = transposed_product(x, width, y);
    let mut weights = vec![0.0; width];
    let mut direction = residual.clone();
    let square = |v: &[f64]| v.iter().map(|value| value * value).sum::<f64>();
    let mut size = square(&residual);
    let enough = size * 1e-12;
    for _ in 0..ITERATIONS_MAX.min(2 * width) {
        if size <= enough {
            break;
        }
        control.check()?;
        let products: Vec<f64> = x.chunks_exact(width).map(|row| dot(&direction, row)).collect();
        let mut image = transposed_product(x, width, &products);
        image.iter_mut().zip(&direction).for_each(|(to, d)| *to += PENALTY * d);
        let curvature: f64 = image.iter().zip(&direction).map(|(a, b)| a * b).sum();
        let step = size / curvature;
        for i in 0..width {
            weights[i] += step * direction[i];
            residual[i] -= step * image[i];
        }
        let next = square(&residual);
        let keep = next / size;
        direction.iter_mut().zip(&residual).for_each(|(d, r)| *d = r + keep * *d);
        size = next;
    }
    Ok(weights)
}
