//! A language model's pass in sections: the embedding, each layer, the head; forward, and back from what the next section
//! sent. Between two sections there are numbers and no tape, so that a device which also serves is held for one layer at a
//! time, and memory is that of one layer and of the numbers between them: the way back computes its layer anew.
//!
//! Legend: n examples of T tokens each, C `hidden_size`, V vocabulary.

use super::CausalLm;
use super::adapter::{Adapter, Beside};
use crate::model::{Arch, Model, wrong_input};
use lyceum_nn::ops::attention::AttentionOptions;
use lyceum_nn::{Examples, Grads, NnError, Recording, StoredProducts, Tape, Var, Workspace};
use std::sync::Arc;

/// A model, what an adapter adds to all of its rows, and how many tokens there are of how many examples.
#[derive(Clone)]
pub struct Sections {
    model: Arc<Model>,
    adapter: Option<Arc<Adapter>>,
    n: usize,
    time: usize,
    products: StoredProducts,
}

/// What is carried back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Walk {
    /// The gradient of a number.
    Gradient,
    /// Relevance per unit of value, by the operations' rules ([`lyceum_nn::Relevance`]); of one example.
    Relevance { epsilon: f32 },
}

/// What a section sends to the one before it.
#[derive(Clone, Debug, PartialEq)]
pub struct SentOn {
    /// As many numbers as the section read.
    pub sent: Vec<f32>,
    /// Relevance that went into constants.
    pub absorbed: f64,
}

/// What comes of a way back through a layer in which something is learnt.
#[derive(Clone, Debug, PartialEq)]
pub struct LearntBack {
    /// As many numbers as the layer read.
    pub sent: Vec<f32>,
    /// Gradients of the parameters that the layer uses and that are learnt, in the model's order.
    pub weights: Vec<Vec<f32>>,
}

impl Sections {
    /// # Errors
    /// Where the model is no language model that was read from a checkpoint, reads fewer tokens, or the adapter does not
    /// fit it.
    pub fn new(
        model: Arc<Model>,
        adapter: Option<Arc<Adapter>>,
        [n, time]: [usize; 2],
    ) -> Result<Self, NnError> {
        causal(&model).and_then(|causal| causal.numbers.get(..time).ok_or_else(|| causal.too_long(time)))?;
        if let Some(adapter) = &adapter {
            adapter.fits(&model)?;
        }
        Ok(Sections { model, adapter, n, time, products: StoredProducts::Served })
    }

    /// The same for another number of examples.
    pub fn of(&self, n: usize) -> Sections {
        Sections { n, ..self.clone() }
    }

