//! Which tokens may come next, as somebody outside decides it: a grammar, a schema, a list of choices.

/// Decides what may follow. It is asked before every token and told every token of the answer but the end; an
/// error ends the answer with a failure, never with a token that was not allowed.
pub trait TokenMask: Send {
    /// Allows tokens in `out`, which starts with none. Where the answer may end, an end token is among them.
    fn allowed(&mut self, out: &mut BitMask) -> Result<(), String>;

    /// This token was said.
    fn accept(&mut self, token: u32) -> Result<(), String>;
}

/// A bit for each token of the vocabulary: token `i` is bit `i % 32` of word `i / 32`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitMask {
    words: Vec<u32>,
    n: usize,
}

impl BitMask {
    /// Tokens of the vocabulary.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether the vocabulary is empty.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Nothing is allowed, of `n` tokens.
    pub fn reset(&mut self, n: usize) {
        self.words.clear();
        self.words.resize(n.div_ceil(32), 0);
        self.n = n;
    }

    /// Allows a token; one outside the vocabulary cannot be said anyway.
    pub fn allow(&mut self, id: u32) {
        if (id as usize) < self.n {
            self.words[id as usize / 32] |= 1 << (id % 32);
        }
    }

    /// The words, to be filled at once.
    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    pub fn contains(&self, id: u32) -> bool {
        (id as usize) < self.n && self.words[id as usize / 32] >> (id % 32) & 1 == 1
    }
}
