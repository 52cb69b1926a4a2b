//! What is explained: one number of the model's outputs, and its gradient with respect to them.

use crate::ExplainError;
use lyceum_models::OutputShape;
use lyceum_models::answer::likeliest;

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
    /// The class is the one that the model chooses, known after the first pass.
    likeliest: bool,
    /// Outputs that are never said: probabilities are those among the others.
    silent: Vec<u32>,
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
        Ok(Target { terms, quantity, likeliest: false, silent: Vec::new() })
    }

    /// The class that the model chooses at `row` (0 where it answers once).
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn likeliest(row: usize, quantity: Quantity, output: &OutputShape) -> Result<Self, ExplainError> {
        let target = Target::new(vec![Term { row, class: 0, not: None }], quantity, output)?;
        Ok(Target { likeliest: true, ..target })
    }

    /// Probabilities are those among the outputs that are not in `silent`, as where tokens are drawn.
    ///
    /// # Errors
    /// When one of them is explained.
    pub fn among_others(mut self, silent: Vec<u32>) -> Result<Self, ExplainError> {
        let said = self.terms.iter().flat_map(|t| [Some(t.class), t.not]).flatten();
        if let Some(class) = said.into_iter().find(|&class| silent.contains(&(class as u32))) {
            return Err(ExplainError::request("target", format!("token {class} is never said")));
        }
        self.silent = silent;
        Ok(self)
    }

    fn is_silent(&self, class: usize) -> bool {
        self.silent.contains(&(class as u32))
    }

    fn log_sum_exp(&self, row: &[f32]) -> f64 {
        let said = || row.iter().enumerate().filter(|(i, _)| !self.is_silent(*i)).map(|(_, &z)| z);
        let max = said().fold(f32::NEG_INFINITY, f32::max);
        f64::from(max) + said().map(|z| f64::from(z - max).exp()).sum::<f64>().ln()
    }

    /// With its class chosen by one example's outputs.
    pub(crate) fn resolved(&self, outputs: &[f32], width: usize) -> Target {
        let mut target = self.clone();
        if std::mem::take(&mut target.likeliest) {
            let term = &mut target.terms[0];
            term.class = likeliest(&outputs[term.row * width..][..width]) as usize;
        }
        target
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
        Target { quantity, ..self.clone() }
    }

    /// The same target where rows have moved.
    pub(crate) fn at_rows(&self, row: impl Fn(usize) -> usize) -> Target {
        let terms = self.terms.iter().map(|t| Term { row: row(t.row), ..*t }).collect();
        Target { terms, ..self.clone() }
    }

    /// Its value for one example's outputs `[rows, width]`.
    pub(crate) fn score(&self, outputs: &[f32], width: usize) -> f64 {
        let of = |term: &Term| {
            let row = &outputs[term.row * width..][..width];
            let z = |class: usize| f64::from(row[class]);
            match (self.quantity, term.not) {
                (Quantity::Logit, None) => z(term.class),
                (Quantity::Logit | Quantity::LogProbability, Some(not)) => z(term.class) - z(not),
                (Quantity::LogProbability, None) => z(term.class) - self.log_sum_exp(row),
                (Quantity::Probability, None) => (z(term.class) - self.log_sum_exp(row)).exp(),
                (Quantity::Probability, Some(not)) => {
                    let lse = self.log_sum_exp(row);
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
            let lse = match self.quantity {
                Quantity::Probability | Quantity::LogProbability => self.log_sum_exp(row),
                _ => 0.0,
            };
            let softmax = |class: usize| match self.is_silent(class) {
                true => 0.0,
                false => (f64::from(row[class]) - lse).exp() as f32,
            };
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

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: OutputShape = OutputShape::StepClasses { n: 4 };

    #[test]
    fn seeds_are_the_derivatives_of_scores() {
        let outputs = [0.3f32, -1.0, 0.7, 1.5, 2.0, 0.1, -0.4, 0.2];
        let terms = vec![Term { row: 0, class: 2, not: None }, Term { row: 1, class: 0, not: Some(1) }];
        for quantity in [Quantity::Logit, Quantity::Probability, Quantity::LogProbability] {
            let target = Target::new(terms.clone(), quantity, &OUTPUT).unwrap();
            let target =
                if quantity == Quantity::Logit { target } else { target.among_others(vec![3]).unwrap() };
            let mut seed = [0.0; 8];
            target.add_seed(&outputs, 4, &mut seed);
            for i in 0..8 {
                let moved = |by: f32| {
                    let mut z = outputs;
                    z[i] += by;
                    target.score(&z, 4)
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