    /// The same with products of stored weights computed so.
    pub fn with_stored_products(self, products: StoredProducts) -> Sections {
        Sections { products, ..self }
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub fn n_layers(&self) -> usize {
        causal(&self.model).map_or(0, |causal| causal.layers.len())
    }

    /// What layers read in, `C`.
    pub fn width(&self) -> usize {
        causal(&self.model).map_or(0, |causal| causal.config.hidden_size)
    }

    pub fn time(&self) -> usize {
        self.time
    }

    /// Numbers that the way back through one layer holds for one token, at most: what bounds how many are asked at once.
    pub fn held_a_token(&self) -> usize {
        let Ok(causal) = causal(&self.model) else { return 0 };
        let (c, f, width) =
            (causal.config.hidden_size, causal.config.intermediate_size, causal.heads().width());
        // Values, what is saved beside them, and their gradients.
        2 * (8 * c + 6 * width + 8 * f)
    }

    /// Rows of the embedding, `[n, T, C]`, of n·T ids: what the first layer reads.
    ///
    /// # Errors
    /// An id that the vocabulary does not have.
    pub fn embed(&self, ws: &mut Workspace, ids: &[u32]) -> Result<Vec<f32>, NnError> {
        let mut tape = Tape::new(ws, &self.model.params, Recording::Off, Examples::Even(self.n));
        let x = causal(&self.model)?.embed(&mut tape, ids, &[self.n, self.time])?;
        Ok(tape.into_value(x))
    }

    /// Layer `i` of `x` `[n, T, C]`: the rows after attention, and those after the whole layer. (The first layer counts
    /// the scale of the embedding, where a family has one.)
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn layer(&self, ws: &mut Workspace, i: usize, x: &[f32]) -> Result<[Vec<f32>; 2], NnError> {
        self.on(ws, Recording::Off, |tape, causal, beside| {
            let x = tape.entry(&self.dims(), x)?;
            let (middle, y) = self.through(tape, causal, (i, x), beside)?;
            Ok([tape.value(middle).to_vec(), tape.value(y).to_vec()])
        })
    }

    /// Back through layer `i` of `x`, from what was sent to its output.
    ///
    /// # Errors
    /// Sizes that do not fit; an operation without a rule of relevance.
    pub fn layer_back(
        &self,
        ws: &mut Workspace,
        (i, x): (usize, &[f32]),
        seed: &[f32],
        walk: Walk,
    ) -> Result<SentOn, NnError> {
        self.on(ws, Recording::Inputs, |tape, causal, beside| {
            let x = tape.entry(&self.dims(), x)?;
            let (_, y) = self.through(tape, causal, (i, x), beside)?;
            back(tape, (y, x), seed, walk)
        })
    }

    /// As [`layer_back`](Self::layer_back) for a gradient, and the gradients of what is learnt in the layer.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn layer_learnt_back(
        &self,
        ws: &mut Workspace,
        (i, x): (usize, &[f32]),
        seed: &[f32],
    ) -> Result<LearntBack, NnError> {
        self.on(ws, Recording::InputsAndWeights, |tape, causal, beside| {
            let x = tape.entry(&self.dims(), x)?;
            let (_, y) = self.through(tape, causal, (i, x), beside)?;
            let mut grads = Grads::new(&self.model.params);
            tape.backward_from(y, seed, &mut grads);
            Ok(LearntBack { sent: sent_to(tape, x), weights: grads.into_written().collect() })
        })
    }

    /// Back through the head from `scale` times the summed cross-entropy of `targets`: what is sent to the rows `[targets, C]` of
    /// what the last layer gave. Rows do not depend on each other: what is sent to some is what is sent to them beside others.
    ///
    /// # Errors
    /// Sizes that do not fit; a target outside the vocabulary.
    pub fn loss_back(
        &self,
        ws: &mut Workspace,
        rows: &[f32],
        targets: &[i32],
        scale: f32,
    ) -> Result<Vec<f32>, NnError> {
        self.on(ws, Recording::Inputs, |tape, causal, _| {
            let x = tape.entry(&[targets.len(), self.width()], rows)?;
            let y = causal.last_norm(tape, x)?;
            let y = causal.head(tape, y)?;
            let loss = tape.softmax_cross_entropy(y, targets, scale)?;
            Ok(back(tape, (loss, x), &[1.0], Walk::Gradient)?.sent)
        })
    }

    /// Logits `[rows, V]` of these rows (of the n·T) of what the last layer gave.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn logits(&self, ws: &mut Workspace, x: &[f32], rows: &[u32]) -> Result<Vec<f32>, NnError> {
        self.on(ws, Recording::Off, |tape, causal, _| {
            let x = tape.entry(&self.dims(), x)?;
            let y = head(tape, causal, x, rows)?;
            Ok(tape.value(y).to_vec())
        })
    }

    /// Back through the head, from what was sent to the logits of these rows.
    ///
    /// # Errors
    /// As [`layer_back`](Self::layer_back).
    pub fn logits_back(
        &self,
        ws: &mut Workspace,
        (x, rows): (&[f32], &[u32]),
        seed: &[f32],
        walk: Walk,
    ) -> Result<SentOn, NnError> {
        self.on(ws, Recording::Inputs, |tape, causal, _| {
            let x = tape.entry(&self.dims(), x)?;
            let y = head(tape, causal, x, rows)?;
            back(tape, (y, x), seed, walk)
        })
    }

    fn dims(&self) -> [usize; 3] {
        [self.n, self.time, self.width()]
    }

    /// A tape on which the adapter lies beside the model.
    fn on<T>(
        &self,
        ws: &mut Workspace,
        recording: Recording,
        work: impl FnOnce(&mut Tape<'_>, &CausalLm, &Beside<'_>) -> Result<T, NnError>,
    ) -> Result<T, NnError> {
        let causal = causal(&self.model)?;
        let mut beside = Beside::default();
        if let Some(adapter) = &self.adapter {
            beside.add(adapter, 0..(self.n * self.time) as u32);
        }
        let tape = Tape::new(ws, &self.model.params, recording, Examples::Even(self.n));
        let mut tape = tape.with_beside(&beside.params).with_stored_products(self.products);
        work(&mut tape, causal, &beside)
    }

    fn through(
        &self,
        tape: &mut Tape<'_>,
        causal: &CausalLm,
        (i, x): (usize, Var),
        beside: &Beside<'_>,
    ) -> Result<(Var, Var), NnError> {
        let positions = &causal.numbers[..self.time];
        let x = if i == 0 { causal.scaled(tape, x)? } else { x };
        let own = Vec::from_iter(causal.own_use(self.n * self.time));
        let uses = if self.adapter.is_some() { &beside.uses } else { &own };
        let mut attend = |tape: &mut Tape<'_>, i: usize, qkv: Var| {
            tape.self_attention(qkv, AttentionOptions { key_lens: None, ..causal.options(i) })
        };
        let middle = causal.attention_half(tape, x, (i, positions, uses), &mut attend)?;
        tape.keep(middle);
        Ok((middle, causal.feedforward_half(tape, middle, i, uses)?))
    }
}

