//! The mean of gradient × input over noisy inputs: `1/n Σ ∂f/∂x(x + ε) ⊙ (x + ε)`, `ε ~ N(0, (deviation · range)²)`
//! with the range of the input's own numbers (Smilkov et al. 2017).

use super::Attributed;
use crate::session::Session;
use crate::{ExplainError, Of, Wanted};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) fn attribute(
    session: &mut Session<'_>,
    n_samples: usize,
    deviation: f64,
    seed: u64,
) -> Result<Attributed, ExplainError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let entry = session.entry.clone();
    let (min, max) = entry.iter().fold((f32::MAX, f32::MIN), |(lo, hi), &x| (lo.min(x), hi.max(x)));
    let sigma = deviation * f64::from(max - min);
    let noisy: Vec<Vec<f32>> = (0..n_samples)
        .map(|_| entry.iter().map(|&x| (f64::from(x) + sigma * normal(&mut rng)) as f32).collect())
        .collect();
    let subject = session.subject;
    let mut elements = vec![0.0; entry.len()];
    let (mut sums, mut squares) = (vec![0.0; subject.groups.n()], vec![0.0; subject.groups.n()]);
    session.over(
        n_samples,
        &Wanted::Gradients,
        |_, i, out| out.extend_from_slice(&noisy[i]),
        |first, result| {
            for (i, gradient) in result.gradients.chunks_exact(entry.len()).enumerate() {
                let part: Vec<f32> = gradient.iter().zip(&noisy[first + i]).map(|(g, x)| g * x).collect();
                elements.iter_mut().zip(&part).for_each(|(e, p)| *e += p / n_samples as f32);
                for (j, value) in subject.groups.sums(&part).into_iter().enumerate() {
                    sums[j] += value;
                    squares[j] += value * value;
                }
            }
        },
    )?;
    let n = n_samples as f64;
    let values: Vec<f64> = sums.iter().map(|s| s / n).collect();
    let stderr = |(mean, square): (&f64, &f64)| ((square / n - mean * mean).max(0.0) / (n - 1.0)).sqrt();
    let stderr = Some(values.iter().zip(&squares).map(stderr).collect());
    let elements = Some(elements);
    Ok(Attributed { values, stderr, elements, of: Of::Features, base_value: None, exact: false })
}

/// Box–Muller.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
