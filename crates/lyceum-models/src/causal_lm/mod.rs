//! Decoder-only language models by configuration: Llama, Mistral, SmolLM, Qwen, Gemma. One definition that is
//! trained, served and explained.
//!
//! Legend: B batch, T time, C `hidden_size`, H heads, D `head_dim`, V vocabulary. A layer is
//! ```text
//! h = x + [norm](W_o · attention(rope([norm](W_qkv · norm(x)))))        [norm]: where the family has it
//! y = h + [norm](W_down · (f(W_gate · n) ⊙ W_up · n)),  n = norm(h)
//! ```
//! Parameter names are Hugging Face's. Weights may stand in any stored form ([`load`]); this file does not know
//! which. It knows no text, no sampling and no cache: attention is handed in by whoever runs a pass.

pub mod adapter;
pub mod config;
pub mod families;
mod load;
pub(crate) mod paged;
mod sections;
#[cfg(test)]
mod tests;

pub use adapter::{Adapter, AdapterConfig};
pub use config::Config;
pub use load::{Loaded, Source, describe, load};
pub use sections::{LearntBack, Sections, SentOn, Walk};

use crate::batch::{Input, Tokens};
use crate::from_checkpoint::{LoadError, Weights};
use crate::model::{Forward, wrong_input};
use adapter::{Factors, Place, Use};
use lyceum_nn::ops::attention::AttentionOptions;
use lyceum_nn::ops::cached_attention::CachedOptions;
use lyceum_nn::ops::head_norm::Heads;
use lyceum_nn::ops::joined::Part;
use lyceum_nn::ops::rope::{Pairs, RopeOptions, RopeTable};
use lyceum_nn::{Activation, Init, NnError, ParamId, Tape, Var};
use std::ops::Range;

#[derive(Clone, Debug)]
pub struct CausalLm {
    pub config: Config,
    embed_tokens: ParamId,
    layers: Vec<LayerWeights>,
    norm: ParamId,
    /// None where the head is the embedding's table.
    lm_head: Option<ParamId>,
    ropes: Vec<RopeTable>,
    /// 0, 1, … up to the context.
    numbers: Vec<u32>,
    /// An adapter that stands within the model: all rows use it.
    own: Option<Box<(AdapterConfig, Factors)>>,
}

#[derive(Clone, Copy, Debug)]
struct LayerWeights {
    input_layernorm: ParamId,
    qkv: [Part; 3],
    head_norms: Option<[ParamId; 2]>,
    o_proj: Part,
    post_attention_norm: Option<ParamId>,
    feedforward_norm: ParamId,
    gate_up: [Part; 2],
    down_proj: Part,
    post_feedforward_norm: Option<ParamId>,
}

/// What is added to the rows at the end of either half of a layer.
struct Branch {
    place: Place,
    part: Part,
    norm: Option<ParamId>,
}

