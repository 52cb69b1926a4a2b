//! Multinomial logistic regression with an L2 penalty.
//!
//! Minimises `1/n Σᵢ −ln softmax(W xᵢ + b)[yᵢ] + λ/2n ‖W‖²`: scikit-learn's objective with `C = 1/λ`. Products
//! are the kernels' exact f32, whose rows have the same bits on any number of threads; sums are f64.

use super::BaselineError;
use super::lbfgs::minimize;
use super::standardize::Standardizer;
use lyceum_kernels::matmul::{Epilogue, Mat, Precision, Write, matmul};
use lyceum_types::control::Control;

/// λ, scikit-learn's default.
const PENALTY: f64 = 1.0;
/// Largest component of the mean loss's gradient, scikit-learn's default.
const TOLERANCE: f64 = 1e-4;
const ITERATIONS_MAX: usize = 300;
/// Multiply-adds of a fit are bounded: fewer iterations on more data, and never fewer than 30.
const WORK_MAX: f64 = 2e12;
const ITERATIONS_MIN: usize = 30;
/// Rows of a block of the products.
const BLOCK: usize = 1024;

/// A fitted classifier of standardised columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Logistic {
    standardizer: Standardizer,
    /// `[n_classes, width]`, then `[n_classes]` of biases.
    weights: Vec<f64>,
    n_classes: usize,
    width: usize,
    /// Whether the gradient came under its tolerance.
    pub converged: bool,
    pub iterations: usize,
}

impl Logistic {
    /// `x`: `[n, width]`; `labels`: `[n]`, below `n_classes`.
    ///
    /// # Errors
    /// No rows, or the control's stop.
    pub fn fit(
        x: &[f32],
        width: usize,
        labels: &[u32],
        n_classes: usize,
        control: &Control,
    ) -> Result<Self, BaselineError> {
        let n = labels.len();
        if n == 0 || width == 0 {
            return Err(BaselineError::Empty { baseline: "logistic" });
        }
        assert_eq!(x.len(), n * width, "logistic: features and labels do not agree: bug");
        let standardizer = Standardizer::fit(x, width);
        let x = standardizer.apply(x);
        let work = (4 * n * width * n_classes) as f64;
        let iterations_max = ((WORK_MAX / work) as usize).clamp(ITERATIONS_MIN, ITERATIONS_MAX);
        let mut weights = vec![0.0; n_classes * (width + 1)];
        let mut objective = Objective::new(&x, width, labels, n_classes);
        let minimum = minimize(&mut weights, TOLERANCE, iterations_max, control, |weights, gradient| {
            objective.evaluate(weights, gradient)
        })?;
        let converged = minimum.gradient_max <= TOLERANCE;
        Ok(Logistic { standardizer, weights, n_classes, width, converged, iterations: minimum.iterations })
    }

    /// `x`: `[n, width]` → `[n, n_classes]` in nats.
    pub fn log_probs(&self, x: &[f32]) -> Vec<f64> {
        let x = self.standardizer.apply(x);
        let (weights, biases) = self.weights.split_at(self.n_classes * self.width);
        let mut out = Vec::with_capacity(x.len() / self.width * self.n_classes);
        for row in x.chunks_exact(self.width) {
            let start = out.len();
            let score = |(weights, bias): (&[f64], &f64)| {
                bias + weights.iter().zip(row).map(|(weight, value)| weight * f64::from(*value)).sum::<f64>()
            };
            out.extend(weights.chunks_exact(self.width).zip(biases).map(score));
            normalize(&mut out[start..]);
        }
        out
    }
}

/// Scores → log-probabilities, in place; returns nothing that could overflow.
pub(super) fn normalize(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
    let norm = max + sum.ln();
    scores.iter_mut().for_each(|score| *score -= norm);
}

struct Objective<'a> {
    x: &'a [f32],
    width: usize,
    labels: &'a [u32],
    n_classes: usize,
    weights: Vec<f32>,
    scores: Vec<f32>,
    row: Vec<f64>,
    gradient: Vec<f32>,
}

impl<'a> Objective<'a> {
    fn new(x: &'a [f32], width: usize, labels: &'a [u32], n_classes: usize) -> Self {
        Objective {
            x,
            width,
            labels,
            n_classes,
            weights: vec![0.0; n_classes * width],
            scores: vec![0.0; BLOCK * n_classes],
            row: vec![0.0; n_classes],
            gradient: vec![0.0; n_classes * width],
        }
    }

    fn evaluate(&mut self, weights: &[f64], gradient: &mut [f64]) -> f64 {
        let (classes, width) = (self.n_classes, self.width);
        let n = self.labels.len() as f64;
        let (matrix, biases) = weights.split_at(classes * width);
        self.weights.iter_mut().zip(matrix).for_each(|(to, from)| *to = *from as f32);
        let penalty: f64 = matrix.iter().map(|weight| weight * weight).sum();
        let mut loss = 0.5 * PENALTY * penalty;
        for (slot, weight) in gradient.iter_mut().zip(matrix) {
            *slot = PENALTY * weight;
        }
        gradient[classes * width..].fill(0.0);
        for (block, labels) in self.x.chunks(BLOCK * width).zip(self.labels.chunks(BLOCK)) {
            let rows = labels.len();
            let scores = &mut self.scores[..rows * classes];
            let x = Mat::new(block, rows, width);
            let w = Mat::new(&self.weights, classes, width).t();
            matmul(x, w, scores, Write::Overwrite, Epilogue::default(), Precision::F32);
            for (scores, label) in scores.chunks_exact_mut(classes).zip(labels) {
                for class in 0..classes {
                    self.row[class] = f64::from(scores[class]) + biases[class];
                }
                normalize(&mut self.row);
                loss -= self.row[*label as usize];
                for class in 0..classes {
                    let residual = self.row[class].exp() - f64::from(u8::from(class == *label as usize));
                    gradient[classes * width + class] += residual;
                    scores[class] = residual as f32;
                }
            }
            let residuals = Mat::new(scores, rows, classes).t();
            matmul(residuals, x, &mut self.gradient, Write::Overwrite, Epilogue::default(), Precision::F32);
            gradient.iter_mut().zip(&self.gradient).for_each(|(to, from)| *to += f64::from(*from));
        }
        gradient.iter_mut().for_each(|slot| *slot /= n);
        loss / n
    }
}
