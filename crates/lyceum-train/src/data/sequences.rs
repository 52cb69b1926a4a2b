//! Token sequences of which some tokens are learnt: conversations, prompts with completions, and preferences (two
//! sequences an example). They fill a batch without padding.

use super::dataset::Ragged;
use crate::preview::SeenToken;
use lyceum_models::batch::{Batch, IGNORE, Input, Target, Tokens};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sequences {
    ids: Ragged,
    /// Of each token of `ids`, whether the model learns to say it.
    has_loss: Vec<bool>,
    preferences: Option<Preferences>,
}

#[derive(Clone, Debug, PartialEq)]
struct Preferences {
    beta: f32,
    /// What the reference model gives each sequence; empty until it was asked.
    reference: Vec<f32>,
}

impl Sequences {
    /// `beta` makes pairs of them: the preferred and the other.
    pub fn new(beta: Option<f32>) -> Self {
        let preferences = beta.map(|beta| Preferences { beta, reference: Vec::new() });
        Sequences { ids: Ragged::new(), has_loss: Vec::new(), preferences }
    }

    pub fn push(&mut self, ids: &[u32], has_loss: &[bool]) {
        assert_eq!(ids.len(), has_loss.len(), "a mark for each token: bug");
        self.ids.push(ids);
        self.has_loss.extend_from_slice(has_loss);
    }

    /// Sequences an example.
    fn per_example(&self) -> usize {
        if self.preferences.is_some() { 2 } else { 1 }
    }

    pub fn n_examples(&self) -> usize {
        self.ids.len() / self.per_example()
    }

    /// The tokens of an example (of a pair: the preferred sequence's) that are read.
    pub fn n_read(&self, example: usize) -> usize {
        let first = example * self.per_example();
        (first..first + self.per_example()).map(|i| self.ids.row(i).len() - 1).sum()
    }

    /// The tokens of an example that the model learns to say: of its sequences, those after the first.
    pub fn n_learnt(&self, example: usize) -> usize {
        let first = example * self.per_example();
        let learnt = |i: usize| self.has_loss[self.ids.range(i)].iter().skip(1).filter(|&&l| l).count();
        (first..first + self.per_example()).map(learnt).sum()
    }

    /// These sequences, and after them the chosen ones of others.
    pub fn followed_by(&self, other: &Sequences, chosen: &[usize]) -> Sequences {
        let mut all = self.clone();
        for &i in chosen {
            all.push(other.ids.row(i), &other.has_loss[other.ids.range(i)]);
        }
        all
    }

    /// The tokens of an example's sequences.
    pub fn example(&self, example: usize) -> Vec<Vec<SeenToken>> {
        let token = |(&id, &has_loss): (&u32, &bool)| SeenToken { id, has_loss };
        let of =
            |i: usize| self.ids.row(i).iter().zip(&self.has_loss[self.ids.range(i)]).map(token).collect();
        let per = self.per_example();
        (example * per..(example + 1) * per).map(of).collect()
    }

    pub fn is_pairs(&self) -> bool {
        self.preferences.is_some()
    }

    /// What the reference model gives each sequence.
    pub fn set_reference(&mut self, reference: Vec<f32>) {
        assert_eq!(reference.len(), self.ids.len(), "a number for each sequence: bug");
        self.preferences.as_mut().expect("only preferences have a reference: bug").reference = reference;
    }

    pub fn new_batch(&self) -> Batch {
        let tokens = Tokens { packed: true, ..Tokens::default() };
        let target = match &self.preferences {
            None => Target::Steps(Vec::new()),
            Some(Preferences { beta, .. }) => {
                Target::Preferences { steps: Vec::new(), reference: Vec::new(), beta: *beta }
            }
        };
        Batch { n: 0, input: Input::Tokens(tokens), target }
    }

    pub fn fill(&self, examples: &[usize], batch: &mut Batch) {
        let Input::Tokens(out) = &mut batch.input else { unreachable!("the batch was made here: bug") };
        let per = self.per_example();
        batch.n = examples.len();
        (out.n, out.time) = (examples.len() * per, 0);
        out.ids.clear();
        out.lengths.clear();
        let (steps, mut given) = match &mut batch.target {
            Target::Steps(steps) => (steps, None),
            Target::Preferences { steps, reference, .. } => (steps, Some(reference)),
            _ => unreachable!("the batch was made here: bug"),
        };
        steps.clear();
        given.iter_mut().for_each(|given| given.clear());
        for i in examples.iter().flat_map(|&example| example * per..(example + 1) * per) {
            let (ids, has_loss) = (self.ids.row(i), &self.has_loss[self.ids.range(i)]);
            out.ids.extend_from_slice(&ids[..ids.len() - 1]);
            out.lengths.push(ids.len() as u32 - 1);
            out.time = out.time.max(ids.len() - 1);
            let asked = ids.iter().zip(has_loss).skip(1);
            steps.extend(asked.map(|(&id, &has_loss)| if has_loss { id as i32 } else { IGNORE }));
            if let (Some(given), Some(preferences)) = (&mut given, &self.preferences) {
                given.push(preferences.reference.get(i).copied().unwrap_or(0.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_fill_a_batch_one_after_another() {
        let mut set = Sequences::new(None);
        set.push(&[1, 2, 3, 4], &[false, false, true, true]);
        set.push(&[5, 6], &[false, true]);
        set.push(&[7, 8, 9], &[false, true, false]);
        let mut batch = set.new_batch();
        set.fill(&[2, 0], &mut batch);
        let Input::Tokens(tokens) = &batch.input else { unreachable!() };
        assert_eq!((&tokens.ids[..], &tokens.lengths[..]), (&[7, 8, 1, 2, 3][..], &[2, 3][..]));
        assert_eq!((tokens.n, tokens.time, tokens.offsets()), (2, 3, vec![0, 2, 5]));
        assert_eq!(batch.target, Target::Steps(vec![8, IGNORE, IGNORE, 3, 4]));
        assert_eq!((batch.target.n_terms(), set.n_read(0)), (3, 3));
    }

    #[test]
    fn a_pair_is_two_sequences_with_what_the_reference_gave_them() {
        let mut set = Sequences::new(Some(0.1));
        for answer in [3, 4, 5, 6] {
            set.push(&[1, 2, answer], &[false, false, true]);
        }
        set.set_reference(vec![-1.0, -2.0, -3.0, -4.0]);
        let mut batch = set.new_batch();
        set.fill(&[1], &mut batch);
        let Target::Preferences { steps, reference, beta } = &batch.target else { unreachable!() };
        assert_eq!(
            (&steps[..], &reference[..], *beta),
            (&[IGNORE, 5, IGNORE, 6][..], &[-3.0, -4.0][..], 0.1)
        );
        assert_eq!((batch.n, batch.target.n_terms(), set.n_examples()), (1, 1, 2));
    }
}
