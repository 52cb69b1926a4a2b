//! What goes into a model and what is asked of it, already as numbers.
//!
//! Batches are filled in place and reused, so that a training step allocates nothing.

use lyceum_nn::Examples;

/// The inputs of `n` examples.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// `n` rows of `shape` numbers each: `[features]`, `[channels, height, width]`, or `[steps, channels]`.
    Dense {
        shape: Vec<usize>,
        data: Vec<f32>,
    },
    Tokens(Tokens),
    /// Source and target of an encoder–decoder; the target holds what the decoder reads (shifted right).
    Pair {
        source: Tokens,
        target: Tokens,
    },
}

/// Token ids `[n, time]`, row-major, padded on the right with 0; row `i` has `lengths[i]` real ones. Where they are
/// packed, the rows follow one another without padding, and `time` is the longest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    pub n: usize,
    pub time: usize,
    pub ids: Vec<u32>,
    pub lengths: Vec<u32>,
    /// For encoders of pairs: where each row's second text begins; beyond its end where it has none. Empty: no
    /// row has one.
    pub second: Vec<u32>,
    /// Only decoder-only language models read packed rows.
    pub packed: bool,
}

impl Input {
    /// Each row as an input of its own.
    pub fn rows(&self) -> Vec<Input> {
        match self {
            Input::Dense { shape, data } => {
                let size = shape.iter().product::<usize>().max(1);
                let row = |row: &[f32]| Input::Dense { shape: shape.clone(), data: row.to_vec() };
                data.chunks_exact(size).map(row).collect()
            }
            Input::Tokens(tokens) => tokens.rows().map(Input::Tokens).collect(),
            Input::Pair { source, target } => source
                .rows()
                .zip(target.rows())
                .map(|(source, target)| Input::Pair { source, target })
                .collect(),
        }
    }
}

impl Tokens {
    /// Each row without its padding.
    fn rows(&self) -> impl Iterator<Item = Tokens> + '_ {
        let mut start = 0;
        self.lengths.iter().enumerate().map(move |(i, &length)| {
            let time = length as usize;
            let ids = self.ids[start..][..time].to_vec();
            start += if self.packed { time } else { self.time };
            let second = self.second.get(i).copied().into_iter().collect();
            Tokens { n: 1, time, ids, lengths: vec![length], second, packed: false }
        })
    }

    /// Where packed rows begin, and the end of the last one.
    pub fn offsets(&self) -> Vec<u32> {
        let mut end = 0;
        let ends = self.lengths.iter().map(|&length| {
            end += length;
            end
        });
        std::iter::once(0).chain(ends).collect()
    }
}

/// What the model should have said.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Nothing is asked (serving).
    None,
    /// A class an example.
    Classes(Vec<i32>),
    /// `width` numbers an example, row-major (already scaled as the preparation says).
    Values { width: usize, data: Vec<f32> },
    /// A class a step, `[n, time]`; [`IGNORE`] where no loss is taken (padding, prompts).
    Steps(Vec<i32>),
    /// As `Steps`, of answers in pairs: row `2i` is preferred to row `2i + 1`.
    Preferences {
        steps: Vec<i32>,
        /// The sum of log-probabilities that the reference model gave each answer.
        reference: Vec<f32>,
        beta: f32,
    },
}

/// The class at which no loss is taken (PyTorch's `ignore_index`).
pub const IGNORE: i32 = -100;

#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub n: usize,
    pub input: Input,
    pub target: Target,
}

impl Batch {
    /// Which rows of the model's tensors belong to which example.
    pub fn examples(&self) -> Examples {
        match &self.input {
            Input::Tokens(tokens) if tokens.packed => Examples::Packed(tokens.offsets()),
            _ => Examples::Even(self.n),
        }
    }
}

impl Tokens {
    /// One row of ids.
    pub fn single(ids: &[u32]) -> Self {
        Tokens {
            n: 1,
            time: ids.len(),
            ids: ids.to_vec(),
            lengths: vec![ids.len() as u32],
            ..Tokens::default()
        }
    }
}

impl Target {
    /// How many terms the loss has: classes or steps that are not ignored, numbers, or pairs.
    pub fn n_terms(&self) -> usize {
        match self {
            Target::None => 0,
            Target::Classes(classes) | Target::Steps(classes) => {
                classes.iter().filter(|&&c| c != IGNORE).count()
            }
            Target::Values { data, .. } => data.len(),
            Target::Preferences { reference, .. } => reference.len() / 2,
        }
    }
}
