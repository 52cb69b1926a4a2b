//! The operations, one file each. A file has the function on [`Tape`](crate::Tape) that computes the value,
//! and the operation's way back.
//!
//! To add one: write the file with a `Copy` struct that names its inputs, parameters and saved numbers,
//! implement [`Operation`] for it, add its `mod` and its line in [`operations!`]. Nothing else changes.

use crate::NnError;
use crate::norms::ExampleNorms;
use crate::tape::{Backward, Ledger, WeightBackward};

/// The way back of an operation. Inputs' and weights' gradients are separate calls, each made only when
/// somebody asks; `begin` is made once before them.
pub(crate) trait Operation {
    fn name(&self) -> &'static str;

    /// Work that both calls share: may turn the output's gradient in place into what they start from (the
    /// gradient before the activation), and may hand gradients to inputs that take the output's unchanged.
    fn begin(&self, _back: &mut Backward<'_>) {}

    /// Adds to the gradients of the inputs that want one.
    fn backward_inputs(&self, back: &mut Backward<'_>);

    /// Adds to the gradients of the parameters, each example's part times its weight. Operations without
    /// parameters leave it.
    fn backward_weights(&self, _back: &mut WeightBackward<'_>) {}

    /// Says how each parameter's gradient of one example is found. Operations without parameters leave it.
    fn example_norms(&self, _norms: &mut ExampleNorms<'_>) {}

    /// Sends relevance on: as [`backward_inputs`](Self::backward_inputs), with relevance per unit of value in
    /// the place of gradients ([`Tape::relevance`](crate::Tape::relevance)). An operation without a rule
    /// refuses by name.
    fn relevance(&self, _back: &mut Backward<'_>, _ledger: &mut Ledger) -> Result<(), NnError> {
        Err(NnError::NoRelevance { op: self.name() })
    }
}

macro_rules! operations {
    ($($variant:ident($ty:ty)),* $(,)?) => {
        /// What made a node.
        #[derive(Clone, Copy)]
        pub(crate) enum Op {
            /// Given from outside, or not recorded.
            Leaf,
            $($variant($ty)),*
        }

        impl Operation for Op {
            fn name(&self) -> &'static str {
                match self { Op::Leaf => "leaf", $(Op::$variant(op) => op.name()),* }
            }
            fn begin(&self, back: &mut Backward<'_>) {
                match self { Op::Leaf => {} $(Op::$variant(op) => op.begin(back)),* }
            }
            fn backward_inputs(&self, back: &mut Backward<'_>) {
                match self { Op::Leaf => {} $(Op::$variant(op) => op.backward_inputs(back)),* }
            }
            fn backward_weights(&self, back: &mut WeightBackward<'_>) {
                match self { Op::Leaf => {} $(Op::$variant(op) => op.backward_weights(back)),* }
            }
            fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
                match self { Op::Leaf => {} $(Op::$variant(op) => op.example_norms(norms)),* }
    }

            fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
                match self { Op::Leaf => Ok(()), $(Op::$variant(op) => op.relevance(back, ledger)),* }
            }
        }
    };
}

pub mod activation;
pub mod add;
#[cfg(test)]
mod against_pytorch;
pub mod attention;
pub mod batch_norm;
pub mod binary_cross_entropy;
pub mod cached_attention;
pub mod channels_first;
pub mod concat;
pub mod conv;
pub mod dropout;
pub mod embedding;
pub mod gated;
pub mod group_norm;
pub mod head_norm;
pub mod joined;
pub mod layer_norm;
pub mod linear;
pub mod lora;
pub mod mean_steps;
pub mod one_hot;
pub mod packed_attention;
pub mod pooling;
pub mod position;
pub mod preference;
pub mod recurrent;
pub mod repeat_steps;
pub mod reshape;
pub mod rms_norm;
pub mod rope;
pub mod scale;
pub mod select_rows;
pub mod select_step;
pub mod softmax;
pub mod softmax_cross_entropy;
pub mod squared_error;

operations! {
    Activate(activation::Activate),
    Add(add::Add),
    Softmax(softmax::Softmax),
    Rope(rope::Rope),
    RmsNorm(rms_norm::RmsNorm),
    Position(position::Position),
    PackedAttention(packed_attention::PackedAttention),
    Preference(preference::Preference),
    LayerNorm(layer_norm::LayerNorm),
    Embedding(embedding::Embedding),
    BinaryCrossEntropy(binary_cross_entropy::BinaryCrossEntropy),
    Attention(attention::Attention),
    Dropout(dropout::DropoutOp),
    ConcatLast(concat::ConcatLast),
    Recurrent(recurrent::Recurrent),
    RepeatSteps(repeat_steps::RepeatSteps),
    SelectRows(select_rows::SelectRows),
    SelectStep(select_step::SelectStep),
    Gated(gated::Gated),
    HeadNorm(head_norm::HeadNorm),
    Scale(scale::Scale),
    Linear(linear::Linear),
    Lora(lora::Lora),
    MeanSteps(mean_steps::MeanSteps),
    BatchNorm(batch_norm::BatchNorm),
    ChannelsFirst(channels_first::ChannelsFirst),
    Conv(conv::Conv),
    GroupNorm(group_norm::GroupNorm),
    Pool(pooling::Pool),
    Reshape(reshape::Reshape),
    SoftmaxCrossEntropy(softmax_cross_entropy::SoftmaxCrossEntropy),
    SquaredError(squared_error::SquaredError),
}