impl CausalLm {
    pub(crate) fn build(config: Config, weights: &mut dyn Weights) -> Result<Self, LoadError> {
        let (c, f, d) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (h, kv) = (config.num_attention_heads, config.num_key_value_heads);
        let n_layers = config.layers.len();
        let normal = Init::Normal(0.02);
        let residual = Init::Normal(0.02 / (2.0 * n_layers as f64).sqrt());
        let embed_tokens = weights.parameter("model.embed_tokens.weight", &[config.vocab_size, c], normal)?;
        let mut layers = Vec::with_capacity(n_layers);
        for i in 0..n_layers {
            let mut norm = |name: &str, size: usize| {
                weights.parameter(&format!("model.layers.{i}.{name}.weight"), &[size], Init::Ones)
            };
            let input_layernorm = norm("input_layernorm", c)?;
            let (post_attention_norm, feedforward_norm, post_feedforward_norm) = if config.post_norms {
                let after = norm("post_attention_layernorm", c)?;
                let before = norm("pre_feedforward_layernorm", c)?;
                (Some(after), before, Some(norm("post_feedforward_layernorm", c)?))
            } else {
                (None, norm("post_attention_layernorm", c)?, None)
            };
            let head_norms = match config.qk_norm {
                true => Some([norm("self_attn.q_norm", d)?, norm("self_attn.k_norm", d)?]),
                false => None,
            };
            let mut linear = |name: &str, sizes: [usize; 2], init, bias: bool| -> Result<Part, LoadError> {
                let [inputs, outputs] = sizes;
                let name = format!("model.layers.{i}.{name}");
                let weight = weights.parameter(&format!("{name}.weight"), &[outputs, inputs], init)?;
                let bias = match bias {
                    true => Some(weights.parameter(&format!("{name}.bias"), &[outputs], Init::Zeros)?),
                    false => None,
                };
                Ok((weight, bias))
            };
            let (qkv, o, mlp) = (config.qkv_bias, config.o_bias, config.mlp_bias);
            layers.push(LayerWeights {
                input_layernorm,
                qkv: [
                    linear("self_attn.q_proj", [c, h * d], normal, qkv)?,
                    linear("self_attn.k_proj", [c, kv * d], normal, qkv)?,
                    linear("self_attn.v_proj", [c, kv * d], normal, qkv)?,
                ],
                head_norms,
                o_proj: linear("self_attn.o_proj", [h * d, c], residual, o)?,
                post_attention_norm,
                feedforward_norm,
                gate_up: [
                    linear("mlp.gate_proj", [c, f], normal, mlp)?,
                    linear("mlp.up_proj", [c, f], normal, mlp)?,
                ],
                down_proj: linear("mlp.down_proj", [f, c], residual, mlp)?,
                post_feedforward_norm,
            });
        }
        let norm = weights.parameter("model.norm.weight", &[c], Init::Ones)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(weights.parameter("lm_head.weight", &[config.vocab_size, c], normal)?),
        };
        let context = config.max_position_embeddings;
        let ropes = config.ropes.iter().map(|rope| {
            let frequencies = &rope.frequencies(d)[..];
            RopeTable::with(
                RopeOptions { head_size: d, pairs: Pairs::Halves, frequencies, scale: 1.0 },
                context,
            )
        });
        let ropes = ropes.collect::<Result<_, _>>()?;
        let numbers = (0..context as u32).collect();
        Ok(CausalLm { config, embed_tokens, layers, norm, lm_head, ropes, numbers, own: None })
    }

    pub(crate) fn heads(&self) -> Heads {
        let config = &self.config;
        Heads { n: config.num_attention_heads, kv: config.num_key_value_heads, size: config.head_dim }
    }

    /// Matrices, and how often an answer of the longest sequence multiplies by each; and the products of one
    /// number by another that attention makes besides.
    pub(crate) fn products(&self, time: usize) -> (Vec<(ParamId, usize)>, u64) {
        let heads = self.heads();
        let mut all = vec![(self.lm_head.unwrap_or(self.embed_tokens), time)];
        let mut looked = 0;
        for (layer, kind) in self.layers.iter().zip(&self.config.layers) {
            let parts = layer.qkv.iter().chain(&layer.gate_up).chain([&layer.o_proj, &layer.down_proj]);
            all.extend(parts.map(|&(weight, _)| (weight, time)));
            let seen = kind.window.unwrap_or(time).min(time) as u64;
            let pairs = seen * (seen + 1) / 2 + (time as u64 - seen) * seen;
            looked += 2 * (heads.n * heads.size) as u64 * pairs;
        }
        (all, looked)
    }

    /// What attention of layer `i` sees.
    pub(crate) fn options(&self, i: usize) -> AttentionOptions<'static> {
        let Heads { n, kv, .. } = self.heads();
        let scale = Some(self.config.attention_scale);
        AttentionOptions { scale, ..AttentionOptions::grouped(n, kv, self.config.layers[i].window) }
    }

    /// Whole sequences, with a way back where one is recorded.
    pub fn forward(&self, tape: &mut Tape<'_>, input: &Input) -> Result<Forward, NnError> {
        let (entry, x) = self.body(tape, input)?;
        Ok(Forward { logits: self.head(tape, x)?, entry })
    }

    /// As [`forward`](Self::forward), with logits `[n, V]` of these rows only.
    pub(crate) fn forward_rows(
        &self,
        tape: &mut Tape<'_>,
        input: &Input,
        rows: &[u32],
    ) -> Result<Forward, NnError> {
        let (entry, x) = self.body(tape, input)?;
        let x = tape.select_rows(x, rows)?;
        Ok(Forward { logits: self.head(tape, x)?, entry })
    }

    /// The entry, and what the head reads.
    fn body(&self, tape: &mut Tape<'_>, input: &Input) -> Result<(Var, Var), NnError> {
        let Input::Tokens(tokens) = input else { return Err(wrong_input("causal_lm", "tokens")) };
        let Tokens { ids, lengths, n, time, packed, .. } = tokens;
        let positions = self.numbers.get(..*time).ok_or_else(|| self.too_long(*time))?;
        let x = if *packed {
            let x = tape.embedding(self.embed_tokens, ids, &[1, ids.len()])?;
            let entry = tape.watch_entry(x);
            let each = lengths.iter().flat_map(|&length| &positions[..length as usize]);
            let (positions, offsets) = (each.copied().collect::<Vec<u32>>(), tokens.offsets());
            let x = self.run(tape, entry, &positions, |tape, i, qkv| {
                tape.packed_attention(qkv, &offsets, self.options(i))
            })?;
            (entry, x)
        } else {
            let x = tape.embedding(self.embed_tokens, ids, &[*n, *time])?;
            let entry = tape.watch_entry(x);
            let x = self.run(tape, entry, positions, |tape, i, qkv| {
                // As when it is served, where rows that are read go their own way there.
                let may_round = tape.params().tells_row_classes_apart();
                let options = AttentionOptions { key_lens: Some(lengths), may_round, ..self.options(i) };
                tape.self_attention(qkv, options)
            })?;
            (entry, x)
        };
        Ok((x.0, self.last_norm(tape, x.1)?))
    }

    /// Rows of the embedding, before [`run`](Self::run).
    pub(crate) fn embed(&self, tape: &mut Tape<'_>, ids: &[u32], dims: &[usize]) -> Result<Var, NnError> {
        tape.embedding(self.embed_tokens, ids, dims)
    }

    /// What attention of layer `i` sees of a sequence whose past lies in pages.
    pub(crate) fn cached_options(&self, i: usize) -> CachedOptions {
        let (heads, scale) = (self.config.num_attention_heads, Some(self.config.attention_scale));
        CachedOptions { heads, scale, window: self.config.layers[i].window }
    }

    /// All layers. x `[B, T, C]`; `positions` holds T numbers or B·T; `attend` is given a
    /// layer's number and its turned `[q | k | v]` rows.
    pub(crate) fn run(
        &self,
        tape: &mut Tape<'_>,
        x: Var,
        positions: &[u32],
        mut attend: impl FnMut(&mut Tape<'_>, usize, Var) -> Result<Var, NnError>,
    ) -> Result<Var, NnError> {
        let uses = Vec::from_iter(self.own_use(tape.shape(x).rows()));
        self.run_layers(tape, x, (0..self.layers.len(), positions, &uses), &mut attend)
    }

    /// The layers `layers`, with the adapters `uses` alone.
    fn run_layers(
        &self,
        tape: &mut Tape<'_>,
        x: Var,
        (layers, positions, uses): (Range<usize>, &[u32], &[Use<'_>]),
        attend: &mut impl FnMut(&mut Tape<'_>, usize, Var) -> Result<Var, NnError>,
    ) -> Result<Var, NnError> {
        let mut x = if layers.start == 0 { self.scaled(tape, x)? } else { x };
        let embedded = x;
        for i in layers {
            let middle = self.attention_half(tape, x, (i, positions, uses), attend)?;
            x = self.feedforward_half(tape, middle, i, uses)?;
            tape.mark(x, || format!("layers.{i}"));
            tape.release_between(embedded, x);
        }
        Ok(x)
    }

    /// Rows of the embedding as the first layer reads them.
    fn scaled(&self, tape: &mut Tape<'_>, x: Var) -> Result<Var, NnError> {
        match self.config.embedding_scale {
            Some(factor) => tape.scale(x, factor),
            None => Ok(x),
        }
    }

    /// The first half of layer `i`: `x` and what attention adds.
    fn attention_half(
        &self,
        tape: &mut Tape<'_>,
        x: Var,
        (i, positions, uses): (usize, &[u32], &[Use<'_>]),
        attend: &mut impl FnMut(&mut Tape<'_>, usize, Var) -> Result<Var, NnError>,
    ) -> Result<Var, NnError> {
        let qkv = self.queries_keys_values(tape, i, x, positions, uses)?;
        let y = attend(tape, i, qkv)?;
        self.attended(tape, x, y, i, uses)
    }

    /// `x` and what the heads of layer `i` saw, `y`.
    fn attended(
        &self,
        tape: &mut Tape<'_>,
        x: Var,
        y: Var,
        i: usize,
        uses: &[Use<'_>],
    ) -> Result<Var, NnError> {
        let layer = &self.layers[i];
        let branch = Branch { place: Place::Output, part: layer.o_proj, norm: layer.post_attention_norm };
        self.add_branch(tape, x, y, (i, branch), uses)
    }

    /// The second half of layer `i`: `x` and what the feed-forward network adds.
    fn feedforward_half(
        &self,
        tape: &mut Tape<'_>,
        x: Var,
        i: usize,
        uses: &[Use<'_>],
    ) -> Result<Var, NnError> {
        let layer = &self.layers[i];
        let y = tape.rms_norm(x, layer.feedforward_norm, self.config.rms_norm_eps)?;
        let gate_up = tape.linear_joined(y, &layer.gate_up)?;
        let y = self.adapt(tape, (i, Place::GateUp), y, gate_up, uses)?;
        let y = tape.gated(y, self.config.activation)?;
        let branch = Branch { place: Place::Down, part: layer.down_proj, norm: layer.post_feedforward_norm };
        self.add_branch(tape, x, y, (i, branch), uses)
    }

    /// The norm between the last layer and the head.
    pub(crate) fn last_norm(&self, tape: &mut Tape<'_>, x: Var) -> Result<Var, NnError> {
        tape.rms_norm(x, self.norm, self.config.rms_norm_eps)
    }

    /// Rows of the last norm to logits `[…, V]`.
    pub(crate) fn head(&self, tape: &mut Tape<'_>, x: Var) -> Result<Var, NnError> {
        tape.linear(x, self.lm_head.unwrap_or(self.embed_tokens), None, Activation::None)
    }

    /// Turned `[q | k | v]` rows of layer `i`, whose input is `x`.
    fn queries_keys_values(
        &self,
        tape: &mut Tape<'_>,
        i: usize,
        x: Var,
        positions: &[u32],
        uses: &[Use<'_>],
    ) -> Result<Var, NnError> {
        let (layer, heads) = (&self.layers[i], self.heads());
        let x = tape.rms_norm(x, layer.input_layernorm, self.config.rms_norm_eps)?;
        let mut qkv = tape.linear_joined(x, &layer.qkv)?;
        qkv = self.adapt(tape, (i, Place::Qkv), x, qkv, uses)?;
        if let Some(weights) = layer.head_norms {
            qkv = tape.head_norm(qkv, heads, weights, self.config.rms_norm_eps)?;
        }
        match self.config.layers[i].rope {
            None => Ok(qkv),
            Some(table) => tape.rope(qkv, &self.ropes[table], heads.n + heads.kv, positions),
        }
    }

    /// `x + [norm](W·y)`.
    fn add_branch(
        &self,
        tape: &mut Tape<'_>,
        x: Var,
        y: Var,
        (i, Branch { place, part: (weight, bias), norm }): (usize, Branch),
        uses: &[Use<'_>],
    ) -> Result<Var, NnError> {
        let residual = if norm.is_none() { Some(x) } else { None };
        let base = tape.linear_residual(y, weight, bias, Activation::None, residual)?;
        let y = self.adapt(tape, (i, place), y, base, uses)?;
        let Some(norm) = norm else { return Ok(y) };
        let y = tape.rms_norm(y, norm, self.config.rms_norm_eps)?;
        tape.add(x, y)
    }

    fn too_long(&self, n: usize) -> NnError {
        let (got, context) = (format!("{n} positions"), self.config.max_position_embeddings);
        NnError::Shape {
            op: "causal_lm",
            what: "input",
            got,
            want: format!("at most the context of {context}"),
        }
    }
}
