//! Encoders of texts by configuration: BERT, MiniLM, RoBERTa; their pooled embeddings, and the scores of
//! cross-encoders. Devlin et al. 2018, arXiv:1810.04805; Liu et al. 2019, arXiv:1907.11692.
//!
//! Legend: B batch, T time, C `hidden_size`, K labels. Parameter names are Hugging Face's below the model's own
//! prefix (`bert.`, `roberta.`, or none). The answer of a [`Head::Embedding`] is `[B, C]`, pooled as
//! `sentence-transformers` says; that of a [`Head::Classifier`] is `[B, K]`, that of [`Head::Tokens`] `[B, T, K]`. It knows no text.

mod config;
mod load;
#[cfg(test)]
mod tests;

pub use config::{Config, Head, MODEL_TYPES, Pooling};
pub use load::{Description, Loaded, load};

use crate::batch::{Input, Tokens};
use crate::from_checkpoint::{LoadError, Weights};
use crate::model::{Forward, wrong_input};
use lyceum_nn::ops::attention::AttentionOptions;
use lyceum_nn::ops::joined::Part;
use lyceum_nn::ops::select_step::Step;
use lyceum_nn::{Activation, Init, NnError, ParamId, Tape, Var};

#[derive(Clone, Debug)]
pub struct Encoder {
    pub config: Config,
    word: ParamId,
    position: ParamId,
    /// None where the family has one type of token.
    token_type: Option<ParamId>,
    norm: Norm,
    layers: Vec<Layer>,
    head: HeadWeights,
    /// Positions of a whole sequence.
    numbers: Vec<u32>,
}

/// Weight and bias of a layer norm.
#[derive(Clone, Copy, Debug)]
struct Norm(ParamId, ParamId);

#[derive(Clone, Copy, Debug)]
struct Layer {
    qkv: [Part; 3],
    attention_output: Part,
    attention_norm: Norm,
    intermediate: Part,
    output: Part,
    output_norm: Norm,
}

#[derive(Clone, Copy, Debug)]
enum HeadWeights {
    Embedding(Pooling),
    /// The first token through `dense`, tanh and `out`.
    Classifier {
        dense: Part,
        out: Part,
    },
    /// Every token through `out`.
    Tokens {
        out: Part,
    },
}

