//! The trivial method of a task as a model's version keeps it, so that a later evaluation compares with what
//! was learnt from the training rows, and not with the rows that it is about to judge.
//!
//! As bytes it is a safetensors file: `majority.counts` `[classes]`; `mean.means` `[outputs]`; `bigram.singles`
//! `[V]`, `bigram.pairs` `[P, 2]` and `bigram.counts` `[P]`; for the last value, which learns nothing, an empty
//! `last_value`. Equal counts give equal bytes.

use super::{Bigram, Majority, Mean};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// A fitted trivial method.
#[derive(Clone, Debug, PartialEq)]
pub enum Trivial {
    Majority(Majority),
    Mean(Mean),
    LastValue,
    Bigram(Bigram),
}

/// Why kept bytes are no trivial method. Whose fault: a damaged file, or a newer program's.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("baseline: the file cannot be read")]
    Safetensors(#[from] safetensors::SafeTensorError),
    #[error("baseline: {0}")]
    Content(&'static str),
}

impl Trivial {
    pub fn to_bytes(&self) -> Result<Vec<u8>, KeptError> {
        match self {
            Trivial::Majority(majority) => {
                write(&[("majority.counts", Dtype::U64, 1, &le(&majority.counts))])
            }
            Trivial::Mean(mean) => {
                let bits: Vec<u64> = mean.means.iter().map(|mean| mean.to_bits()).collect();
                write(&[("mean.means", Dtype::F64, 1, &le(&bits))])
            }
            Trivial::LastValue => write(&[("last_value", Dtype::U64, 1, &[])]),
            Trivial::Bigram(bigram) => {
                let mut pairs: Vec<(u32, u32, u64)> =
                    bigram.pairs.iter().map(|(&(a, b), &count)| (a, b, count)).collect();
                pairs.sort_unstable();
                let ids: Vec<u8> =
                    pairs.iter().flat_map(|(a, b, _)| [a.to_le_bytes(), b.to_le_bytes()].concat()).collect();
                let counts: Vec<u64> = pairs.iter().map(|pair| pair.2).collect();
                write(&[
                    ("bigram.singles", Dtype::U64, 1, &le(&bigram.singles)),
                    ("bigram.pairs", Dtype::U32, 2, &ids),
                    ("bigram.counts", Dtype::U64, 1, &le(&counts)),
                ])
            }
        }
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeptError> {
        let file = SafeTensors::deserialize(bytes)?;
        if let Ok(counts) = file.tensor("majority.counts") {
            return Ok(Trivial::Majority(Majority { counts: words(&counts) }));
        }
        if let Ok(means) = file.tensor("mean.means") {
            return Ok(Trivial::Mean(Mean {
                means: words(&means).into_iter().map(f64::from_bits).collect(),
            }));
        }
        if file.tensor("last_value").is_ok() {
            return Ok(Trivial::LastValue);
        }
        let singles = file.tensor("bigram.singles");
        let singles = words(&singles.map_err(|_| KeptError::Content("it holds no method that is known"))?);
        let (ids, counts) = (file.tensor("bigram.pairs")?, words(&file.tensor("bigram.counts")?));
        let ids: Vec<u32> =
            ids.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let pairs = ids.chunks_exact(2).zip(&counts).map(|(pair, &count)| ((pair[0], pair[1]), count));
        Bigram::from_counts(singles, pairs)
            .map(Trivial::Bigram)
            .ok_or(KeptError::Content("an id is outside the vocabulary"))
    }
}

fn le(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words(tensor: &TensorView<'_>) -> Vec<u64> {
    let word = |b: &[u8]| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    tensor.data().chunks_exact(8).map(word).collect()
}

/// Tensors of `width` numbers a row (1: a list).
fn write(tensors: &[(&str, Dtype, usize, &[u8])]) -> Result<Vec<u8>, KeptError> {
    let mut views = Vec::with_capacity(tensors.len());
    for &(name, dtype, width, bytes) in tensors {
        let size = if dtype == Dtype::U32 { 4 } else { 8 };
        let n = bytes.len() / size / width;
        let shape = if width == 1 { vec![n] } else { vec![n, width] };
        views.push((name, TensorView::new(dtype, shape, bytes)?));
    }
    Ok(safetensors::serialize(views, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_answers_as_what_was_fitted() {
        let text: Vec<u32> = (0..200).map(|i| (i * i + i / 3) % 11).collect();
        let methods = [
            Trivial::Majority(Majority::fit(&[0, 2, 2, 1, 2], 4).unwrap()),
            Trivial::Mean(Mean::fit(&[1.0, 0.1, 2.0, -0.7], 2).unwrap()),
            Trivial::LastValue,
            Trivial::Bigram(Bigram::fit([&text[..]], 11).unwrap()),
        ];
        for method in methods {
            let bytes = method.to_bytes().unwrap();
            assert_eq!(Trivial::from_bytes(&bytes).unwrap(), method);
            assert_eq!(method.to_bytes().unwrap(), bytes);
        }
        assert!(Trivial::from_bytes(b"nothing").is_err());
    }
}
