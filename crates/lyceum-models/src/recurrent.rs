//! RNN, LSTM and GRU: a stack of layers, each in one or both directions, and a linear head.
//!
//! ```text
//! last                            step, next                      sequence to sequence
//! tokens or rows → rnn → output   tokens or rows → rnn → output   source → encoder → last state
//!            last state ↑               every step ↑                → repeat → decoder → output
//! ```
//! Parameters: `embedding.weight` (tokens, unless one-hot), `rnn.weight_ih_l{i}`, `rnn.weight_hh_l{i}`,
//! `rnn.bias_ih_l{i}`, `rnn.bias_hh_l{i}`, the same with `_reverse`, `output.weight`, `output.bias`; in a
//! sequence-to-sequence model `encoder.…` and `decoder.…` stand for `rnn.…`. They are PyTorch's names and
//! starts. `last` reads the top layer's final states: forward at the last valid step, backward at the first.
//!
//! The decoder of a sequence-to-sequence model reads the encoder's last state at every step and never the
//! target: one pass gives all steps, and of the target only the number of steps is used.
//!
//! This file does not know losses or text. [`Model::extend`] is how a language model is served: new tokens
//! after a [`RecurrentState`], with the bits of the whole sequence.

use crate::batch::{Input, Tokens};
use crate::layers::{Builder, Linear};
use crate::model::{Arch, Forward, InputShape, Model, ModelError, ModelShape, OutputShape};
use crate::model::{dense_entry, unsuited, wrong_input};
use lyceum_kernels::scratch;
use lyceum_nn::ops::recurrent::{Cell, Direction, RecurrentOutput, RecurrentRun, RecurrentWeights};
use lyceum_nn::ops::select_step::Step;
use lyceum_nn::{Activation, Init, NnError, ParamId, Recording, Shape, Tape, Var};
use lyceum_types::spec::{RecurrentHead, RecurrentSpec};

#[derive(Clone, Debug)]
pub(crate) struct Recurrent {
    entry: Entry,
    /// The encoder where there is a decoder.
    rnn: Stack,
    decoder: Option<Stack>,
    output: Linear,
    reads: Reads,
}

/// How the input becomes rows of numbers.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Dense,
    Embedding(ParamId),
    OneHot { vocabulary: usize },
}

/// Which states the output layer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Last,
    Every,
}

impl Recurrent {
    pub(crate) fn new(
        b: &mut Builder<'_>,
        cell: Cell,
        spec: &RecurrentSpec,
        shape: &ModelShape,
    ) -> Result<Self, ModelError> {
        let family = match cell {
            Cell::RnnTanh | Cell::RnnRelu => "rnn",
            Cell::Lstm => "lstm",
            Cell::Gru => "gru",
        };
        let reads = reads(family, spec, shape)?;
        let (entry, inputs) = match shape.input {
            InputShape::Series { channels, .. } => (Entry::Dense, channels),
            InputShape::Image { shape: [1, _, width] } => (Entry::Dense, width),
            InputShape::Image { .. } => {
                return Err(unsuited(family, "images of several channels", "use family = \"cnn\""));
            }
            InputShape::Features { .. } => {
                let fix = "say input = { type = \"series\", channels = 1 } or use family = \"mlp\"";
                return Err(unsuited(family, "a table", fix));
            }
            InputShape::Tokens { vocabulary, .. } => tokens_entry(b, spec, vocabulary),
            InputShape::Pair { vocabulary, .. } => tokens_entry(b, spec, vocabulary),
        };
        let states = spec.hidden_size * if spec.bidirectional { 2 } else { 1 };
        let (rnn, decoder, width) = if matches!(shape.input, InputShape::Pair { .. }) {
            let encoder = Stack::new(b, "encoder", cell, inputs, spec);
            let one_way = RecurrentSpec { bidirectional: false, ..spec.clone() };
            let decoder = Stack::new(b, "decoder", cell, states, &one_way);
            (encoder, Some(decoder), spec.hidden_size)
        } else {
            (Stack::new(b, "rnn", cell, inputs, spec), None, states)
        };
        let output = Linear::new(b, "output", width, shape.output.width());
        Ok(Recurrent { entry, rnn, decoder, output, reads })
    }

    /// Every layer in every direction.
    pub(crate) fn layers(&self) -> Vec<(Cell, RecurrentWeights)> {
        let stacks = [Some(&self.rnn), self.decoder.as_ref()].into_iter().flatten();
        let directions = |layer: &Layer| [Some(layer.forward), layer.reverse].into_iter().flatten();
        stacks
            .flat_map(|stack| stack.layers.iter().flat_map(directions).map(|weights| (stack.cell, weights)))
            .collect()
    }

