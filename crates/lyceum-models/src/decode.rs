//! Generation token by token: each sequence has a state that remembers what it has seen, and one pass gives
//! the next tokens of many sequences to the model. What attention remembers lies in the pages of a pool that
//! the caller holds; which pages are whose is the caller's to decide.
//!
//! A row's logits have the bits that a pass over the whole sequence would give it (as rows of the same classes), whatever else
//! is in the pass.

use crate::batch::Tokens;
use crate::causal_lm::CausalLm;
use crate::causal_lm::adapter::{Adapter, Beside};
use crate::causal_lm::paged::PagedRows;
use crate::model::{Arch, InputShape, Model, wrong_input};
use crate::recurrent::RecurrentState;
use crate::transformer::{Part, Transformer};
use lyceum_nn::ops::attention::Mask;
use lyceum_nn::ops::cached_attention::{CachedOptions, KvPool, KvShape, KvStorage, Span};

pub use lyceum_nn::RowClass;
pub use lyceum_nn::ops::cached_attention::PAGE;
use lyceum_nn::{Examples, NnError, Recording, RowClasses, Tape, Var, Workspace};
use lyceum_types::spec::TransformerVariant;

/// What a sequence remembers beside its pages.
#[derive(Debug)]
pub struct DecodeState {
    memory: Memory,
    n_seen: usize,
}

impl DecodeState {
    /// Positions that the model has seen.
    pub fn n_seen(&self) -> usize {
        self.n_seen
    }

    /// Goes on from position `n`: the pages hold what came before, written for this sequence or for another
    /// that began with the same tokens.
    ///
    /// # Panics
    /// When the model is recurrent, whose state cannot go back.
    pub fn go_on_from(&mut self, n: usize) {
        assert!(!matches!(self.memory, Memory::Recurrent(_)), "a recurrent state has no positions: bug");
        self.n_seen = n;
    }
}

#[derive(Debug)]
enum Memory {
    Paged {
        /// Per layer, keys and values of the source `[S, 2·C]`.
        source: Vec<Vec<f32>>,
    },
    Recurrent(RecurrentState),
}

/// Which rows' logits are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rows {
    None,
    Last,
    All,
}

/// The next tokens of one sequence.
pub struct DecodeRow<'a> {
    pub state: &'a mut DecodeState,
    /// At least one.
    pub tokens: &'a [u32],
    pub rows: Rows,
    /// Pages of the pool with room for all positions, these among them; empty for models that need none.
    pub pages: &'a [u32],
    /// What is added to the model's layers for these tokens; None: nothing.
    pub adapter: Option<&'a Adapter>,
    /// Tokens that are read, or that the sequence made itself one by one: a language model on weights in blocks may multiply the
    /// latter otherwise ([`Model::tells_row_classes_apart`]).
    pub class: RowClass,
}

impl DecodeRow<'_> {
    /// Rows of logits that this sequence gets.
    pub fn n_logits(&self) -> usize {
        match self.rows {
            Rows::None => 0,
            Rows::Last => 1,
            Rows::All => self.tokens.len(),
        }
    }
}

impl Model {
    /// Whether tokens get other bits by the class of their rows, on this processor.
    pub fn tells_row_classes_apart(&self) -> bool {
        matches!(self.arch, Arch::CausalLm(_)) && self.params.tells_row_classes_apart()
    }

    /// The most tokens that a sequence can have; None where there is no limit.
    pub fn context(&self) -> Option<usize> {
        match &self.arch {
            Arch::Transformer(t) => Some(t.spec.context),
            Arch::CausalLm(m) => Some(m.config.max_position_embeddings),
            _ => None,
        }
    }

    /// Whether one pass says every step of a target (an encoder–decoder that never reads its own answer).
    pub fn answers_at_once(&self) -> bool {
        matches!((&self.arch, &self.shape.input), (Arch::Recurrent(_), InputShape::Pair { .. }))
    }

