//! Parameters from the tensors of a checkpoint: by name, with the model's dimensions, laid out in the form in
//! which they are served. What the tensors are called, and what else a family's files do, is asked of a
//! [`Naming`].

use crate::causal_lm::families::DescribeError;
use lyceum_kernels::stored::{Stored, StoredWeight, dequantise, quantise};
use lyceum_nn::checkpoint::{Checkpoint, TensorAt};
use lyceum_nn::gguf::GgufError;
use lyceum_nn::{Init, NnError, ParamId, ParamKind, Params};
use lyceum_types::control::{Control, Stop};
use lyceum_types::short::short;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Describe(#[from] DescribeError),
    #[error(transparent)]
    Nn(#[from] NnError),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The checkpoint's fault.
    #[error("weights: tensor \"{}\" {}", short(name), short(problem))]
    Tensor { name: String, problem: String },
    /// The caller's fault.
    #[error("quantisation: {0}")]
    Quantise(String),
    /// The caller's fault.
    #[error("a context of {asked} tokens is not between 1 and the model's {most}")]
    Context { asked: usize, most: usize },
    #[error("loading was ended: {0}")]
    Stopped(#[from] Stop),
}

/// Where a builder's parameters come from: a fresh start, or a checkpoint.
pub(crate) trait Weights {
    /// The parameter of this name and these dimensions; `init` is how a fresh one starts.
    fn parameter(&mut self, name: &str, dims: &[usize], init: Init) -> Result<ParamId, LoadError>;

    /// As [`parameter`](Self::parameter), for a table of rows that an operation reads as numbers (positions).
    fn table(&mut self, name: &str, dims: &[usize], init: Init) -> Result<ParamId, LoadError>;
}

/// How a checkpoint's tensors differ from the model's parameters.
pub(crate) trait Naming {
    /// The tensor that holds this parameter.
    fn tensor(&self, name: &str) -> String;

    /// The number of heads whose rows stand with rotary pairs as neighbours and go back to halves.
    fn neighbours(&self, _name: &str) -> Option<usize> {
        None
    }

    /// Whether the tensor holds `w − 1` for a weight w.
    fn minus_one(&self, _name: &str) -> bool {
        false
    }
}

/// A checkpoint that becomes parameters.
pub(crate) struct Reader<'a> {
    pub checkpoint: Checkpoint,
    pub params: Params,
    pub naming: &'a dyn Naming,
    /// What matrices become; None: they stay what they are in the file.
    pub quant: Option<Stored>,
    pub control: &'a Control,
    buffer: Vec<u8>,
    /// What a user should be told.
    pub notes: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(
        checkpoint: Checkpoint,
        naming: &'a dyn Naming,
        quant: Option<Stored>,
        control: &'a Control,
    ) -> Self {
        let (params, buffer, notes) = (Params::new(), Vec::new(), Vec::new());
        Reader { checkpoint, params, naming, quant, control, buffer, notes }
    }

    /// The tensor of a parameter, taken out of the checkpoint after its dimensions were checked.
    fn take(&mut self, name: &str, dims: &[usize]) -> Result<(String, TensorAt), LoadError> {
        self.control.check()?;
        let stored = self.naming.tensor(name);
        let Some(tensor) = self.checkpoint.remove(&stored) else {
            return Err(LoadError::Tensor { name: stored, problem: "is missing".into() });
        };
        if tensor.dims != dims {
            let problem = format!("has dimensions {:?}, the model needs {dims:?}", tensor.dims);
            return Err(LoadError::Tensor { name: stored, problem });
        }
        Ok((stored, tensor))
    }
}

impl Weights for Reader<'_> {
    fn parameter(&mut self, name: &str, dims: &[usize], init: Init) -> Result<ParamId, LoadError> {
        let [rows, _] = dims else { return self.table(name, dims, init) };
        let (stored, tensor) = self.take(name, dims)?;
        let head_rows = self.naming.neighbours(name).map(|heads| rows / heads);
        let weight = self.matrix(&tensor, head_rows, &stored)?;
        Ok(self.params.add_stored(name, weight))
    }

    fn table(&mut self, name: &str, dims: &[usize], _init: Init) -> Result<ParamId, LoadError> {
        let (stored, tensor) = self.take(name, dims)?;
        finite(tensor.kind, self.checkpoint.read(&tensor, &mut self.buffer)?, &stored)?;
        let mut value = self.checkpoint.numbers(&tensor)?;
        if let Some(heads) = self.naming.neighbours(name) {
            value = in_halves(&value, dims[0] / heads, value.len() / dims[0]);
        }
        if self.naming.minus_one(name) {
            value.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(self.params.add_value(name, dims, ParamKind::Weight, value))
    }
}

impl Reader<'_> {
    /// A matrix in its form; the rows of each head of `head_rows` rows go back to halves.
    fn matrix(
        &mut self,
        tensor: &TensorAt,
        head_rows: Option<usize>,
        name: &str,
    ) -> Result<StoredWeight, LoadError> {
        let [n, k] = tensor.dims[..] else { unreachable!("a matrix has two dimensions: bug") };
        let bytes = self.checkpoint.read(tensor, &mut self.buffer)?;
        finite(tensor.kind, bytes, name)?;
        let reordered;
        let bytes = match head_rows {
            None => bytes,
            Some(rows) => {
                reordered = in_halves(bytes, rows, bytes.len() / n);
                &reordered
            }
        };
        let weight = match self.quant.filter(|&quant| quant != tensor.kind) {
            None => StoredWeight::pack(tensor.kind, bytes, n, k),
            Some(quant) => {
                let mut numbers = vec![0.0; n * k];
                dequantise(tensor.kind, bytes, &mut numbers);
                // Rows that are no whole number of blocks keep more bits.
                let kind = if quant.row_bytes(k).is_some() { quant } else { Stored::Q8_0 };
                let kind = if kind.row_bytes(k).is_some() { kind } else { Stored::Bf16 };
                if kind != quant {
                    let (k, block) = (k, quant.block_len());
                    let note = format!(
                        "{name}: rows of {k} numbers are no blocks of {block}; {} instead",
                        kind.name()
                    );
                    self.notes.push(note);
                }
                let mut out = Vec::new();
                quantise(kind, &numbers, &mut out).map_err(|error| LoadError::Quantise(error.to_string()))?;
                drop(numbers);
                StoredWeight::pack(kind, &out, n, k)
            }
        };
        if weight.tile_kind() != weight.kind() {
            let (from, to) = (weight.kind().name(), weight.tile_kind().name());
            self.notes.push(format!("{name}: {from} is computed as {to}"));
        }
        Ok(weight)
    }
}

/// Refuses weights with which no answer could be computed.
fn finite(kind: Stored, bytes: &[u8], name: &str) -> Result<(), LoadError> {
    let Some(block) = kind.first_not_finite(bytes) else { return Ok(()) };
    let (numbers, kind) = (block * kind.block_len(), kind.name());
    let problem = format!("({kind}) holds a number that is infinite or none, from its number {numbers} on");
    Err(LoadError::Tensor { name: name.into(), problem })
}

/// Rows whose rotary pairs are neighbours, `[i][part]` in each head, to rows in halves, `[part][i]`. A head has
/// `head_rows` rows of `row_len` elements.
fn in_halves<T: Copy>(rows: &[T], head_rows: usize, row_len: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_rows * row_len) {
        for part in 0..2 {
            for i in 0..head_rows / 2 {
                out.extend_from_slice(&head[(2 * i + part) * row_len..][..row_len]);
            }
        }
    }
    out
}