fn causal(model: &Model) -> Result<&CausalLm, NnError> {
    let Arch::CausalLm(causal) = &model.arch else {
        return Err(wrong_input("sections", "a language model that was read from a checkpoint"));
    };
    Ok(causal)
}

fn head(tape: &mut Tape<'_>, causal: &CausalLm, x: Var, rows: &[u32]) -> Result<Var, NnError> {
    let x = tape.select_rows(x, rows)?;
    let x = causal.last_norm(tape, x)?;
    causal.head(tape, x)
}

fn back(tape: &mut Tape<'_>, (y, x): (Var, Var), seed: &[f32], walk: Walk) -> Result<SentOn, NnError> {
    let absorbed = match walk {
        Walk::Gradient => {
            // Nothing is learnt: the walk frees what it has passed.
            let mut none = Grads::new(&lyceum_nn::Params::new());
            tape.backward_from(y, seed, &mut none);
            0.0
        }
        Walk::Relevance { epsilon } => tape.relevance(y, seed, x, epsilon)?.absorbed,
    };
    Ok(SentOn { sent: sent_to(tape, x), absorbed })
}

fn sent_to(tape: &Tape<'_>, x: Var) -> Vec<f32> {
    match tape.grad(x) {
        Some(sent) => sent.to_vec(),
        None => vec![0.0; tape.shape(x).len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Input, Tokens};
    use crate::causal_lm::tests::{NAMES, case, worst};
    use lyceum_kernels::stored::Stored;

    /// Sections one after another: what they give, and what arrives at the embedding.
    fn in_sections(sections: &Sections, ids: &[u32], seed: &[f32], walk: Walk) -> (Vec<f32>, SentOn) {
        let mut ws = Workspace::new();
        let mut inputs = vec![sections.embed(&mut ws, ids).unwrap()];
        for i in 0..sections.n_layers() {
            let [_, y] = sections.layer(&mut ws, i, &inputs[i]).unwrap();
            inputs.push(y);
        }
        let last = inputs.pop().unwrap();
        let rows: Vec<u32> = (0..ids.len() as u32).collect();
        let logits = sections.logits(&mut ws, &last, &rows).unwrap();
        let mut sent = sections.logits_back(&mut ws, (&last, &rows), seed, walk).unwrap();
        for (i, x) in inputs.iter().enumerate().rev() {
            let next = sections.layer_back(&mut ws, (i, x), &sent.sent, walk).unwrap();
            sent = SentOn { absorbed: sent.absorbed + next.absorbed, ..next };
        }
        (logits, sent)
    }

    fn seed(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 31 % 17) as f32 - 8.0) / 20.0).collect()
    }

    #[test]
    fn sections_have_the_bits_of_the_whole_forward_and_back() {
        for name in NAMES {
            for kind in [Stored::F32, Stored::Q8_0] {
                let Ok(loaded) = case(name).load(Some(kind)) else { continue };
                let ids = case(name).ids[..12].to_vec();
                let model = Arc::new(Model::language(loaded));
                let sections = Sections::new(model.clone(), None, [1, 12]).unwrap();
                let mut ws = Workspace::new();
                let mut tape = Tape::new(&mut ws, &model.params, Recording::Inputs, Examples::Even(1));
                let whole = model.forward(&mut tape, &Input::Tokens(Tokens::single(&ids))).unwrap();
                let want = tape.value(whole.logits).to_vec();
                let seed = seed(want.len());
                tape.backward_inputs(whole.logits, &seed);
                let gradient = tape.grad(whole.entry).unwrap().to_vec();
                let (logits, sent) = in_sections(&sections, &ids, &seed, Walk::Gradient);
                assert_eq!(logits, want, "{name} {kind:?}");
                assert_eq!(sent.sent, gradient, "{name} {kind:?}");
                let mut tape = Tape::new(&mut ws, &model.params, Recording::Inputs, Examples::Even(1));
                let whole = model.forward(&mut tape, &Input::Tokens(Tokens::single(&ids))).unwrap();
                let walk = Walk::Relevance { epsilon: 1e-6 };
                let entry = tape.value(whole.entry).to_vec();
                let relevance = tape.relevance(whole.logits, &seed, whole.entry, 1e-6).unwrap();
                let (_, sent) = in_sections(&sections, &ids, &seed, walk);
                let of_entry: Vec<f32> = sent.sent.iter().zip(&entry).map(|(c, x)| c * x).collect();
                assert_eq!(of_entry, relevance.of_entry, "{name} {kind:?}");
                assert!(
                    (sent.absorbed - relevance.absorbed).abs() < 1e-9 * relevance.absorbed.abs().max(1.0)
                );
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences_for_every_family() {
        for name in NAMES {
            let case = case(name);
            let ids = case.ids[..8].to_vec();
            let model = Arc::new(Model::language(case.load(Some(Stored::F32)).unwrap()));
            let sections = Sections::new(model.clone(), None, [1, 8]).unwrap();
            let vocabulary = model.shape.output.width();
            let seed: Vec<f32> = (0..8 * vocabulary).map(|i| f32::from(i == 7 * vocabulary + 5)).collect();
            let (_, sent) = in_sections(&sections, &ids, &seed, Walk::Gradient);
            let mut ws = Workspace::new();
            let entry = sections.embed(&mut ws, &ids).unwrap();
            let mut value = |entry: &[f32]| {
                let mut x = entry.to_vec();
                for i in 0..sections.n_layers() {
                    [_, x] = sections.layer(&mut ws, i, &x).unwrap();
                }
                f64::from(sections.logits(&mut ws, &x, &[7]).unwrap()[5])
            };
            let scale = sent.sent.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            for at in [0, 30, 77, 131, 8 * sections.width() - 1] {
                let mut moved = entry.clone();
                let step = 2e-3f32;
                moved[at] = entry[at] + step;
                let up = value(&moved);
                moved[at] = entry[at] - step;
                let slope = (up - value(&moved)) / (2.0 * f64::from(step));
                let far = (slope - f64::from(sent.sent[at])).abs();
                assert!(far < 2e-2 * f64::from(scale), "{name}[{at}]: {slope} {}", sent.sent[at]);
            }
        }
    }

    #[test]
    fn examples_beside_each_other_have_the_bits_of_each_alone() {
        let case = case("qwen3");
        let model = Arc::new(Model::language(case.load(Some(Stored::F32)).unwrap()));
        let sections = Sections::new(model.clone(), None, [2, 10]).unwrap();
        let ids = [&case.ids[..10], &case.ids[20..30]].concat();
        let seed = seed(ids.len() * model.shape.output.width());
        let (logits, both) = in_sections(&sections, &ids, &seed, Walk::Gradient);
        for i in 0..2 {
            let half = |x: &[f32]| x[i * x.len() / 2..(i + 1) * x.len() / 2].to_vec();
            let (alone, sent) =
                in_sections(&sections.of(1), &ids[i * 10..][..10], &half(&seed), Walk::Gradient);
            assert_eq!(alone, half(&logits));
            assert!(worst(&sent.sent, &half(&both.sent)) == 0.0);
        }
        assert!(Sections::new(model, None, [1, 65]).is_err(), "longer than the context");
    }
}
