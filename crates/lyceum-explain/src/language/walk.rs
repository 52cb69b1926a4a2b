//! A pass in turns: forward layer by layer, keeping what each layer read; and back, each layer computed anew.

use super::{LanguageQuestion, Turns, counted};
use crate::{ExplainError, Usage};
use lyceum_models::causal_lm::{Sections, SentOn, Walk};
use lyceum_nn::{NnError, StoredProducts, Workspace};
use lyceum_types::control::Control;
use std::sync::Arc;
use std::time::Duration;

/// Rows of the embedding that are read in one turn.
const EMBEDDED_A_TURN: usize = 4096;
/// How much longer than before something may take where others want the device too.
const UNEVEN: u32 = 4;

pub(super) struct Walker<'a> {
    pub(super) question: &'a LanguageQuestion,
    pub(super) usage: Usage,
    turns: &'a mut dyn Turns,
    control: &'a Control,
    products: StoredProducts,
}

/// A pass that has gone forward.
pub(super) struct Forward {
    pub(super) sections: Sections,
    /// What each layer read, `[n, T, C]` each, and what the last gave.
    pub(super) inputs: Vec<Arc<Vec<f32>>>,
    /// The rows of the target, of each example.
    pub(super) rows: Arc<Vec<u32>>,
    /// Logits `[n · rows, V]`.
    pub(super) logits: Vec<f32>,
    /// The target's value, of each example.
    pub(super) scores: Vec<f64>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        question: &'a LanguageQuestion,
        turns: &'a mut dyn Turns,
        control: &'a Control,
    ) -> Self {
        let products = question.method.stored_products();
        Walker { question, usage: Usage::default(), turns, control, products }
    }

    /// `look`, with products as they are served.
    pub(super) fn as_served<T>(&mut self, look: impl FnOnce(&mut Self) -> T) -> T {
        let products = std::mem::replace(&mut self.products, StoredProducts::Served);
        let found = look(self);
        self.products = products;
        found
    }

    pub(super) fn time(&self) -> usize {
        self.question.ids.len()
    }

    /// Says no before anything is spent: `n` passes more.
    pub(super) fn require(&self, n: u64) -> Result<(), ExplainError> {
        let (needed, max_passes) = (self.usage.forward_passes + n, self.question.max_passes);
        if needed > max_passes {
            let method = self.question.method.name();
            return Err(ExplainError::TooManyPasses { method, needed, max_passes });
        }
        Ok(())
    }

    /// Whether there is time for something that took as long at most.
    pub(super) fn has_time_for(&self, longest: Duration) -> bool {
        self.control.time_left().is_none_or(|left| left > longest * UNEVEN)
    }

    /// The part of each number of an entry.
    pub(super) fn of_elements(&self) -> impl Iterator<Item = Option<u32>> + use<'a> {
        self.elements_of(self.question)
    }

    /// As [`of_elements`](Self::of_elements), of another question.
    pub(super) fn elements_of<'q>(
        &self,
        question: &'q LanguageQuestion,
    ) -> impl Iterator<Item = Option<u32>> + use<'q> {
        let width = question.sections.width();
        question.of_token.iter().flat_map(move |&part| std::iter::repeat_n(part, width))
    }

    /// Sums over the parts.
    pub(super) fn of_parts(&self, elements: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut sums = vec![0.0; self.question.n_parts];
        for (value, part) in elements.zip(self.of_elements()) {
            if let Some(part) = part {
                sums[part as usize] += value;
            }
        }
        sums
    }

    fn turn(
        &mut self,
        n_passes: u64,
        work: impl FnOnce(&mut Workspace) -> Result<Vec<Vec<f32>>, NnError> + Send + 'static,
    ) -> Result<Vec<Vec<f32>>, ExplainError> {
        self.control.check().map_err(ExplainError::Stopped)?;
        self.turns.turn(n_passes, Box::new(work))
    }

    /// The tokens' embeddings, `[T, C]`.
    pub(super) fn embedded(&mut self) -> Result<Vec<f32>, ExplainError> {
        let (sections, ids) = (self.question.sections.clone(), self.question.ids.clone());
        let mut found = self.turn(0, move |ws| Ok(vec![sections.embed(ws, &ids)?]))?;
        Ok(found.pop().expect("a turn gives what it made: bug"))
    }

    /// The mean embedding of the vocabulary, `[C]`.
    pub(super) fn mean_embedding(&mut self) -> Result<Vec<f32>, ExplainError> {
        let (sections, time) = (&self.question.sections, self.time());
        let (vocabulary, width) = (sections.model().shape.output.width(), sections.width());
        let n_each = (EMBEDDED_A_TURN / time).max(1);
        let mut sums = vec![0.0f64; width];
        for first in (0..vocabulary).step_by(n_each * time) {
            let n_rows = (vocabulary - first).min(n_each * time);
            // What is missing in the last example is another row, and not counted.
            let ids =
                (0..n_rows.next_multiple_of(time)).map(|i| if i < n_rows { first + i } else { 0 } as u32);
            let (ids, of) = (ids.collect::<Vec<u32>>(), sections.of(n_rows.div_ceil(time)));
            let found = self.turn(0, move |ws| Ok(vec![of.embed(ws, &ids)?]))?;
            let rows = found.first().ok_or_else(no_numbers)?.chunks_exact(width).take(n_rows);
            for row in rows {
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
        }
        Ok(sums.into_iter().map(|sum| (sum / vocabulary as f64) as f32).collect())
    }

    /// Forward from `n` entries, one turn a layer.
    pub(super) fn forward(&mut self, entries: Vec<f32>, n: usize) -> Result<Forward, ExplainError> {
        self.forward_and(entries, n, |_, _, _| {})
    }

    /// As [`forward`](Self::forward); `look` is given each layer's number and its halves.
    pub(super) fn forward_and(
        &mut self,
        entries: Vec<f32>,
        n: usize,
        mut look: impl FnMut(usize, &[f32], &[f32]),
    ) -> Result<Forward, ExplainError> {
        self.require(n as u64)?;
        counted(&mut self.usage, n as u64, 0);
        let sections = self.question.sections.of(n).with_stored_products(self.products);
        let mut inputs = vec![Arc::new(entries)];
        for i in 0..sections.n_layers() {
            let (of, x) = (sections.clone(), inputs[i].clone());
            let mut halves = self.turn(0, move |ws| Ok(of.layer(ws, i, &x)?.into()))?;
            let (Some(y), Some(middle)) = (halves.pop(), halves.pop()) else { return Err(no_numbers()) };
            look(i, &middle, &y);
            inputs.push(Arc::new(y));
        }
        let (target, time) = (&self.question.target, self.time());
        let mut own: Vec<u32> = target.terms().iter().map(|term| term.row as u32).collect();
        own.sort_unstable();
        own.dedup();
        let rows: Vec<u32> =
            (0..n).flat_map(|example| own.iter().map(move |row| (example * time) as u32 + row)).collect();
        let rows = Arc::new(rows);
        let (of, x, asked) = (sections.clone(), inputs[inputs.len() - 1].clone(), rows.clone());
        let mut logits = self.turn(n as u64, move |ws| Ok(vec![of.logits(ws, &x, &asked)?]))?;
        let logits = logits.pop().ok_or_else(no_numbers)?;
        let (width, target) = (sections.model().shape.output.width(), self.near());
        let each = (logits.len() / n.max(1)).max(1);
        let scores = logits.chunks_exact(each).map(|logits| target.score(logits, width)).collect();
        Ok(Forward { sections, inputs, rows, logits, scores })
    }

    /// The target with rows that count among those that have logits.
    pub(super) fn near(&self) -> crate::Target {
        let target = &self.question.target;
        let mut own: Vec<usize> = target.terms().iter().map(|term| term.row).collect();
        own.sort_unstable();
        own.dedup();
        target.at_rows(|row| own.binary_search(&row).unwrap_or(0))
    }

    /// Back to the entries from the target, one turn a layer: what arrives there, `[n, T, C]`, and what constants took.
    pub(super) fn back(&mut self, forward: &Forward, walk: Walk) -> Result<(Vec<f32>, f64), ExplainError> {
        let n = forward.scores.len() as u64;
        let (mut sent, mut absorbed) = self.head_back(forward, walk)?;
        counted(&mut self.usage, 0, n);
        for i in (0..forward.sections.n_layers()).rev() {
            let (of, x) = (forward.sections.clone(), forward.inputs[i].clone());
            let passes = if i == 0 { n } else { 0 };
            let layer = move |ws: &mut Workspace| Ok(numbers(of.layer_back(ws, (i, &x), &sent, walk)?));
            let took;
            (sent, took) = sent_on(self.turn(passes, layer)?)?;
            absorbed += took;
        }
        Ok((sent, absorbed))
    }

    /// Back from the target through the head, to what the last layer gave.
    pub(super) fn head_back(
        &mut self,
        forward: &Forward,
        walk: Walk,
    ) -> Result<(Vec<f32>, f64), ExplainError> {
        let (width, n) = (forward.sections.model().shape.output.width(), forward.scores.len());
        let mut seed = vec![0.0; forward.logits.len()];
        let (target, each) = (self.near(), (forward.logits.len() / n.max(1)).max(1));
        for (logits, seed) in forward.logits.chunks_exact(each).zip(seed.chunks_exact_mut(each)) {
            target.add_seed(logits, width, seed);
        }
        let last = forward.inputs[forward.sections.n_layers()].clone();
        let (of, rows) = (forward.sections.clone(), forward.rows.clone());
        let head = move |ws: &mut Workspace| Ok(numbers(of.logits_back(ws, (&last, &rows), &seed, walk)?));
        sent_on(self.turn(0, head)?)
    }
}

pub(super) fn no_numbers() -> ExplainError {
    ExplainError::Device("a turn gave no numbers: bug".into())
}

/// f64 as two f32, beside the numbers of a turn.
fn numbers(SentOn { sent, absorbed }: SentOn) -> Vec<Vec<f32>> {
    let high = absorbed as f32;
    vec![sent, vec![high, (absorbed - f64::from(high)) as f32]]
}

fn sent_on(mut found: Vec<Vec<f32>>) -> Result<(Vec<f32>, f64), ExplainError> {
    match (found.pop().as_deref(), found.pop()) {
        (Some(&[high, low]), Some(sent)) => Ok((sent, f64::from(high) + f64::from(low))),
        _ => Err(no_numbers()),
    }
}