impl Encoder {
    pub(crate) fn build(config: Config, weights: &mut dyn Weights) -> Result<Self, LoadError> {
        let (c, f) = (config.hidden_size, config.intermediate_size);
        let normal = Init::Normal(0.02);
        let word = weights.parameter("embeddings.word_embeddings.weight", &[config.vocab_size, c], normal)?;
        let position = weights.table(
            "embeddings.position_embeddings.weight",
            &[config.max_position_embeddings, c],
            normal,
        )?;
        let types = config.type_vocab_size;
        let token_type = match types {
            0 => None,
            n => Some(weights.parameter("embeddings.token_type_embeddings.weight", &[n, c], normal)?),
        };
        let norm_of = |weights: &mut dyn Weights, name: &str| -> Result<Norm, LoadError> {
            let weight = weights.parameter(&format!("{name}.weight"), &[c], Init::Ones)?;
            Ok(Norm(weight, weights.parameter(&format!("{name}.bias"), &[c], Init::Zeros)?))
        };
        let linear = |weights: &mut dyn Weights, name: &str, [i, o]: [usize; 2]| -> Result<Part, LoadError> {
            let weight = weights.parameter(&format!("{name}.weight"), &[o, i], normal)?;
            Ok((weight, Some(weights.parameter(&format!("{name}.bias"), &[o], Init::Zeros)?)))
        };
        let norm = norm_of(weights, "embeddings.LayerNorm")?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            layers.push(Layer {
                qkv: [
                    linear(weights, &name("attention.self.query"), [c, c])?,
                    linear(weights, &name("attention.self.key"), [c, c])?,
                    linear(weights, &name("attention.self.value"), [c, c])?,
                ],
                attention_output: linear(weights, &name("attention.output.dense"), [c, c])?,
                attention_norm: norm_of(weights, &name("attention.output.LayerNorm"))?,
                intermediate: linear(weights, &name("intermediate.dense"), [c, f])?,
                output: linear(weights, &name("output.dense"), [f, c])?,
                output_norm: norm_of(weights, &name("output.LayerNorm"))?,
            });
        }
        let head = match &config.head {
            &Head::Embedding { pooling, .. } => HeadWeights::Embedding(pooling),
            Head::Classifier { labels } => {
                let [dense, out] = config.classifier_names();
                HeadWeights::Classifier {
                    dense: linear(weights, dense, [c, c])?,
                    out: linear(weights, out, [c, labels.len()])?,
                }
            }
            Head::Tokens { labels } => {
                HeadWeights::Tokens { out: linear(weights, "classifier", [c, labels.len()])? }
            }
        };
        let first = config.first_position as u32;
        let numbers = (first..config.max_position_embeddings as u32).collect();
        Ok(Encoder { config, word, position, token_type, norm, layers, head, numbers })
    }

    /// The most tokens of one text.
    pub fn context(&self) -> usize {
        self.numbers.len()
    }

    pub fn forward(&self, tape: &mut Tape<'_>, input: &Input) -> Result<Forward, NnError> {
        let Input::Tokens(tokens) = input else { return Err(wrong_input("encoder", "tokens")) };
        let (hidden, entry) = self.hidden(tape, tokens)?;
        let logits = match self.head {
            HeadWeights::Embedding(Pooling::Mean) => tape.mean_steps(hidden, Some(&tokens.lengths))?,
            HeadWeights::Embedding(Pooling::First) => first(tape, hidden)?,
            HeadWeights::Classifier { dense, out } => {
                let x = first(tape, hidden)?;
                let x = tape.linear(x, dense.0, dense.1, Activation::Tanh)?;
                tape.linear(x, out.0, out.1, Activation::None)?
            }
            HeadWeights::Tokens { out } => tape.linear(hidden, out.0, out.1, Activation::None)?,
        };
        Ok(Forward { logits, entry })
    }

    /// The last layer's rows `[B, T, C]`, and the embedded words.
    pub fn hidden(&self, tape: &mut Tape<'_>, tokens: &Tokens) -> Result<(Var, Var), NnError> {
        let Tokens { n, time, ids, lengths, second, .. } = tokens;
        let positions = self.numbers.get(..*time).ok_or_else(|| {
            let (got, context) = (format!("{time} tokens"), self.context());
            NnError::Shape { op: "encoder", what: "input", got, want: format!("at most {context}") }
        })?;
        let x = tape.embedding(self.word, ids, &[*n, *time])?;
        let entry = tape.watch_entry(x);
        let mut x = tape.add_positions(entry, self.position, positions)?;
        if let Some(table) = self.token_type {
            // RoBERTa has one type: its pairs are told apart by their separators alone.
            let pairs = self.config.type_vocab_size > 1;
            let types: Vec<u32> = (0..n * time)
                .map(|i| u32::from(pairs && second.get(i / time).is_some_and(|&s| (i % time) as u32 >= s)))
                .collect();
            let types = tape.embedding(table, &types, &[*n, *time])?;
            x = tape.add(x, types)?;
        }
        x = self.norm(tape, x, self.norm)?;
        // Serving: each thread takes some texts through a layer, whose values stay in its cache.
        let per_part = tape.examples_a_part(x);
        for (i, layer) in self.layers.iter().enumerate() {
            x = match per_part {
                Some(n) => {
                    tape.in_parts(x, n, |tape, x, texts| self.layer(tape, layer, x, &lengths[texts]))?
                }
                None => self.layer(tape, layer, x, lengths)?,
            };
            tape.mark(x, || format!("encoder.layer.{i}"));
        }
        Ok((x, entry))
    }

    /// One layer's rows from those before it.
    fn layer(&self, tape: &mut Tape<'_>, layer: &Layer, x: Var, lengths: &[u32]) -> Result<Var, NnError> {
        let options = AttentionOptions {
            key_lens: Some(lengths),
            may_round: tape.params().rounds_activations(layer.qkv[0].0),
            ..AttentionOptions::full(self.config.num_attention_heads)
        };
        let qkv = tape.linear_joined(x, &layer.qkv)?;
        let heads = tape.self_attention(qkv, options)?;
        tape.release(qkv);
        let (w, b) = layer.attention_output;
        let sum = tape.linear_residual(heads, w, b, Activation::None, Some(x))?;
        tape.release(heads);
        tape.release(x);
        let x = self.norm(tape, sum, layer.attention_norm)?;
        tape.release(sum);
        let (w, b) = layer.intermediate;
        let inner = tape.linear(x, w, b, self.config.activation)?;
        let (w, b) = layer.output;
        let sum = tape.linear_residual(inner, w, b, Activation::None, Some(x))?;
        tape.release(inner);
        tape.release(x);
        let y = self.norm(tape, sum, layer.output_norm)?;
        tape.release(sum);
        Ok(y)
    }

    fn norm(&self, tape: &mut Tape<'_>, x: Var, Norm(weight, bias): Norm) -> Result<Var, NnError> {
        tape.layer_norm(x, weight, Some(bias), self.config.layer_norm_eps)
    }

    /// Matrices with how often the longest text multiplies by each, and attention's own products.
    pub(crate) fn products(&self) -> (Vec<(ParamId, usize)>, u64) {
        let time = self.context();
        let mut all = Vec::new();
        for layer in &self.layers {
            let parts = layer.qkv.iter().chain([&layer.attention_output, &layer.intermediate, &layer.output]);
            all.extend(parts.map(|&(weight, _)| (weight, time)));
        }
        match self.head {
            HeadWeights::Embedding(_) => {}
            HeadWeights::Classifier { dense, out } => all.extend([(dense.0, 1), (out.0, 1)]),
            HeadWeights::Tokens { out } => all.push((out.0, time)),
        }
        (all, (2 * self.config.hidden_size * time * time * self.layers.len()) as u64)
    }
}

/// The first step of each row.
fn first(tape: &mut Tape<'_>, hidden: Var) -> Result<Var, NnError> {
    tape.select_step(hidden, Step::First)
}