    /// Matrices, and how often an answer to the longest input multiplies by each.
    pub(crate) fn products(&self, input: &InputShape) -> Vec<(ParamId, usize)> {
        let (steps, answered) = match *input {
            InputShape::Series { steps, .. } => (steps, steps),
            InputShape::Image { shape: [_, height, _] } => (height, height),
            InputShape::Tokens { time, .. } => (time, time),
            InputShape::Pair { source_time, target_time, .. } => (source_time, target_time),
            InputShape::Features { .. } => (1, 1),
        };
        let of = |stack: &Stack, times: usize| {
            let both = |layer: &Layer| [Some(layer.forward), layer.reverse].into_iter().flatten();
            let pair = move |w: RecurrentWeights| [(w.w_ih, times), (w.w_hh, times)];
            stack.layers.iter().flat_map(both).flat_map(pair).collect::<Vec<_>>()
        };
        let mut all = of(&self.rnn, steps);
        all.extend(self.decoder.iter().flat_map(|decoder| of(decoder, answered)));
        let one_answer = self.decoder.is_none() && self.reads == Reads::Last;
        all.push((self.output.weight, if one_answer { 1 } else { answered }));
        all
    }

    /// `[n, outputs]` for `last`, else `[n · time, outputs]`.
    pub(crate) fn forward(&self, tape: &mut Tape<'_>, input: &Input) -> Result<Forward, NnError> {
        let (entry, x, lengths) = match (input, &self.decoder) {
            (Input::Pair { source, .. }, Some(_)) | (Input::Tokens(source), None) => {
                let entry = self.tokens(tape, source)?;
                (entry, entry, lengths(source))
            }
            (Input::Dense { .. }, None) if matches!(self.entry, Entry::Dense) => {
                let entry = dense_entry(tape, input)?;
                let dims = tape.shape(entry);
                let x = match *dims.dims() {
                    [n, 1, height, width] => tape.reshape(entry, &[n, height, width])?,
                    _ => entry,
                };
                (entry, x, None)
            }
            _ => return Err(wrong_input("recurrent", "what the model was built for")),
        };
        let top = self.rnn.forward(tape, x, lengths, None)?;
        let states = match (&self.decoder, input) {
            (Some(decoder), Input::Pair { target, .. }) => {
                let last = top.last(tape, lengths)?;
                let repeated = tape.repeat_steps(last, target.time)?;
                decoder.forward(tape, repeated, None, None)?.every(tape)?
            }
            _ if self.reads == Reads::Last => top.last(tape, lengths)?,
            _ => top.every(tape)?,
        };
        Ok(Forward { logits: self.answer(tape, states)?, entry })
    }

    /// `[…, states]` to `[rows, outputs]`.
    fn answer(&self, tape: &mut Tape<'_>, states: Var) -> Result<Var, NnError> {
        let shape = tape.shape(states);
        let rows =
            if shape.rank() == 3 { tape.reshape(states, &[shape.rows(), shape.last()])? } else { states };
        self.output.forward(tape, rows, Activation::None)
    }

    /// Tokens as rows of numbers `[n, time, …]`.
    fn tokens(&self, tape: &mut Tape<'_>, tokens: &Tokens) -> Result<Var, NnError> {
        let dims = [tokens.n, tokens.time];
        let var = match self.entry {
            Entry::Embedding(table) => tape.embedding(table, &tokens.ids, &dims)?,
            Entry::OneHot { vocabulary } => tape.one_hot(&tokens.ids, &dims, vocabulary)?,
            Entry::Dense => return Err(wrong_input("recurrent", "rows of numbers")),
        };
        Ok(tape.watch_entry(var))
    }
}

/// Whether the head reads one state or all, if that fits what comes in and out.
fn reads(family: &'static str, spec: &RecurrentSpec, shape: &ModelShape) -> Result<Reads, ModelError> {
    let each_step = matches!(shape.output, OutputShape::Tokens { .. } | OutputShape::StepClasses { .. });
    match (spec.head, each_step) {
        (_, true) if matches!(shape.input, InputShape::Pair { .. }) => Ok(Reads::Every),
        (RecurrentHead::Last, false) => Ok(Reads::Last),
        (RecurrentHead::Last, true) => Err(unsuited(
            family,
            "an answer at each step from head = \"last\"",
            "use head = \"step\" or \"next\"",
        )),
        (_, false) => Err(unsuited(family, "one answer an example from this head", "use head = \"last\"")),
        (RecurrentHead::Step, true) => Ok(Reads::Every),
        (RecurrentHead::Next, true) if spec.bidirectional => {
            Err(unsuited(family, "the next token from both directions", "remove bidirectional"))
        }
        (RecurrentHead::Next, true) => Ok(Reads::Every),
    }
}

