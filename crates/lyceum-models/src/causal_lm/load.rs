//! A language model's weights, from files in Hugging Face's layout or from GGUF: which tensor is which parameter,
//! and in which form it is laid out.

use super::families::{self, DescribeError, Family};
use super::{CausalLm, Config, Weights};
use crate::causal_lm::config::Scaling;
use lyceum_kernels::stored::{Stored, StoredWeight, quantise};
use lyceum_nn::checkpoint::{Checkpoint, TensorAt};
use lyceum_nn::gguf::{GgufError, Header};
use lyceum_nn::{Init, NnError, ParamId, ParamKind, Params};
use lyceum_types::control::{Control, Stop};

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Describe(#[from] DescribeError),
    #[error(transparent)]
    Nn(#[from] NnError),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The checkpoint's fault.
    #[error("weights: tensor \"{name}\" {problem}")]
    Tensor { name: String, problem: String },
    /// The caller's fault.
    #[error("quantisation: {0}")]
    Quantise(String),
    #[error("loading was ended: {0}")]
    Stopped(#[from] Stop),
}

/// Where a model comes from.
pub enum Source<'a> {
    /// `config.json` beside safetensors.
    HuggingFace { config: &'a serde_json::Value },
    /// A GGUF file's metadata.
    Gguf { header: &'a Header },
}

/// A loaded model's parts, with what a user should be told.
pub struct Loaded {
    pub params: Params,
    pub model: CausalLm,
    /// Tensors in types that the kernels have no tile for, and the nearest that they became.
    pub notes: Vec<String>,
}

/// Reads every tensor that the model needs, laid out for this processor. Matrices stay in the type of the file,
/// or become `quant` (norms and biases stay f32). `context` cuts the longest sequence, and the tables made for it.
///
/// # Errors
/// Where the description or a tensor is not what the family needs, or a tensor is left that it does not know.
pub fn load(
    mut checkpoint: Checkpoint,
    source: Source<'_>,
    quant: Option<Stored>,
    context: Option<usize>,
    control: &Control,
) -> Result<Loaded, LoadError> {
    let (family, mut config) = match source {
        Source::HuggingFace { config } => families::from_hugging_face(config)?,
        Source::Gguf { header } => {
            let has = |name: &str| checkpoint.find(name).is_some();
            let (family, mut config) = families::from_gguf(header, &has)?;
            if let Some(divisors) = checkpoint.remove("rope_freqs.weight") {
                let divisors = checkpoint.numbers(&divisors)?;
                config.ropes.iter_mut().for_each(|r| r.scaling = Scaling::Divisors(divisors.clone()));
                config.check().map_err(DescribeError::Sizes)?;
            }
            (family, config)
        }
    };
    if let Some(context) = context {
        config.max_position_embeddings = config.max_position_embeddings.min(context.max(1));
    }
    let naming = match source {
        Source::HuggingFace { .. } => Naming::HuggingFace,
        Source::Gguf { .. } => Naming::Gguf { neighbours: family.gguf_pairs_are_neighbours },
    };
    if config.tie_word_embeddings {
        // Some files repeat the table as a head.
        checkpoint.remove("lm_head.weight");
    }
    let mut params = Params::new();
    let mut reader = Reader {
        checkpoint,
        params: &mut params,
        naming,
        quant,
        config: config.clone(),
        control,
        buffer: Vec::new(),
        notes: Vec::new(),
    };
    let model = CausalLm::build(config, &mut reader)?;
    let notes = std::mem::take(&mut reader.notes);
    // Tables that older files carry and that this program computes.
    let foreign = reader.checkpoint.names().find(|name| !name.ends_with("rotary_emb.inv_freq"));
    if let Some(name) = foreign {
        return Err(LoadError::Tensor {
            name: name.into(),
            problem: format!("is not part of a {} model", family.model_type),
        });
    }
    Ok(Loaded { params, model, notes })
}

impl Family {
    /// GGUF's name of a parameter.
    pub(super) fn gguf_name(name: &str, post_norms: bool) -> Option<String> {
        let whole = [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
        ];
        if let Some((_, gguf)) = whole.iter().find(|(ours, _)| *ours == name) {
            return Some((*gguf).into());
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let part = match part {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "self_attn.q_norm" => "attn_q_norm",
            "self_attn.k_norm" => "attn_k_norm",
            "post_attention_layernorm" if post_norms => "post_attention_norm",
            "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
            "post_feedforward_layernorm" => "post_ffw_norm",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            _ => return None,
        };
        Some(format!("blk.{layer}.{part}.{kind}"))
    }
}

#[derive(Clone, Copy)]
enum Naming {
    HuggingFace,
    /// With rotary pairs as neighbours in the rows of queries and keys, or in halves.
    Gguf {
        neighbours: bool,
    },
}

struct Reader<'a> {
    checkpoint: Checkpoint,
    params: &'a mut Params,
    naming: Naming,
    quant: Option<Stored>,
    config: Config,
    control: &'a Control,
    buffer: Vec<u8>,
    notes: Vec<String>,
}

impl Weights for Reader<'_> {
    fn parameter(&mut self, name: &str, dims: &[usize], _init: Init) -> Result<ParamId, LoadError> {
        self.control.check()?;
        let stored_name = match self.naming {
            Naming::HuggingFace => name.to_owned(),
            Naming::Gguf { .. } => Family::gguf_name(name, self.config.post_norms)
                .expect("every parameter has a name in GGUF: bug"),
        };
        let problem = |problem: String| LoadError::Tensor { name: stored_name.clone(), problem };
        let tensor = self.checkpoint.remove(&stored_name).ok_or_else(|| problem("is missing".into()))?;
        if tensor.dims != dims {
            return Err(problem(format!("has dimensions {:?}, the model needs {dims:?}", tensor.dims)));
        }
        match dims {
            [rows, _] => {
                let heads = self.heads_of(name);
                let weight = self.matrix(&tensor, heads.map(|n| rows / n), &stored_name)?;
                Ok(self.params.add_stored(name, weight))
            }
            _ => {
                let mut value = self.checkpoint.numbers(&tensor)?;
                if let Some(heads) = self.heads_of(name) {
                    value = in_halves(&value, value.len() / heads, 1);
                }
                if self.config.norm_weights_minus_one
                    && matches!(self.naming, Naming::HuggingFace)
                    && name.ends_with("norm.weight")
                {
                    value.iter_mut().for_each(|w| *w += 1.0);
                }
                Ok(self.params.add_value(name, dims, ParamKind::Weight, value))
            }
        }
    }
}

impl Reader<'_> {
    /// The number of heads whose rows stand in GGUF's order of neighbours; None where rows stay as they are.
    fn heads_of(&self, name: &str) -> Option<usize> {
        if !matches!(self.naming, Naming::Gguf { neighbours: true }) {
            return None;
        }
        let config = &self.config;
        if name.contains("self_attn.q_proj.") {
            Some(config.num_attention_heads)
        } else if name.contains("self_attn.k_proj.") {
            Some(config.num_key_value_heads)
        } else {
            None
        }
    }

    /// A matrix in its form; the rows of each head of `head_rows` rows go back to halves.
    fn matrix(
        &mut self,
        tensor: &TensorAt,
        head_rows: Option<usize>,
        name: &str,
    ) -> Result<StoredWeight, LoadError> {
        let [n, k] = tensor.dims[..] else { unreachable!("a matrix has two dimensions: bug") };
        let bytes = self.checkpoint.read(tensor, &mut self.buffer)?;
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
                lyceum_kernels::stored::dequantise(tensor.kind, bytes, &mut numbers);
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
