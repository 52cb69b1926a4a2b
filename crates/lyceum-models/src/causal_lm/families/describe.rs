//! Reading a checkpoint's description: keys by name, errors that name them, and what Llama-like families share.

use crate::causal_lm::config::{Config, Layer, Rope, Scaling};
use lyceum_nn::Activation;
use lyceum_nn::gguf::{Header, Value as Meta};
use serde_json::{Map, Value};

#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// The checkpoint's fault.
    #[error("model description: \"{key}\" {}", lyceum_types::short::short(problem))]
    Key { key: String, problem: String },
    /// The checkpoint is well, and this program cannot use it.
    #[error("model description: {} is not supported", lyceum_types::short::short(.0))]
    Unsupported(String),
    /// The checkpoint's fault: numbers that do not fit together.
    #[error("model description: {}", lyceum_types::short::short(.0))]
    Sizes(String),
}

fn missing(key: &str) -> DescribeError {
    DescribeError::Key { key: key.into(), problem: "is missing".into() }
}

fn wrong(key: &str, found: impl std::fmt::Debug, want: &str) -> DescribeError {
    DescribeError::Key { key: key.into(), problem: format!("is {found:?}, {want} is needed") }
}

/// `config.json`.
pub struct HuggingFace<'a> {
    keys: &'a Map<String, Value>,
}

impl<'a> HuggingFace<'a> {
    pub fn new(config: &'a Value) -> Result<Self, DescribeError> {
        let keys =
            config.as_object().ok_or_else(|| DescribeError::Sizes("config.json is no object".into()))?;
        Ok(HuggingFace { keys })
    }

    /// A key that is there and not null.
    pub fn find(&self, key: &str) -> Option<&'a Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    pub fn text(&self, key: &str) -> Result<&'a str, DescribeError> {
        let value = self.find(key).ok_or_else(|| missing(key))?;
        value.as_str().ok_or_else(|| wrong(key, value, "a text"))
    }

    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, DescribeError> {
        match self.find(key) {
            None => Ok(default),
            Some(value) => {
                let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
                n.ok_or_else(|| wrong(key, value, "a whole number"))
            }
        }
    }

    pub fn count(&self, key: &str) -> Result<usize, DescribeError> {
        self.find(key).ok_or_else(|| missing(key))?;
        self.count_or(key, 0)
    }

    pub fn number_or(&self, key: &str, default: f64) -> Result<f64, DescribeError> {
        self.find(key).map_or(Ok(default), |v| v.as_f64().ok_or_else(|| wrong(key, v, "a number")))
    }

    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, DescribeError> {
        self.find(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| wrong(key, v, "true or false")))
    }

    /// The keys that Llama-like families share, with Llama's defaults; no biases, norms or windows beyond them.
    pub fn llama_like(&self) -> Result<Config, DescribeError> {
        let (hidden, heads) = (self.count("hidden_size")?, self.count("num_attention_heads")?);
        let head_dim = self.count_or("head_dim", hidden / heads.max(1))?;
        let activation = match self.find("hidden_act").or_else(|| self.find("hidden_activation")) {
            None => Activation::Silu,
            Some(name) => activation(name)?,
        };
        let layer = Layer { window: None, rope: Some(0) };
        let n_layers = self.count("num_hidden_layers")?.min(1 << 20);
        Ok(Config {
            model_type: self.text("model_type")?.into(),
            vocab_size: self.count("vocab_size")?,
            hidden_size: hidden,
            intermediate_size: self.count("intermediate_size")?,
            num_attention_heads: heads,
            num_key_value_heads: self.count_or("num_key_value_heads", heads)?,
            head_dim,
            max_position_embeddings: self.count("max_position_embeddings")?,
            rms_norm_eps: self.number_or("rms_norm_eps", 1e-6)? as f32,
            activation,
            tie_word_embeddings: self.flag_or("tie_word_embeddings", false)?,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            post_norms: false,
            norm_weights_minus_one: false,
            embedding_scale: None,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            ropes: vec![self.rope(self.find("rope_parameters").or_else(|| self.find("rope_scaling")))?],
            layers: vec![layer; n_layers],
        })
    }

    /// A rotary table: `rope_parameters` of newer files holds θ beside the scaling, older ones have the keys
    /// `rope_theta` and `rope_scaling`.
    pub fn rope(&self, parameters: Option<&Value>) -> Result<Rope, DescribeError> {
        let empty = Map::new();
        let keys = match parameters {
            None => &empty,
            Some(value) => value.as_object().ok_or_else(|| wrong("rope_scaling", value, "an object"))?,
        };
        let scaling = HuggingFace { keys };
        let part =
            scaling.number_or("partial_rotary_factor", self.number_or("partial_rotary_factor", 1.0)?)?;
        if part != 1.0 {
            return Err(DescribeError::Unsupported(format!("partial_rotary_factor {part}")));
        }
        let theta = scaling.number_or("rope_theta", self.number_or("rope_theta", 10_000.0)?)?;
        let kind = scaling.find("rope_type").or_else(|| scaling.find("type"));
        let number = |key| match scaling.find(key) {
            None => Err(missing(key)),
            Some(_) => scaling.number_or(key, 0.0),
        };
        let scaling = match kind.and_then(Value::as_str) {
            None | Some("default") => Scaling::None,
            Some("linear") => Scaling::Linear { factor: number("factor")? },
            Some("llama3") => Scaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_context: scaling.count("original_max_position_embeddings")?,
            },
            Some(other) => {
                return Err(DescribeError::Unsupported(format!(
                    "rope scaling \"{other}\" (default, linear and llama3 are)"
                )));
            }
        };
        Ok(Rope { theta, scaling })
    }

    /// `layer_types`, where the file has them: sliding layers get `window`.
    pub fn windows(&self, config: &mut Config, window: Option<usize>) -> Result<(), DescribeError> {
        let Some(types) = self.find("layer_types") else { return Ok(()) };
        let list = types.as_array().filter(|list| list.len() == config.layers.len());
        let list = list.ok_or_else(|| wrong("layer_types", types, "a type for each layer"))?;
        for (layer, kind) in config.layers.iter_mut().zip(list) {
            layer.window = match kind.as_str() {
                Some("full_attention") => None,
                Some("sliding_attention") => Some(window.ok_or_else(|| missing("sliding_window"))?),
                _ => return Err(DescribeError::Unsupported(format!("layer type {kind}"))),
            };
        }
        Ok(())
    }

    /// `sliding_window`, where it is set.
    pub fn sliding_window(&self) -> Result<Option<usize>, DescribeError> {
        self.find("sliding_window").map(|_| self.count("sliding_window")).transpose()
    }
}

