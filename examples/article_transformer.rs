//! The founding article's Transformer, from loss over gradients to gradient descent.
//!
//! The article writes, in PyTorch,
//!
//! ```python
//! class Transformer(nn.Module):
//!     def __init__(self, vocab_size, d_model, nhead, num_layers, dim_feedforward):
//!         self.embedding = nn.Embedding(vocab_size, d_model)
//!         self.transformer = nn.Transformer(d_model, nhead, num_layers, dim_feedforward)
//!         self.fc = nn.Linear(d_model, vocab_size)
//!     def forward(self, x):
//!         x = self.embedding(x)
//!         x = self.transformer(x)
//!         return self.fc(x)
//! ```
//!
//! which does not run, and would not learn if it did:
//! 1. `nn.Transformer`'s third and fourth arguments are the encoder's and the decoder's layers, so
//!    `dim_feedforward` becomes a number of decoder layers, and the feed-forward size stays 2048;
//! 2. `forward` needs a source **and** a target; with one argument it raises;
//! 3. no positions: attention alone cannot tell an order from another;
//! 4. no masks: without the causal one the decoder reads the answer that it should predict;
//! 5. the input is `[time, batch]` by default, which nothing says.
//!
//! Here the same five arguments make the model that was meant. Run it with
//! `cargo run --release -p lyceum --example article_transformer`.

use lyceum_models::batch::{Batch, Input, Target, Tokens};
use lyceum_models::{InputShape, Model, ModelShape, OutputShape};
use lyceum_nn::{Dropout, Examples, Grads, ParamKind, Recording, Tape, Workspace};
use lyceum_types::spec::{
    ActivationSpec, ModelSpec, NormKind, Positional, TransformerSpec, TransformerVariant,
};

const BEGIN: u32 = 0;

/// The article's five arguments; the rest are `torch.nn.Transformer`'s defaults (without dropout, so that the
/// numbers below are exactly reproducible).
fn transformer(
    vocab_size: usize,
    d_model: usize,
    nhead: usize,
    num_layers: usize,
    dim_feedforward: usize,
) -> Model {
    let spec = TransformerSpec {
        variant: TransformerVariant::EncoderDecoder,
        d_model,
        nhead,
        num_encoder_layers: num_layers,
        num_decoder_layers: num_layers,
        dim_feedforward,
        context: 16,
        positional: Positional::Sinusoidal,
        norm: NormKind::Layer,
        norm_first: false,
        activation: ActivationSpec::Relu,
        bias: true,
        tie_embeddings: false,
        dropout: 0.0,
        layer_norm_eps: 1e-5,
    };
    let shape = ModelShape {
        input: InputShape::Pair { vocabulary: vocab_size, source_time: 16, target_time: 16 },
        output: OutputShape::Tokens { vocabulary: vocab_size },
    };
    Model::new(&ModelSpec::Transformer(spec), &shape, 1).expect("these sizes fit together")
}

/// The task: say a sequence of digits backwards. Token 0 begins a target; digits are 1..=9.
fn reversal(n: usize) -> Batch {
    let time = 5;
    let (mut source, mut target, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n {
        let digits: Vec<u32> = (0..time).map(|t| 1 + ((i * 7 + t * 3 + i * t) % 9) as u32).collect();
        let backwards: Vec<u32> = digits.iter().rev().copied().collect();
        source.extend_from_slice(&digits);
        target.push(BEGIN);
        target.extend_from_slice(&backwards[..time - 1]);
        wanted.extend(backwards.iter().map(|&d| d as i32));
    }
    let tokens = |ids| Tokens { n, time, ids, lengths: vec![time as u32; n], ..Tokens::default() };
    let input = Input::Pair { source: tokens(source), target: tokens(target) };
    Batch { n, input, target: Target::Steps(wanted) }
}

fn main() {
    let mut model = transformer(10, 32, 4, 2, 64);
    println!("parameters: {}", model.params.n_trainable());
    let batch = reversal(32);
    let scale = 1.0 / batch.target.n_terms() as f32;
    let (mut grads, mut workspace) = (Grads::new(&model.params), Workspace::new());
    let learning_rate = 0.1;
    for step in 0..=400 {
        // Forward: source and target through embedding, positions, masks, encoder, decoder and head, to the
        // mean of −ln p(next token).
        let mut tape = Tape::new(&mut workspace, &model.params, Recording::Weights, Examples::Even(batch.n))
            .training(Dropout { seed: 1, step });
        let (loss, _) = model.loss(&mut tape, &batch, scale).expect("the batch fits the model");
        let value = tape.value(loss)[0];
        // Backward: the gradient of the loss with respect to every parameter.
        grads.clear();
        tape.backward(loss, &mut grads);
        grads.finish();
        // Gradient descent: w ← w − η · ∂loss/∂w.
        for id in
            model.params.ids().filter(|&id| model.params.kind(id) == ParamKind::Weight).collect::<Vec<_>>()
        {
            let gradient = grads.value(id);
            for (w, g) in model.params.value_mut(id).iter_mut().zip(gradient) {
                *w -= learning_rate * g;
            }
        }
        if step % 100 == 0 {
            println!("step {step:3}: loss {value:.4}");
        }
    }
    let Input::Pair { source, .. } = &batch.input else { unreachable!("a reversal is a pair") };
    let question = source.ids[..source.time].to_vec();
    let asked = lyceum_models::answer::Question::Source { source: &question, begin: BEGIN };
    let bounds = lyceum_models::answer::Bounds { end: None, never: &[BEGIN], n_tokens_max: 5 };
    let answers = model.answers(&mut workspace, &[asked], bounds).expect("the source fits");
    println!("{question:?} backwards: {:?} (one of the {} rows that it learnt from)", answers[0], batch.n);
}
