//! A language model's weights, from files in Hugging Face's layout or from GGUF: which tensor is which parameter,
//! and in which form it is laid out.

use super::families::{self, DescribeError, Family};
use super::{CausalLm, Config};
use crate::causal_lm::config::Scaling;
use crate::from_checkpoint::{LoadError, Naming, Reader};
use lyceum_kernels::stored::Stored;
use lyceum_nn::Params;
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::gguf::Header;
use lyceum_types::control::Control;

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

/// What a checkpoint says that its model is; no tensor is read.
///
/// # Errors
/// Where the description is not what a family needs.
pub fn describe(checkpoint: &Checkpoint, source: &Source<'_>) -> Result<Config, LoadError> {
    let (_, config) = family_and_config(checkpoint, source)?;
    Ok(config)
}

fn family_and_config(
    checkpoint: &Checkpoint,
    source: &Source<'_>,
) -> Result<(&'static Family, Config), DescribeError> {
    match source {
        Source::HuggingFace { config } => families::from_hugging_face(config),
        Source::Gguf { header } => families::from_gguf(header, &|name| checkpoint.find(name).is_some()),
    }
}

/// Reads every tensor that the model needs, laid out for this processor. Matrices stay in the type of the file,
/// or become `quant` (norms and biases stay f32). `context` cuts the longest sequence, and the tables made for it.
///
/// # Errors
/// Where the description or a tensor is not what the family needs, a tensor is left that it does not know, or
/// `context` is longer than the model can read.
pub fn load(
    mut checkpoint: Checkpoint,
    source: Source<'_>,
    quant: Option<Stored>,
    context: Option<usize>,
    control: &Control,
) -> Result<Loaded, LoadError> {
    let (family, mut config) = family_and_config(&checkpoint, &source)?;
    if let Source::Gguf { .. } = source
        && let Some(divisors) = checkpoint.remove("rope_freqs.weight")
    {
        let divisors = checkpoint.numbers(&divisors)?;
        config.ropes.iter_mut().for_each(|r| r.scaling = Scaling::Divisors(divisors.clone()));
        config.check().map_err(DescribeError::Sizes)?;
    }
    if let Some(context) = context {
        let most = config.max_position_embeddings;
        if context == 0 || context > most {
            return Err(LoadError::Context { asked: context, most });
        }
        config.max_position_embeddings = context;
    }
    if config.tie_word_embeddings {
        // Some files repeat the table as a head.
        checkpoint.remove("lm_head.weight");
    }
    let hugging_face: &dyn Naming = &HuggingFaceNames { norms_minus_one: config.norm_weights_minus_one };
    let gguf: &dyn Naming = &GgufNames { family, config: &config };
    let naming = if let Source::Gguf { .. } = source { gguf } else { hugging_face };
    let mut reader = Reader::new(checkpoint, naming, quant, control);
    let model = CausalLm::build(config.clone(), &mut reader)?;
    let Reader { checkpoint, params, notes, .. } = reader;
    // Tables that older files carry and that this program computes.
    if let Some(name) = checkpoint.names().find(|name| !name.ends_with("rotary_emb.inv_freq")) {
        let problem = format!("is not part of a {} model", family.model_type);
        return Err(LoadError::Tensor { name: name.into(), problem });
    }
    Ok(Loaded { params, model, notes })
}

/// Parameters have the tensors' names.
struct HuggingFaceNames {
    norms_minus_one: bool,
}

impl Naming for HuggingFaceNames {
    fn tensor(&self, name: &str) -> String {
        name.into()
    }

    fn minus_one(&self, name: &str) -> bool {
        self.norms_minus_one && name.ends_with("norm.weight")
    }
}

struct GgufNames<'a> {
    family: &'a Family,
    config: &'a Config,
}

impl Naming for GgufNames<'_> {
    fn tensor(&self, name: &str) -> String {
        Family::gguf_name(name, self.config.post_norms).expect("every parameter has a name in GGUF: bug")
    }

    fn neighbours(&self, name: &str) -> Option<usize> {
        let config = self.config;
        let heads = match () {
            () if name.contains("self_attn.q_proj.") => Some(config.num_attention_heads),
            () if name.contains("self_attn.k_proj.") => Some(config.num_key_value_heads),
            () => None,
        };
        heads.filter(|_| self.family.gguf_pairs_are_neighbours)
    }
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
