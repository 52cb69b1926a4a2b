//! Candidates that exist already. Whoever serves them answers for them here, by the code that answers requests: what is
//! measured is what a client gets.

use lyceum_types::control::{Control, Stop};
use lyceum_types::spec::choose::Imported;

/// What is known of a model before it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// `name@3`
    pub model: String,
    /// As its files say: `llama`, `qwen3`, …
    pub family: String,
    pub parameters: u64,
    /// Of the weights as they are served, an adapter's base included.
    pub weights_bytes: u64,
    /// Of keys and values, for each token that an answer holds.
    pub kv_bytes_per_token: u64,
    /// Of the files, an adapter's base included.
    pub disk_bytes: u64,
    pub licence: Option<String>,
    /// What it adds to or was tuned from.
    pub parents: Vec<String>,
}

/// A question about texts, as `POST /v1/decisions` asks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub instructions: String,
    /// The labels of the data, in their order.
    pub labels: Vec<String>,
    pub descriptions: Vec<Option<String>>,
}

/// An answer to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// Of each label.
    pub probabilities: Vec<f64>,
    /// That were read, the labels among them.
    pub n_tokens: u64,
}

impl Decided {
    /// The place of the likeliest label; of equals the first.
    pub fn best(&self) -> u32 {
        let better =
            |best: usize, i: usize| if self.probabilities[i] > self.probabilities[best] { i } else { best };
        (0..self.probabilities.len()).reduce(better).unwrap_or(0) as u32
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AskError {
    #[error("{0}")]
    Stopped(Stop),
    /// The model does not answer this, in words.
    #[error("{0}")]
    Failed(String),
}

/// How texts are asked about.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    pub control: &'a Control,
    /// Whose kept beginnings may be begun with: those of the same number. A time of an answer whose beginning is known
    /// is not the time of an answer.
    pub apart: u64,
}

/// Whoever serves the candidates.
pub trait Served: Sync {
    /// # Errors
    /// There is no such model, or it answers no questions.
    fn facts(&self, candidate: &Imported) -> Result<Facts, AskError>;

    /// Floating-point operations of an answer that reads `n_tokens`.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    fn operations(&self, candidate: &Imported, n_tokens: usize) -> Result<u64, AskError>;

    /// An answer for each text, in their order; several may be under way at once.
    ///
    /// # Errors
    /// A text or label that the model does not take; an end from outside.
    fn decide(
        &self,
        candidate: &Imported,
        asked: &Asked,
        texts: &[&str],
        how: How<'_>,
    ) -> Result<Vec<Decided>, AskError>;
}