    /// A pool of `n_pages` pages for this model's sequences; None where it keeps nothing in pages.
    pub fn kv_shape(&self, n_pages: usize, storage: KvStorage) -> Option<KvShape> {
        match &self.arch {
            Arch::Transformer(t) => t.decoder.as_ref().map(|stack| KvShape {
                n_layers: stack.layers.len(),
                n_pages,
                kv_heads: t.spec.nhead,
                head_size: t.spec.d_model / t.spec.nhead,
                storage,
            }),
            Arch::CausalLm(m) => Some(KvShape {
                n_layers: m.config.layers.len(),
                n_pages,
                kv_heads: m.config.num_key_value_heads,
                head_size: m.config.head_dim,
                storage,
            }),
            _ => None,
        }
    }

    /// The state of a sequence that has seen nothing (but its source).
    pub fn start(&self, ws: &mut Workspace, source: Option<&[u32]>) -> Result<DecodeState, NnError> {
        let memory = match (&self.arch, source) {
            (Arch::Transformer(t), None) if t.spec.variant == TransformerVariant::Decoder => {
                Memory::Paged { source: Vec::new() }
            }
            (Arch::CausalLm(_), None) => Memory::Paged { source: Vec::new() },
            (Arch::Transformer(t), Some(source)) if t.spec.variant == TransformerVariant::EncoderDecoder => {
                Memory::Paged { source: self.read_source(ws, t, source)? }
            }
            (Arch::Transformer(t), None) if t.spec.variant == TransformerVariant::EncoderDecoder => {
                return Err(wrong_input("generate", "a source to translate"));
            }
            _ => match (self.recurrent_state(), source) {
                (Some(state), None) => Memory::Recurrent(state),
                _ => return Err(wrong_input("generate", "a model of language")),
            },
        };
        Ok(DecodeState { memory, n_seen: 0 })
    }

