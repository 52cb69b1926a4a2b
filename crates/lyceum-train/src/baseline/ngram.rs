//! Language models that count: pairs and triples of token ids.

use super::BaselineError;
use std::collections::HashMap;

/// `p(b | a) = (c(a, b) + 1) / (c(a) + V)`: add-one smoothing over `V` ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Bigram {
    vocab: usize,
    /// How often an id was followed by another.
    followed: Vec<u64>,
    pub(super) pairs: HashMap<(u32, u32), u64>,
    /// How often each id stood anywhere, for what begins a text.
    pub(super) singles: Vec<u64>,
    n_tokens: u64,
}

impl Bigram {
    /// Counts inside each text; pairs across texts do not count. Ids are below `vocab`.
    ///
    /// # Errors
    /// No tokens.
    pub fn fit<'a>(texts: impl IntoIterator<Item = &'a [u32]>, vocab: usize) -> Result<Self, BaselineError> {
        let mut model = Bigram {
            vocab,
            followed: vec![0; vocab],
            pairs: HashMap::new(),
            singles: vec![0; vocab],
            n_tokens: 0,
        };
        for text in texts {
            model.n_tokens += text.len() as u64;
            text.iter().for_each(|token| model.singles[*token as usize] += 1);
            for pair in text.windows(2) {
                model.followed[pair[0] as usize] += 1;
                *model.pairs.entry((pair[0], pair[1])).or_default() += 1;
            }
        }
        if model.n_tokens == 0 {
            return Err(BaselineError::Empty { baseline: "bigram" });
        }
        Ok(model)
    }

    /// From counts that were kept; None when a pair has an id that is not among `singles`.
    pub(super) fn from_counts(
        singles: Vec<u64>,
        pairs: impl Iterator<Item = ((u32, u32), u64)>,
    ) -> Option<Self> {
        let (vocab, n_tokens) = (singles.len(), singles.iter().sum());
        let mut followed = vec![0; vocab];
        let mut all = HashMap::new();
        for ((first, second), count) in pairs {
            if second as usize >= vocab {
                return None;
            }
            *followed.get_mut(first as usize)? += count;
            all.insert((first, second), count);
        }
        Some(Bigram { vocab, followed, pairs: all, singles, n_tokens })
    }

    /// `−ln p(token | the last id of the context)` in nats; without a context, of the token alone.
    pub fn loss(&self, context: &[u32], token: u32) -> f64 {
        let (count, whole) = match context.last() {
            Some(before) => {
                let count = self.pairs.get(&(*before, token)).copied().unwrap_or(0);
                (count, self.followed[*before as usize])
            }
            None => (self.singles[token as usize], self.n_tokens),
        };
        -((count + 1) as f64 / (whole + self.vocab as u64) as f64).ln()
    }

    /// Of every token of a text but the first, each given what stands before it.
    pub fn losses(&self, text: &[u32]) -> Vec<f64> {
        (1..text.len()).map(|at| self.loss(&text[..at], text[at])).collect()
    }

    /// What follows a context when the likeliest id is taken each time, until `end` or `max` ids; the lowest
    /// of equals.
    pub fn greedy(&self, context: &[u32], end: u32, max: usize) -> Vec<u32> {
        greedy(context, end, max, self.vocab, |context, token| self.loss(context, token))
    }
}

/// Witten and Bell's (1991) interpolation of triples, pairs and single ids:
/// `p(c | ab) = (n(abc) + t(ab) · p(c | b)) / (n(ab) + t(ab))` where `t(ab)` is the number of different ids
/// seen after `ab`, the same for `p(c | b)`, and `p(c) = (n(c) + t / V) / (n + t)` with `t` different ids.
#[derive(Clone, Debug)]
pub struct Trigram {
    vocab: usize,
    singles: Vec<u64>,
    n_tokens: u64,
    n_different: u64,
    after_one: HashMap<u32, Followers>,
    after_two: HashMap<(u32, u32), Followers>,
}

#[derive(Clone, Debug, Default)]
struct Followers {
    counts: HashMap<u32, u64>,
    whole: u64,
}

impl Followers {
    fn count(&mut self, token: u32) {
        *self.counts.entry(token).or_default() += 1;
        self.whole += 1;
    }

    fn interpolate(&self, token: u32, shorter: f64) -> f64 {
        let different = self.counts.len() as f64;
        let count = self.counts.get(&token).copied().unwrap_or(0) as f64;
        (count + different * shorter) / (self.whole as f64 + different)
    }
}

impl Trigram {
    /// Counts inside each text. Ids are below `vocab`.
    ///
    /// # Errors
    /// No tokens.
    pub fn fit<'a>(texts: impl IntoIterator<Item = &'a [u32]>, vocab: usize) -> Result<Self, BaselineError> {
        let mut model = Trigram {
            vocab,
            singles: vec![0; vocab],
            n_tokens: 0,
            n_different: 0,
            after_one: HashMap::new(),
            after_two: HashMap::new(),
        };
        for text in texts {
            model.n_tokens += text.len() as u64;
            text.iter().for_each(|token| model.singles[*token as usize] += 1);
            text.windows(2).for_each(|w| model.after_one.entry(w[0]).or_default().count(w[1]));
            text.windows(3).for_each(|w| model.after_two.entry((w[0], w[1])).or_default().count(w[2]));
        }
        if model.n_tokens == 0 {
            return Err(BaselineError::Empty { baseline: "trigram" });
        }
        model.n_different = model.singles.iter().filter(|count| **count > 0).count() as u64;
        Ok(model)
    }

    /// `−ln p(token | the last two ids of the context)` in nats; a shorter context is used as it is.
    pub fn loss(&self, context: &[u32], token: u32) -> f64 {
        let different = self.n_different as f64;
        let alone = (self.singles[token as usize] as f64 + different / self.vocab as f64)
            / (self.n_tokens as f64 + different);
        let pair = match context.last().and_then(|before| self.after_one.get(before)) {
            Some(followers) => followers.interpolate(token, alone),
            None => alone,
        };
        let seen_two = match context {
            [.., first, second] => self.after_two.get(&(*first, *second)),
            _ => None,
        };
        -seen_two.map_or(pair, |followers| followers.interpolate(token, pair)).ln()
    }

    /// Of every token of a text but the first, each given what stands before it.
    pub fn losses(&self, text: &[u32]) -> Vec<f64> {
        (1..text.len()).map(|at| self.loss(&text[..at], text[at])).collect()
    }

    /// As [`Bigram::greedy`].
    pub fn greedy(&self, context: &[u32], end: u32, max: usize) -> Vec<u32> {
        greedy(context, end, max, self.vocab, |context, token| self.loss(context, token))
    }
}

fn greedy(
    context: &[u32],
    end: u32,
    max: usize,
    vocab: usize,
    loss: impl Fn(&[u32], u32) -> f64,
) -> Vec<u32> {
    let mut text = context.to_vec();
    while text.len() - context.len() < max {
        let (mut best, mut lowest) = (0, f64::INFINITY);
        for token in 0..vocab as u32 {
            let loss = loss(&text, token);
            if loss < lowest {
                (best, lowest) = (token, loss);
            }
        }
        if best == end {
            break;
        }
        text.push(best);
    }
    text.split_off(context.len())
}
