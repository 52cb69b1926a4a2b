//! One explanation under way: passes are made in small batches, counted, bounded and stopped here.

use crate::{Baseline, Device, ExplainError, Pass, PassResult, Subject, Target, Usage, Wanted};
use lyceum_models::OutputShape;
use lyceum_models::batch::{Input, Tokens};
use lyceum_types::control::Control;

/// Examples of one pass at most: short enough that others do not wait.
const ROWS_A_PASS: usize = 16;
/// Numbers of the entries of one pass, where that is fewer examples.
const ELEMENTS_A_PASS: usize = 1 << 18;

pub(crate) struct Session<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) method: &'static str,
    /// The example's entry: its numbers, or its embedded tokens.
    pub(crate) entry: Vec<f32>,
    /// The target, its class chosen.
    pub(crate) target: Target,
    /// The target's value for the example.
    pub(crate) output: f64,
    /// What the first pass found, until it is used.
    pub(crate) first: Option<PassResult>,
    pub(crate) usage: Usage,
    max_passes: u64,
    device: &'a mut dyn Device,
    control: &'a Control,
}

/// Which features are there.
pub(crate) type Coalition = Vec<bool>;

impl<'a> Session<'a> {
    /// Makes the first pass: the example as it is, with what the method wants of it.
    pub(crate) fn start(
        subject: &'a Subject,
        method: &'static str,
        wanted: Wanted,
        max_passes: u64,
        device: &'a mut dyn Device,
        control: &'a Control,
    ) -> Result<Self, ExplainError> {
        let mut session = Session {
            subject,
            method,
            entry: Vec::new(),
            target: subject.target.clone(),
            output: 0.0,
            first: None,
            usage: Usage::default(),
            max_passes,
            device,
            control,
        };
        let mut result = session.pass(None, vec![subject.target.clone()], wanted)?;
        session.output = finite("the model's output", result.scores[0])?;
        session.entry = std::mem::take(&mut result.entry);
        session.target = result.targets[0].clone();
        session.first = Some(result);
        Ok(session)
    }

    /// Says no before anything is spent: `needed` passes more.
    pub(crate) fn require(&self, needed: u64) -> Result<(), ExplainError> {
        let needed = self.usage.forward_passes + needed;
        if needed > self.max_passes {
            let max_passes = self.max_passes;
            return Err(ExplainError::TooManyPasses { method: self.method, needed, max_passes });
        }
        Ok(())
    }

    /// One pass over entries of the example's size (or the example itself).
    pub(crate) fn pass(
        &mut self,
        entries: Option<Vec<f32>>,
        targets: Vec<Target>,
        wanted: Wanted,
    ) -> Result<PassResult, ExplainError> {
        let input = repeated(&self.subject.input, targets.len());
        self.run(Pass { model: self.subject.model.clone(), input, entry: entries, targets, wanted })
    }

    fn run(&mut self, pass: Pass) -> Result<PassResult, ExplainError> {
        self.control.check().map_err(ExplainError::Stopped)?;
        let n = pass.targets.len() as u64;
        self.require(n)?;
        self.usage.forward_passes += n;
        if !matches!(pass.wanted, Wanted::Scores | Wanted::Attention | Wanted::Layers) {
            self.usage.backward_passes += n;
        }
        self.device.run(pass)
    }

    /// Examples of one pass.
    pub(crate) fn rows(&self) -> usize {
        (ELEMENTS_A_PASS / self.entry.len().max(1)).clamp(1, ROWS_A_PASS)
    }

    /// Makes passes over `n` entries that `make` writes; `take` reads each pass, given the first entry's number.
    pub(crate) fn over(
        &mut self,
        n: usize,
        wanted: &Wanted,
        mut make: impl FnMut(&Self, usize, &mut Vec<f32>),
        mut take: impl FnMut(usize, &PassResult),
    ) -> Result<(), ExplainError> {
        self.require(n as u64)?;
        let rows = self.rows();
        for first in (0..n).step_by(rows) {
            let here = rows.min(n - first);
            let mut entries = Vec::with_capacity(here * self.entry.len());
            (first..first + here).for_each(|i| make(self, i, &mut entries));
            let targets = vec![self.target.clone(); here];
            let result = self.pass(Some(entries), targets, wanted.clone())?;
            take(first, &result);
        }
        Ok(())
    }