fn activation(name: &Value) -> Result<Activation, DescribeError> {
    match name.as_str() {
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some("gelu") => Ok(Activation::Gelu),
        _ => Err(DescribeError::Unsupported(format!("activation {name}"))),
    }
}

/// The metadata of a GGUF file; keys are named without the architecture before them.
pub struct Gguf<'a> {
    pub architecture: &'a str,
    header: &'a Header,
    has: &'a dyn Fn(&str) -> bool,
}

impl<'a> Gguf<'a> {
    pub fn new(header: &'a Header, has: &'a dyn Fn(&str) -> bool) -> Result<Self, DescribeError> {
        let key = "general.architecture";
        let architecture = header.value(key).and_then(Meta::as_str).ok_or_else(|| missing(key))?;
        Ok(Gguf { architecture, header, has })
    }

    /// Whether the file holds this tensor.
    pub fn has(&self, tensor: &str) -> bool {
        (self.has)(tensor)
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub fn find(&self, key: &str) -> Option<&'a Meta> {
        self.header.value(&self.key(key))
    }

    pub fn count(&self, key: &str) -> Result<usize, DescribeError> {
        let value = self.find(key).ok_or_else(|| missing(&self.key(key)))?;
        let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
        n.ok_or_else(|| wrong(&self.key(key), value, "a whole number"))
    }

    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, DescribeError> {
        self.find(key).map_or(Ok(default), |_| self.count(key))
    }

    pub fn number_or(&self, key: &str, default: f64) -> Result<f64, DescribeError> {
        self.find(key).map_or(Ok(default), |value| {
            value.as_f64().ok_or_else(|| wrong(&self.key(key), value, "a number"))
        })
    }

    /// What Llama-like families share.
    pub fn llama_like(&self) -> Result<Config, DescribeError> {
        let (hidden, heads) = (self.count("embedding_length")?, self.count("attention.head_count")?);
        let head_dim = self.count_or("attention.key_length", hidden / heads.max(1))?;
        if self.count_or("rope.dimension_count", head_dim)? != head_dim {
            return Err(DescribeError::Unsupported("rotary positions on a part of each head".into()));
        }
        let vocab_size = match self.header.value("tokenizer.ggml.tokens") {
            Some(Meta::Strings(tokens)) => tokens.len(),
            _ => self.count("vocab_size")?,
        };
        let layer = Layer { window: None, rope: Some(0) };
        Ok(Config {
            model_type: self.architecture.into(),
            vocab_size,
            hidden_size: hidden,
            intermediate_size: self.count("feed_forward_length")?,
            num_attention_heads: heads,
            num_key_value_heads: self.count_or("attention.head_count_kv", heads)?,
            head_dim,
            max_position_embeddings: self.count("context_length")?,
            rms_norm_eps: self.number_or("attention.layer_norm_rms_epsilon", 1e-6)? as f32,
            activation: Activation::Silu,
            tie_word_embeddings: !self.has("output.weight"),
            qkv_bias: self.has("blk.0.attn_q.bias"),
            o_bias: self.has("blk.0.attn_output.bias"),
            mlp_bias: self.has("blk.0.ffn_gate.bias"),
            qk_norm: false,
            post_norms: false,
            norm_weights_minus_one: false,
            embedding_scale: None,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            ropes: vec![self.rope()?],
            layers: vec![layer; self.count("block_count")?.min(1 << 20)],
        })
    }

    /// θ and a scaling that the metadata names; `rope_freqs.weight` is added where weights are read.
    fn rope(&self) -> Result<Rope, DescribeError> {
        let theta = self.number_or("rope.freq_base", 10_000.0)?;
        let kind = self.find("rope.scaling.type").and_then(Meta::as_str);
        let scaling = match kind {
            None | Some("none") => Scaling::None,
            Some("linear") => Scaling::Linear { factor: self.number_or("rope.scaling.factor", 1.0)? },
            Some(other) => return Err(DescribeError::Unsupported(format!("rope scaling \"{other}\""))),
        };
        Ok(Rope { theta, scaling })
    }
}
