//! What is explained: one number of the model's outputs, and its gradient with respect to them.

use crate::ExplainError;
use lyceum_models::OutputShape;

/// The number that attributions add up to or compare.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantity {
    /// `z_class`, or `z_class − z_not`.
    Logit,
    /// `softmax(z)_class`, or the difference of two.
    Probability,
    /// `log softmax(z)_class`, or the difference of two (which is that of logits).
    LogProbability,
    /// A number of a regression, in the units of the data: `z · scale + shift` (`scale` alone for a
    /// difference).
    Value { scale: f64, shift: f64 },
}

impl Quantity {
    pub fn name(self) -> &'static str {
        match self {
            Quantity::Logit => "logit",
            Quantity::Probability => "probability",
            Quantity::LogProbability => "logprob",
            Quantity::Value { .. } => "value",
        }
    }
}

/// One output of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The step, where there is an answer at each; else 0.
    pub row: usize,
    pub class: usize,
    /// Explains the difference to this one.
    pub not: Option<usize>,
}

/// The sum of a quantity over terms (several for a span of tokens).
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    terms: Vec<Term>,
    quantity: Quantity,
}

impl Target {
    /// # Errors
    /// When a term names an output or a step that the model does not have.
    pub fn new(terms: Vec<Term>, quantity: Quantity, output: &OutputShape) -> Result<Self, ExplainError> {
        let refuse = |message: String| Err(ExplainError::request("target", message));
        if terms.is_empty() {
            return refuse("names no output".into());
        }
        let width = output.width();
        let numbers = matches!(output, OutputShape::Values { .. });
        if numbers != matches!(quantity, Quantity::Value { .. }) {
            let (has, wants) =
                if numbers { ("numbers", "value") } else { ("classes", "logit, probability or logprob") };
            return refuse(format!("the model answers with {has}, whose quantity is {wants}"));
        }
        let each_step = matches!(output, OutputShape::Tokens { .. } | OutputShape::StepClasses { .. });
        for term in &terms {
            if let Some(class) = [Some(term.class), term.not].into_iter().flatten().find(|&c| c >= width) {
                return refuse(format!("output {class} is outside the model's {width}"));
            }
            if term.not == Some(term.class) {
                return refuse("an output is contrasted with itself".into());
            }
            if term.row > 0 && !each_step {
                return refuse(format!("step {}, but the model answers once", term.row));
            }
        }
        Ok(Target { terms, quantity })
    }

    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    pub fn quantity(&self) -> Quantity {
        self.quantity
    }

    /// The last row that is read.
    pub(crate) fn last_row(&self) -> usize {
        self.terms.iter().map(|t| t.row).max().unwrap_or(0)
    }

    pub(crate) fn first_row(&self) -> usize {
        self.terms.iter().map(|t| t.row).min().unwrap_or(0)
    }

    /// The same target in another quantity.
    pub(crate) fn in_quantity(&self, quantity: Quantity) -> Target {
        Target { terms: self.terms.clone(), quantity }
    }

    /// The same target where rows have moved.
    pub(crate) fn at_rows(&self, row: impl Fn(usize) -> usize) -> Target {
        let terms = self.terms.iter().map(|t| Term { row: row(t.row), ..*t }).collect();
        Target { terms, quantity: self.quantity }
    }

    /// Its value for one example's outputs `[rows, width]`.
    pub(crate) fn score(&self, outputs: &[f32], width: usize) -> f64 {
        let of = |term: &Term| {
            let row = &outputs[term.row * width..][..width];
            let z = |class: usize| f64::from(row[class]);
            match (self.quantity, term.not) {
                (Quantity::Logit, None) => z(term.class),
                (Quantity::Logit | Quantity::LogProbability, Some(not)) => z(term.class) - z(not),
                (Quantity::LogProbability, None) => z(term.class) - log_sum_exp(row),
                (Quantity::Probability, None) => (z(term.class) - log_sum_exp(row)).exp(),
                (Quantity::Probability, Some(not)) => {
                    let lse = log_sum_exp(row);
                    (z(term.class) - lse).exp() - (z(not) - lse).exp()
                }
                (Quantity::Value { scale, shift }, None) => z(term.class) * scale + shift,
                (Quantity::Value { scale, .. }, Some(not)) => (z(term.class) - z(not)) * scale,
            }
        };
        self.terms.iter().map(of).sum()
    }

    /// Adds `∂ score / ∂ outputs` of one example to `seed`.
    pub(crate) fn add_seed(&self, outputs: &[f32], width: usize, seed: &mut [f32]) {
        for term in &self.terms {
            let row = &outputs[term.row * width..][..width];
            let seed = &mut seed[term.row * width..][..width];
            let scale = match self.quantity {
                Quantity::Value { scale, .. } => scale as f32,
                _ => 1.0,
            };
            let softmax = |class: usize| (f64::from(row[class]) - log_sum_exp(row)).exp() as f32;
            match self.quantity {
                Quantity::Probability => {
                    // ∂p_a/∂z = p_a (e_a − p)
                    for (class, sign) in [(Some(term.class), 1.0), (term.not, -1.0)] {
                        let Some(class) = class else { continue };
                        let p = softmax(class) * sign;
                        for j in 0..width {
                            seed[j] += p * (f32::from(j == class) - softmax(j));
                        }
                    }
                }
                Quantity::LogProbability if term.not.is_none() => {
                    for j in 0..width {
                        seed[j] += f32::from(j == term.class) - softmax(j);
                    }
                }
                _ => {
                    seed[term.class] += scale;
                    if let Some(not) = term.not {
                        seed[not] -= scale;
                    }
                }
            }
        }
    }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + row.iter().map(|&z| f64::from(z - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: OutputShape = OutputShape::StepClasses { n: 3 };

    #[test]
    fn seeds_are_the_derivatives_of_scores() {
        let outputs = [0.3f32, -1.0, 0.7, 2.0, 0.1, -0.4];
        let terms = vec![Term { row: 0, class: 2, not: None }, Term { row: 1, class: 0, not: Some(1) }];
        for quantity in [Quantity::Logit, Quantity::Probability, Quantity::LogProbability] {
            let target = Target::new(terms.clone(), quantity, &OUTPUT).unwrap();
            let mut seed = [0.0; 6];
            target.add_seed(&outputs, 3, &mut seed);
            for i in 0..6 {
                let moved = |by: f32| {
                    let mut z = outputs;
                    z[i] += by;
                    target.score(&z, 3)
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((slope - f64::from(seed[i])).abs() < 1e-3, "{quantity:?}[{i}]: {slope} {}", seed[i]);
            }
        }
    }

    #[test]
    fn outputs_that_the_model_does_not_have_are_refused() {
        let term = |row, class, not| vec![Term { row, class, not }];
        let new = |terms, quantity| Target::new(terms, quantity, &OutputShape::Classes { n: 2 });
        assert!(new(term(0, 1, Some(0)), Quantity::Logit).is_ok());
        assert!(new(term(0, 2, None), Quantity::Logit).is_err());
        assert!(new(term(1, 0, None), Quantity::Logit).is_err());
        assert!(new(term(0, 1, Some(1)), Quantity::Logit).is_err());
        assert!(new(vec![], Quantity::Logit).is_err());
        assert!(new(term(0, 1, None), Quantity::Value { scale: 1.0, shift: 0.0 }).is_err());
    }
}