    /// Gradient of the target at the example itself.
    pub(crate) fn gradient(&mut self) -> Result<Vec<f32>, ExplainError> {
        Ok(self.once(Wanted::Gradients)?.gradients)
    }

    /// One pass over the example; the first one, where it was that.
    pub(crate) fn once(&mut self, wanted: Wanted) -> Result<PassResult, ExplainError> {
        let known = |first: &PassResult| match wanted {
            Wanted::Gradients => !first.gradients.is_empty(),
            Wanted::Relevance { .. } => first.relevance.is_some(),
            _ => false,
        };
        match self.first.take() {
            Some(first) if known(&first) => Ok(first),
            _ => self.pass(Some(self.entry.clone()), vec![self.target.clone()], wanted),
        }
    }

    /// The target's value where only the features of each coalition are there.
    pub(crate) fn values(
        &mut self,
        baseline: &Baseline,
        target: &Target,
        coalitions: &[Coalition],
    ) -> Result<Vec<f64>, ExplainError> {
        let scores = match baseline {
            Baseline::Drop => self.dropped(target, coalitions)?,
            _ => self.replaced(baseline, target, coalitions)?,
        };
        scores.into_iter().map(|v| finite("the model's output", v)).collect()
    }

    /// Passes that [`values`](Self::values) makes for one coalition.
    pub(crate) fn cost(&self, baseline: &Baseline) -> u64 {
        match baseline {
            Baseline::Background(rows) => rows.len() as u64,
            _ => 1,
        }
    }

    fn replaced(
        &mut self,
        baseline: &Baseline,
        target: &Target,
        coalitions: &[Coalition],
    ) -> Result<Vec<f64>, ExplainError> {
        let backgrounds = self.baselines(baseline)?;
        let per = backgrounds.len();
        let n = coalitions.len() * per;
        self.require(n as u64)?;
        let (rows, len) = (self.rows(), self.entry.len());
        let of_elements: Vec<Option<u32>> = self.subject.groups.of_elements(len).collect();
        let mut values = vec![0.0; coalitions.len()];
        for first in (0..n).step_by(rows) {
            let here = rows.min(n - first);
            let mut entries = Vec::with_capacity(here * len);
            for i in first..first + here {
                let (coalition, background) = (&coalitions[i / per], &backgrounds[i % per]);
                let here = |(j, &x): (usize, &f32)| match of_elements[j] {
                    Some(g) if !coalition[g as usize] => background[j],
                    _ => x,
                };
                entries.extend(self.entry.iter().enumerate().map(here));
            }
            let result = self.pass(Some(entries), vec![target.clone(); here], Wanted::Scores)?;
            for (i, score) in result.scores.iter().enumerate() {
                values[(first + i) / per] += score / per as f64;
            }
        }
        Ok(values)
    }

    /// The entries that stand for nothing, each as long as the example's.
    pub(crate) fn baselines(&self, baseline: &Baseline) -> Result<Vec<Vec<f32>>, ExplainError> {
        let len = self.entry.len();
        let rows = match baseline {
            Baseline::Zeros => vec![vec![0.0; len]],
            Baseline::Values(values) => vec![values.clone()],
            Baseline::Background(rows) => rows.clone(),
            Baseline::Drop => {
                return Err(ExplainError::Unsupported {
                    method: self.method,
                    what: "a text by leaving tokens out".into(),
                    fix: "use baseline zeros, or leave_one_out and the Shapley methods with baseline drop",
                });
            }
        };
        if rows.is_empty() {
            return Err(ExplainError::request("baseline", "the background has no row"));
        }
        if let Some(row) = rows.iter().find(|row| row.len() != len) {
            let message = format!("{} numbers, the input has {len}", row.len());
            return Err(ExplainError::request("baseline", message));
        }
        // What belongs to no feature is never absent.
        let fixed: Vec<bool> = self.subject.groups.of_elements(len).map(|g| g.is_none()).collect();
        let fix = |mut row: Vec<f32>| {
            (0..len).filter(|&i| fixed[i]).for_each(|i| row[i] = self.entry[i]);
            row
        };
        Ok(rows.into_iter().map(fix).collect())
    }

