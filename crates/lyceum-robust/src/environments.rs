//! Whether a model's answers depend on where it runs: instruction sets, precision of products, batch sizes.

use crate::calibrate::{probabilities, reliability};
use crate::error::RobustError;
use crate::share::share;
use crate::threat::Spent;
use crate::victim::Victim;
use crate::{Domain, calibrate};
use lyceum_kernels::cpu::{self, CpuPath};
use lyceum_models::Model;
use lyceum_models::answer::likeliest;
use lyceum_nn::Precision;
use lyceum_types::control::Control;
use lyceum_types::manifest::Metric;

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    pub path: CpuPath,
    pub precision: Precision,
    /// Rows a pass.
    pub batch: usize,
}

impl Environment {
    /// `avx512 f32 batch:32`.
    pub fn name(&self) -> String {
        let precision = match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        format!("{} {precision} batch:{}", self.path.name(), self.batch)
    }

    /// Every instruction set of this machine, both precisions, one row and 32 at a time; first the one that the
    /// others are compared with, which is how the model is served.
    pub fn matrix() -> Vec<Environment> {
        let mut all = vec![Environment { path: cpu::path(), precision: Precision::F32, batch: 32 }];
        for &path in cpu::available() {
            for precision in [Precision::F32, Precision::Bf16] {
                for batch in [1, 32] {
                    let environment = Environment { path, precision, batch };
                    if !all.contains(&environment) {
                        all.push(environment);
                    }
                }
            }
        }
        all
    }
}

/// One environment beside the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub environment: Environment,
    /// Rows that are answered as in the first.
    pub agreement: Metric,
    /// The largest difference of a logit, and of a probability.
    pub logit_max: f64,
    pub probability_max: f64,
    /// Whether all logits are the same bits.
    pub identical: bool,
    /// Where labels are given.
    pub accuracy: Option<Metric>,
    pub ece: Option<f64>,
    pub spent: Spent,
}

/// Runs rows of the domain in each environment; the first is what the others are compared with.
///
/// # Errors
/// No environment, an empty batch, an instruction set that is not here, or rows that do not fit.
pub fn compare(
    model: &Model,
    domain: &Domain,
    u: &[f32],
    labels: Option<&[u32]>,
    environments: &[Environment],
    control: &Control,
) -> Result<Vec<Difference>, RobustError> {
    let mut first: Option<Vec<f32>> = None;
    let mut out = Vec::with_capacity(environments.len());
    for &environment in environments {
        if environment.batch == 0 {
            return Err(RobustError::parameter("batch", "begins at 1"));
        }
        if !cpu::available().contains(&environment.path) {
            let reason = format!("this processor has no {}", environment.path.name());
            return Err(RobustError::unsupported(
                "an environment",
                reason,
                "leave it out, or run it elsewhere",
            ));
        }
        let mut victim = Victim::new(model, domain, control)?.with_precision(environment.precision);
        let classes = victim.n_classes();
        let width = domain.len() * environment.batch;
        let logits = cpu::with_path(environment.path, || {
            let mut all = Vec::new();
            for u in u.chunks(width) {
                all.extend(victim.logits(u)?);
            }
            Ok::<_, RobustError>(all)
        })?;
        let reference = first.get_or_insert_with(|| logits.clone());
        let (own, theirs) = (probabilities(&logits, classes, 1.0), probabilities(reference, classes, 1.0));
        let same = |(a, b): &(&[f32], &[f32])| likeliest(a) == likeliest(b);
        let n_same = logits.chunks(classes).zip(reference.chunks(classes)).filter(same).count() as u64;
        let largest = |differences: &mut dyn Iterator<Item = f64>| differences.fold(0.0, f64::max);
        let (mut accuracy, mut ece) = (None, None);
        if let Some(labels) = labels {
            calibrate::check(&logits, classes, labels)?;
            let right =
                logits.chunks(classes).zip(labels).filter(|(z, l)| likeliest(z) == **l).count() as u64;
            accuracy = Some(share(right, labels.len() as u64)?);
            ece = Some(reliability(&own, classes, labels, calibrate::BINS)?.ece);
        }
        out.push(Difference {
            environment,
            agreement: share(n_same, (logits.len() / classes) as u64)?,
            logit_max: largest(&mut logits.iter().zip(&*reference).map(|(a, b)| f64::from((a - b).abs()))),
            probability_max: largest(&mut own.iter().zip(&theirs).map(|(a, b)| (a - b).abs())),
            identical: logits.iter().zip(&*reference).all(|(a, b)| a.to_bits() == b.to_bits()),
            accuracy,
            ece,
            spent: victim.spent(),
        });
    }
    if out.is_empty() {
        return Err(RobustError::parameter("matrix", "names no environment"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;
    use lyceum_models::{InputShape, ModelShape, OutputShape};
    use lyceum_types::spec::{ActivationSpec, MlpSpec, ModelSpec};

    #[test]
    fn batch_sizes_change_no_bit_and_instruction_sets_hardly_any() {
        let spec =
            ModelSpec::Mlp(MlpSpec { hidden: vec![33], activation: ActivationSpec::Gelu, dropout: 0.0 });
        let shape =
            ModelShape { input: InputShape::Features { n: 9 }, output: OutputShape::Classes { n: 4 } };
        let model = Model::new(&spec, &shape, 3).unwrap();
        let domain = Domain::boxed(Layout::Features { n: 9 }, 0.0, 1.0);
        let u: Vec<f32> = (0..9 * 70).map(|i| (i * 31 % 97) as f32 / 97.0).collect();
        let labels: Vec<u32> = (0..70).map(|i| i % 4).collect();
        let matrix = Environment::matrix();
        let found = compare(&model, &domain, &u, Some(&labels), &matrix, &Control::new()).unwrap();
        assert!(found[0].identical && found[0].agreement.value == 1.0);
        for d in &found {
            let f32s = d.environment.precision == Precision::F32;
            let same_path = d.environment.path == matrix[0].path;
            assert!(!(f32s && same_path) || d.identical, "{}", d.environment.name());
            assert!(
                d.logit_max < if f32s { 1e-5 } else { 0.05 },
                "{}: {}",
                d.environment.name(),
                d.logit_max
            );
            assert!(d.accuracy.is_some() && d.ece.is_some() && d.spent.forward_rows == 70);
        }
        assert!(found.iter().any(|d| !d.identical), "bf16 rounds");
        assert!(compare(&model, &domain, &u, None, &[], &Control::new()).is_err());
    }
}
