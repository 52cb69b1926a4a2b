//! What a decoder-only language model is, apart from its weights: sizes, and the choices in which the families
//! differ. A family's file (`families/`) turns a checkpoint's own description into this.

use lyceum_nn::Activation;

/// A decoder of the Llama kind. Legend: C `hidden_size`, F `intermediate_size`, H heads, D `head_dim`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `llama`, `qwen3`, … as checkpoints name it.
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// The longest sequence, in tokens.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    /// Of the gate.
    pub activation: Activation,
    /// The head is the embedding's table.
    pub tie_word_embeddings: bool,
    /// Biases of query, key and value (Qwen2), of attention's output, and of the feed-forward layer.
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    /// RMS norms of queries and keys, head by head (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// Norms after attention and after the feed-forward layer, before each is added (Gemma).
    pub post_norms: bool,
    /// Files of this family in Hugging Face's layout hold `w − 1` for a norm's weight w (Gemma).
    pub norm_weights_minus_one: bool,
    /// Embeddings are multiplied by this (Gemma: √C).
    pub embedding_scale: Option<f32>,
    /// Scores are multiplied by this; 1/√D unless the family says otherwise.
    pub attention_scale: f32,
    /// The tables of angles that layers choose from.
    pub ropes: Vec<Rope>,
    pub layers: Vec<Layer>,
}

/// One layer's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// A query sees itself and the `window − 1` positions before it; None: all before it.
    pub window: Option<usize>,
    /// Which of [`Config::ropes`] turns queries and keys; None: no positions in this layer (SmolLM3).
    pub rope: Option<usize>,
}

/// Rotary angles: `position · frequency_i`, `frequency_i = θ^(−2i/D)` under a scaling for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: Scaling,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    None,
    /// Every frequency divided by `factor` (position interpolation).
    Linear {
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: usize,
    },
    /// Every frequency divided by a number of its own, as a GGUF file gives them (`rope_freqs.weight`).
    Divisors(Vec<f32>),
}

impl Rope {
    pub fn plain(theta: f64) -> Rope {
        Rope { theta, scaling: Scaling::None }
    }

    /// The `head_dim / 2` frequencies, in radians a position.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64));
        match &self.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            Scaling::Divisors(divisors) => plain.zip(divisors).map(|(f, &d)| f / f64::from(d)).collect(),
            &Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => plain
                .map(|f| {
                    let turns = original_context as f64 * f / std::f64::consts::TAU;
                    // 0 below `low_freq_factor` turns over the original context, 1 above `high_freq_factor`.
                    let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let kept = kept.clamp(0.0, 1.0);
                    (1.0 - kept) * f / factor + kept * f
                })
                .collect(),
        }
    }
}

/// A bound on what a checkpoint may claim, far above any real model.
const SIZE_MAX: usize = 1 << 24;
const LAYERS_MAX: usize = 1024;

impl Config {
    /// The sliding window, in positions, of the first layer that has one.
    pub fn window(&self) -> Option<usize> {
        self.layers.iter().find_map(|layer| layer.window)
    }

    /// Sizes that fit together.
    ///
    /// # Errors
    /// Which do not, and why.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, value)) = sizes.into_iter().find(|&(_, n)| n == 0 || n > SIZE_MAX) {
            return Err(format!("{name} is {value}"));
        }
        if self.layers.is_empty() || self.layers.len() > LAYERS_MAX {
            return Err(format!("num_hidden_layers is {}", self.layers.len()));
        }
        let (h, kv) = (self.num_attention_heads, self.num_key_value_heads);
        if !h.is_multiple_of(kv) {
            return Err(format!("{h} attention heads do not share {kv} key and value heads evenly"));
        }
        if !self.head_dim.is_multiple_of(2) || self.head_dim > 1024 {
            return Err(format!("head_dim is {}, not an even number up to 1024", self.head_dim));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(format!("rms_norm_eps is {}", self.rms_norm_eps));
        }
        for rope in &self.ropes {
            if !(rope.theta.is_finite() && rope.theta > 0.0) {
                return Err(format!("rope_theta is {}", rope.theta));
            }
            if let Scaling::Divisors(divisors) = &rope.scaling
                && (divisors.len() != self.head_dim / 2 || divisors.iter().any(|d| d.is_nan() || *d <= 0.0))
            {
                let (n, want) = (divisors.len(), self.head_dim / 2);
                return Err(format!("{n} divisors of rotary frequencies, {want} positive ones are needed"));
            }
        }
        if let Some(layer) = self.layers.iter().find(|l| l.rope.is_some_and(|r| r >= self.ropes.len())) {
            return Err(format!("a layer asks for rotary table {:?} of {}", layer.rope, self.ropes.len()));
        }
        if self.layers.iter().any(|l| l.window == Some(0)) {
            return Err("a sliding window of 0".into());
        }
        Ok(())
    }
}