/// `torch.nn.Embedding`, N(0, 1), or none.
fn tokens_entry(b: &mut Builder<'_>, spec: &RecurrentSpec, vocabulary: usize) -> (Entry, usize) {
    if spec.one_hot {
        return (Entry::OneHot { vocabulary }, vocabulary);
    }
    let width = spec.embedding_dim.unwrap_or(spec.hidden_size);
    (Entry::Embedding(b.weight("embedding.weight", &[vocabulary, width], Init::Normal(1.0))), width)
}

/// The valid steps of each row, where they are not all.
fn lengths(tokens: &Tokens) -> Option<&[u32]> {
    let full = tokens.lengths.iter().all(|&l| l as usize == tokens.time);
    (!full).then_some(&tokens.lengths[..])
}

/// Layers on top of each other, as `torch.nn.LSTM` and its siblings are.
#[derive(Clone, Debug)]
struct Stack {
    cell: Cell,
    hidden: usize,
    layers: Vec<Layer>,
    dropout: f64,
    bptt: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    forward: RecurrentWeights,
    reverse: Option<RecurrentWeights>,
}

/// The top layer's states in each direction.
struct Top {
    forward: Var,
    reverse: Option<Var>,
}

impl Stack {
    fn new(b: &mut Builder<'_>, prefix: &str, cell: Cell, inputs: usize, spec: &RecurrentSpec) -> Self {
        let hidden = spec.hidden_size;
        let (rows, init) = (cell.gates() * hidden, Init::Uniform(1.0 / (hidden as f64).sqrt()));
        let mut layers = Vec::new();
        let mut width = inputs;
        for i in 0..spec.num_layers {
            let mut direction = |suffix: &str| RecurrentWeights {
                w_ih: b.weight(&format!("{prefix}.weight_ih_l{i}{suffix}"), &[rows, width], init),
                w_hh: b.weight(&format!("{prefix}.weight_hh_l{i}{suffix}"), &[rows, hidden], init),
                b_ih: Some(b.weight(&format!("{prefix}.bias_ih_l{i}{suffix}"), &[rows], init)),
                b_hh: Some(b.weight(&format!("{prefix}.bias_hh_l{i}{suffix}"), &[rows], init)),
            };
            let forward = direction("");
            let reverse = spec.bidirectional.then(|| direction("_reverse"));
            width = hidden * if reverse.is_some() { 2 } else { 1 };
            layers.push(Layer { forward, reverse });
        }
        Stack { cell, hidden, layers, dropout: spec.dropout, bptt: spec.bptt }
    }

    /// `x [n, time, inputs]` through all layers, from `states` (which are carried on) or from zeros.
    fn forward(
        &self,
        tape: &mut Tape<'_>,
        mut x: Var,
        lengths: Option<&[u32]>,
        mut states: Option<&mut [RecurrentState]>,
    ) -> Result<Top, NnError> {
        let mut top = Top { forward: x, reverse: None };
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                let joined = top.every(tape)?;
                x = tape.dropout(joined, self.dropout)?;
            }
            // Truncation saves work in training; an explanation follows every step.
            let bptt = if tape.recording() == Recording::Inputs { None } else { self.bptt };
            let cell = self.cell;
            let [h0, c0] = match states.as_deref() {
                Some(states) => self.first_state(tape, states, i)?,
                None => [None, None],
            };
            let run = RecurrentRun { cell, direction: Direction::Forward, lengths, bptt, h0, c0 };
            let forward = tape.recurrent(x, layer.forward, run)?;
            if let Some(states) = states.as_deref_mut() {
                self.last_state(tape, states, i, forward);
            }
            let mut backwards = |weights| {
                let run =
                    RecurrentRun { cell, direction: Direction::Reverse, lengths, bptt, h0: None, c0: None };
                tape.recurrent(x, weights, run).map(|o| o.out)
            };
            top = Top { forward: forward.out, reverse: layer.reverse.map(&mut backwards).transpose()? };
            tape.mark(top.forward, || format!("rnn.{i}"));
        }
        Ok(top)
    }

    /// `h` and `c` of one layer `[n, H]`, gathered from each sequence's state.
    fn first_state(
        &self,
        tape: &mut Tape<'_>,
        states: &[RecurrentState],
        layer: usize,
    ) -> Result<[Option<Var>; 2], NnError> {
        let h = self.hidden;
        scratch::with_f32(states.len() * h, |rows| {
            let mut part = |tape: &mut Tape<'_>, which: usize| {
                for (row, state) in rows.chunks_exact_mut(h).zip(states) {
                    row.copy_from_slice(&state.numbers[(layer * self.parts() + which) * h..][..h]);
                }
                tape.input(&[states.len(), h], rows)
            };
            let first = part(tape, 0)?;
            let memory = if self.cell.has_memory() { Some(part(tape, 1)?) } else { None };
            Ok([Some(first), memory])
        })
    }

    fn last_state(
        &self,
        tape: &Tape<'_>,
        states: &mut [RecurrentState],
        layer: usize,
        output: RecurrentOutput,
    ) {
        let h = self.hidden;
        for (which, var) in [Some(output.h_n), output.c_n].into_iter().flatten().enumerate() {
            for (row, state) in tape.value(var).chunks_exact(h).zip(&mut *states) {
                state.numbers[(layer * self.parts() + which) * h..][..h].copy_from_slice(row);
            }
        }
    }

    /// Vectors of a layer's state.
    fn parts(&self) -> usize {
        if self.cell.has_memory() { 2 } else { 1 }
    }
}