    /// One pass over the next tokens of every sequence; the wanted rows of logits `[Σ rows, V]`, in order.
    /// `pool` is of the shape that [`kv_shape`](Self::kv_shape) says, None where it says none.
    pub fn decode(
        &self,
        ws: &mut Workspace,
        pool: Option<&mut KvPool>,
        rows: &mut [DecodeRow<'_>],
    ) -> Result<Vec<f32>, NnError> {
        if !matches!(self.arch, Arch::CausalLm(_)) && rows.iter().any(|row| row.adapter.is_some()) {
            return Err(wrong_input("lora", "a language model"));
        }
        match (&self.arch, pool) {
            (Arch::Transformer(t), Some(pool)) => self.decode_transformer(ws, t, pool, rows),
            (Arch::CausalLm(m), Some(pool)) => self.decode_causal_lm(ws, m, pool, rows),
            (Arch::Recurrent(_), None) => self.decode_recurrent(ws, rows),
            (Arch::Transformer(_) | Arch::CausalLm(_) | Arch::Recurrent(_), _) => {
                Err(wrong_input("generate", "a pool of the model's own shape"))
            }
            _ => Err(wrong_input("generate", "a model of language")),
        }
    }

    /// Sequences with as many new tokens run as one batch; a step of generation is one such.
    fn decode_recurrent(&self, ws: &mut Workspace, rows: &mut [DecodeRow<'_>]) -> Result<Vec<f32>, NnError> {
        let width = self.shape.output.width();
        let mut answers: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
        let mut lengths: Vec<usize> = rows.iter().map(|r| r.tokens.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        for time in lengths {
            let group: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].tokens.len() == time).collect();
            let mut states = Vec::with_capacity(group.len());
            let mut tokens = Tokens { n: group.len(), time, ..Tokens::default() };
            for &i in &group {
                let Memory::Recurrent(state) = &rows[i].state.memory else { return Err(foreign()) };
                states.push(state.clone());
                tokens.ids.extend_from_slice(rows[i].tokens);
                tokens.lengths.push(time as u32);
            }
            let mut tape = Tape::new(ws, &self.params, Recording::Off, Examples::Even(group.len()));
            let logits = self.extend(&mut tape, &tokens, &mut states)?;
            let logits = tape.value(logits);
            for ((&i, state), logits) in group.iter().zip(states).zip(logits.chunks_exact(time * width)) {
                let n = rows[i].n_logits();
                answers[i] = logits[(time - n) * width..].to_vec();
                rows[i].state.memory = Memory::Recurrent(state);
                rows[i].state.n_seen += time;
            }
        }
        Ok(answers.concat())
    }

    fn read_source(
        &self,
        ws: &mut Workspace,
        t: &Transformer,
        source: &[u32],
    ) -> Result<Vec<Vec<f32>>, NnError> {
        let mut tape = Tape::new(ws, &self.params, Recording::Off, Examples::Even(1));
        let (memory, _) = t.encode(&mut tape, &Tokens::single(source))?;
        let crossings = t.decoder().layers.iter().filter_map(|layer| layer.cross_attn.as_ref());
        crossings
            .map(|(attn, _)| t.keys_values(&mut tape, attn, memory).map(|kv| tape.value(kv).to_vec()))
            .collect()
    }

    fn decode_causal_lm(
        &self,
        ws: &mut Workspace,
        m: &CausalLm,
        pool: &mut KvPool,
        rows: &mut [DecodeRow<'_>],
    ) -> Result<Vec<f32>, NnError> {
        let apart = self.tells_row_classes_apart();
        let pass = Pass::of(rows, m.config.max_position_embeddings, apart)?;
        let (wanted, wanted_spans) = wanted_of(rows, &pass);
        let mut beside = Beside::default();
        for (row, span) in rows.iter().zip(&pass.spans) {
            let Some(adapter) = row.adapter else { continue };
            adapter.fits(self)?;
            beside.add(adapter, span.first_row as u32..(span.first_row + span.n_rows) as u32);
        }
        let Beside { params, mut uses, .. } = beside;
        uses.extend(m.own_use(pass.ids.len()));
        let tape = Tape::new(ws, &self.params, Recording::Off, Examples::Even(1));
        let mut tape = tape.with_beside(&params);
        if apart {
            let mut classes = RowClasses::default();
            rows.iter().for_each(|row| classes.push(row.tokens.len(), row.class));
            tape.set_row_classes(classes);
        }
        let x = m.embed(&mut tape, &pass.ids, &[1, pass.ids.len()])?;
        let paged = PagedRows {
            positions: &pass.positions,
            spans: &pass.spans,
            wanted: &wanted,
            wanted_spans: &wanted_spans,
        };
        let logits = match m.run_paged(&mut tape, x, &paged, &uses, pool)? {
            None => Vec::new(),
            Some(x) => {
                let x = m.last_norm(&mut tape, x)?;
                let logits = m.head(&mut tape, x)?;
                tape.into_value(logits)
            }
        };
        for row in rows {
            row.state.n_seen += row.tokens.len();
        }
        Ok(logits)
    }

    fn decode_transformer(
        &self,
        ws: &mut Workspace,
        t: &Transformer,
        pool: &mut KvPool,
        rows: &mut [DecodeRow<'_>],
    ) -> Result<Vec<f32>, NnError> {
        let mut tape = Tape::new(ws, &self.params, Recording::Off, Examples::Even(1));
        let Pass { ids, positions, spans } = Pass::of(rows, t.spec.context, false)?;
        let x = t.look_up(&mut tape, &ids, &[1, ids.len()])?;
        let mut x = t.place_at(&mut tape, x, &positions)?;
        let stack = t.decoder();
        for (i, layer) in stack.layers.iter().enumerate() {
            x = t.layer(&mut tape, layer, x, |tape, part, y| match part {
                Part::Own => {
                    let qkv = t.queries_keys_values(tape, &layer.self_attn, y, &positions)?;
                    tape.cached_attention(qkv, CachedOptions::causal(t.spec.nhead), pool, i, &spans)
                }
                Part::Memory(attn) => {
                    let q = t.query(tape, attn, y)?;
                    each(tape, rows, q, |tape, row, q| {
                        let Memory::Paged { source } = &row.state.memory else {
                            return Err(foreign());
                        };
                        let width = 2 * t.spec.d_model;
                        let kv = tape.input(&[1, source[i].len() / width, width], &source[i])?;
                        tape.cross_attention(q, kv, t.options(Mask::Full, None))
                    })
                }
            })?;
        }
        let logits = match rows.iter().any(|row| row.n_logits() > 0) {
            false => Vec::new(),
            true => {
                let x = t.last_norm(&mut tape, stack, x)?;
                let wanted = wanted_rows(&mut tape, rows, x)?;
                let logits = t.head(&mut tape, wanted)?;
                tape.into_value(logits)
            }
        };
        for row in rows {
            row.state.n_seen += row.tokens.len();
        }
        Ok(logits)
    }
}

/// A state goes back to the model that made it.
fn foreign() -> NnError {
    wrong_input("generate", "a state that this model made")
}

/// The rows of a pass as layers want them: all sequences side by side.
pub(crate) struct Pass<'a> {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub spans: Vec<Span<'a>>,
}

impl<'a> Pass<'a> {
    /// `apart`: whether their classes are told apart.
    ///
    /// # Errors
    /// When a sequence would outgrow `context`, or has a state of another kind of model.
    pub fn of(rows: &[DecodeRow<'a>], context: usize, apart: bool) -> Result<Pass<'a>, NnError> {
        let mut pass = Pass { ids: Vec::new(), positions: Vec::new(), spans: Vec::new() };
        for row in rows {
            let Memory::Paged { .. } = row.state.memory else { return Err(foreign()) };
            let (first_position, n_rows) = (row.state.n_seen, row.tokens.len());
            if first_position + n_rows > context {
                let got = format!("{} positions", first_position + n_rows);
                let want = format!("at most the context of {context}");
                return Err(NnError::Shape { op: "generate", what: "sequence", got, want });
            }
            let class = if apart { row.class } else { RowClass::Step };
            let (first_row, pages) = (pass.ids.len(), row.pages);
            pass.spans.push(Span { first_row, n_rows, first_position, pages, class });
            pass.ids.extend_from_slice(row.tokens);
            pass.positions.extend(first_position as u32..(first_position + n_rows) as u32);
        }
        Ok(pass)
    }
}

/// Which rows' logits are wanted, and these rows as spans of their own.
fn wanted_of<'a>(rows: &[DecodeRow<'a>], pass: &Pass<'a>) -> (Vec<u32>, Vec<Span<'a>>) {
    let (mut wanted, mut spans) = (Vec::new(), Vec::new());
    for (row, span) in rows.iter().zip(&pass.spans) {
        let (n_rows, before) = (row.n_logits(), span.n_rows - row.n_logits());
        if n_rows > 0 {
            let first_position = span.first_position + before;
            spans.push(Span { first_row: wanted.len(), n_rows, first_position, ..*span });
        }
        wanted.extend((span.first_row + before) as u32..(span.first_row + span.n_rows) as u32);
    }
    (wanted, spans)
}

/// Runs `f` on the rows of each sequence of `x` `[1, R, W]` and puts the answers side by side again.
fn each(
    tape: &mut Tape<'_>,
    rows: &mut [DecodeRow<'_>],
    x: Var,
    mut f: impl FnMut(&mut Tape<'_>, &mut DecodeRow<'_>, Var) -> Result<Var, NnError>,
) -> Result<Var, NnError> {
    let width = tape.shape(x).last();
    let (mut all, mut start) = (Vec::new(), 0);
    for row in rows.iter_mut() {
        let n = row.tokens.len();
        let part = tape.value(x)[start * width..(start + n) * width].to_vec();
        start += n;
        let part = tape.input(&[1, n, width], &part)?;
        let answer = f(tape, row, part)?;
        all.extend_from_slice(tape.value(answer));
    }
    tape.input(&[1, start, all.len() / start.max(1)], &all)
}

/// The rows of `x` `[1, R, C]` whose logits are wanted.
fn wanted_rows(tape: &mut Tape<'_>, rows: &[DecodeRow<'_>], x: Var) -> Result<Var, NnError> {
    let width = tape.shape(x).last();
    let (mut all, mut start) = (Vec::new(), 0);
    for row in rows {
        let end = start + row.tokens.len();
        let first = end - row.n_logits();
        all.extend_from_slice(&tape.value(x)[first * width..end * width]);
        start = end;
    }
    tape.input(&[1, all.len() / width, width], &all)
}