    /// As [`replaced`](Self::replaced) where absent tokens are left out.
    fn dropped(&mut self, target: &Target, coalitions: &[Coalition]) -> Result<Vec<f64>, ExplainError> {
        let subject = self.subject;
        let (ids, own_steps) = match &subject.input {
            Input::Tokens(tokens) => (&tokens.ids, true),
            Input::Pair { source, .. } => (&source.ids, false),
            Input::Dense { .. } => {
                return Err(ExplainError::request("baseline", "drop leaves tokens out; these are numbers"));
            }
        };
        // Steps of the answer move with the tokens that are left.
        let each_step = own_steps
            && matches!(
                subject.model.shape.output,
                OutputShape::Tokens { .. } | OutputShape::StepClasses { .. }
            );
        let width = self.entry.len() / ids.len().max(1);
        let mut scores = Vec::with_capacity(coalitions.len());
        let rows = self.rows();
        self.require(coalitions.len() as u64)?;
        for chunk in coalitions.chunks(rows) {
            let kept: Vec<Vec<usize>> = chunk.iter().map(|c| kept_tokens(subject, c)).collect();
            // Where an answer at a step needs a token before it, or nothing is left, an empty one comes first.
            let empty: Vec<bool> = kept
                .iter()
                .map(|k| k.first().is_none_or(|&first| each_step && first > target.first_row()))
                .collect();
            let time = kept.iter().zip(&empty).map(|(k, &e)| k.len() + usize::from(e)).max().unwrap_or(0);
            let mut tokens = Tokens { n: chunk.len(), time, ..Tokens::default() };
            let (mut entry, mut targets) = (Vec::new(), Vec::new());
            for (kept, &empty) in kept.iter().zip(&empty) {
                let lead = usize::from(empty);
                let length = kept.len() + lead;
                let padding = time - length;
                tokens.ids.extend(std::iter::repeat_n(ids[0], lead));
                tokens.ids.extend(kept.iter().map(|&t| ids[t]));
                tokens.ids.extend(std::iter::repeat_n(0, padding));
                tokens.lengths.push(length as u32);
                entry.extend(std::iter::repeat_n(0.0, lead * width));
                kept.iter().for_each(|&t| entry.extend_from_slice(&self.entry[t * width..][..width]));
                entry.extend(std::iter::repeat_n(0.0, padding * width));
                targets.push(match each_step {
                    // The row of the last kept token up to the one that was read.
                    true => target
                        .at_rows(|row| (lead + kept.iter().filter(|&&t| t <= row).count()).saturating_sub(1)),
                    false => target.clone(),
                });
            }
            let input = match &subject.input {
                Input::Pair { target, .. } => {
                    Input::Pair { source: tokens, target: repeated_tokens(target, chunk.len()) }
                }
                _ => Input::Tokens(tokens),
            };
            let model = subject.model.clone();
            let pass = Pass { model, input, entry: Some(entry), targets, wanted: Wanted::Scores };
            scores.extend(self.run(pass)?.scores);
        }
        Ok(scores)
    }
}

/// The tokens of the features that are there, and those of no feature.
fn kept_tokens(subject: &Subject, coalition: &[bool]) -> Vec<usize> {
    let of_unit = subject.groups.of_unit();
    (0..of_unit.len()).filter(|&t| of_unit[t].is_none_or(|g| coalition[g as usize])).collect()
}

/// The example `n` times.
fn repeated(input: &Input, n: usize) -> Input {
    match input {
        Input::Dense { shape, data } => Input::Dense { shape: shape.clone(), data: data.repeat(n) },
        Input::Tokens(tokens) => Input::Tokens(repeated_tokens(tokens, n)),
        Input::Pair { source, target } => {
            Input::Pair { source: repeated_tokens(source, n), target: repeated_tokens(target, n) }
        }
    }
}

fn repeated_tokens(tokens: &Tokens, n: usize) -> Tokens {
    Tokens {
        n,
        time: tokens.time,
        ids: tokens.ids.repeat(n),
        lengths: tokens.lengths.repeat(n),
        second: tokens.second.repeat(n),
        packed: false,
    }
}

/// # Errors
/// When a number is infinite or none.
pub(crate) fn finite(what: &'static str, x: f64) -> Result<f64, ExplainError> {
    if x.is_finite() { Ok(x) } else { Err(ExplainError::NotFinite { what }) }
}