impl Top {
    /// Every step `[n, time, states]`.
    fn every(&self, tape: &mut Tape<'_>) -> Result<Var, NnError> {
        match self.reverse {
            Some(reverse) => tape.concat_last(self.forward, reverse),
            None => Ok(self.forward),
        }
    }

    /// Each direction's state after its last step `[n, states]`.
    fn last(&self, tape: &mut Tape<'_>, lengths: Option<&[u32]>) -> Result<Var, NnError> {
        let forward = tape.select_step(self.forward, Step::Last(lengths))?;
        let Some(reverse) = self.reverse else { return Ok(forward) };
        let reverse = tape.select_step(reverse, Step::First)?;
        tape.concat_last(forward, reverse)
    }
}

/// What a language model has read of one sequence so far: its size does not depend on how much that was.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurrentState {
    /// `h`, then the LSTM's `c`, layer by layer.
    numbers: Vec<f32>,
}

/// Recurrent language models token by token.
impl Model {
    /// The state before the first token; None where the model is not a recurrent one that answers at each
    /// step what it has read so far.
    pub fn recurrent_state(&self) -> Option<RecurrentState> {
        let rnn = &self.reads_one_way()?.rnn;
        Some(RecurrentState { numbers: vec![0.0; rnn.layers.len() * rnn.parts() * rnn.hidden] })
    }

    /// Reads new tokens of several sequences, each after its own state, which moves on by its row's length.
    /// Gives the logits `[n · time, vocabulary]`, bit by bit those of the whole sequences at once.
    ///
    /// # Errors
    /// When there is not one state a row, a token is outside the vocabulary, or the model has no such state.
    pub fn extend(
        &self,
        tape: &mut Tape<'_>,
        tokens: &Tokens,
        states: &mut [RecurrentState],
    ) -> Result<Var, NnError> {
        let Some(recurrent) = self.reads_one_way() else {
            return Err(wrong_input("extend", "a recurrent model that reads tokens one way"));
        };
        let rnn = &recurrent.rnn;
        let numbers = rnn.layers.len() * rnn.parts() * rnn.hidden;
        if states.len() != tokens.n || states.iter().any(|s| s.numbers.len() != numbers) {
            let want = format!("{} of this model, one a row", tokens.n);
            return Err(NnError::shape("extend", "states", Shape::new(&[states.len()]), want));
        }
        let x = recurrent.tokens(tape, tokens)?;
        let every = rnn.forward(tape, x, lengths(tokens), Some(states))?.every(tape)?;
        recurrent.answer(tape, every)
    }

    fn reads_one_way(&self) -> Option<&Recurrent> {
        let Arch::Recurrent(recurrent) = &self.arch else { return None };
        let one_way = recurrent.rnn.layers.iter().all(|l| l.reverse.is_none());
        let tokens = !matches!(recurrent.entry, Entry::Dense) && recurrent.decoder.is_none();
        (tokens && one_way && recurrent.reads == Reads::Every).then_some(recurrent)
    }
}

#[cfg(test)]
mod tests;
