//! How much arithmetic one answer takes, counted from the architecture.
//!
//! Counted are the products of matrices, convolutions and attention, a multiply–add as two operations, for the
//! longest input that the model reads; norms, activations and biases are not (they are below a hundredth of it
//! in all but the smallest models). PyTorch's `FlopCounterMode` counts the same.

use crate::model::{Arch, Model};

impl Model {
    /// Floating-point operations of one answer.
    pub fn operations(&self) -> u64 {
        let longest = match &self.arch {
            Arch::CausalLm(model) => model.config.max_position_embeddings,
            _ => 0,
        };
        self.operations_of(longest)
    }

    /// Floating-point operations of an answer for which a language model reads and says `n_tokens` in all; other models
    /// have one size of answer.
    pub fn operations_of(&self, n_tokens: usize) -> u64 {
        let (products, looked) = match &self.arch {
            Arch::Mlp(mlp) => (mlp.products(), 0),
            Arch::Cnn(cnn) => (cnn.products(), 0),
            Arch::Recurrent(recurrent) => (recurrent.products(&self.shape.input), 0),
            Arch::Transformer(transformer) => transformer.products(&self.shape.input, &self.params),
            Arch::CausalLm(model) => model.products(n_tokens),
            Arch::Encoder(encoder) => encoder.products(),
        };
        let one = |(weight, times): (lyceum_nn::ParamId, usize)| {
            self.params.shape(weight).len() as u64 * times as u64
        };
        2 * (products.into_iter().map(one).sum::<u64>() + looked)
    }
}

#[cfg(test)]
mod tests {
    use crate::{InputShape, Model, ModelShape, OutputShape};
    use lyceum_types::spec::Spec;

    fn operations(model: &str, input: InputShape, n_classes: usize) -> u64 {
        let text = format!(
            "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"x\"\n[model]\n{model}\n[train]\nepochs = 1\n"
        );
        let spec = Spec::from_toml(&text, "spec.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let shape = ModelShape { input, output: OutputShape::Classes { n: n_classes } };
        Model::new(&spec.model, &shape, 1).unwrap().operations()
    }

    #[test]
    fn each_family_counts_what_is_worked_out_by_hand() {
        let mlp = operations("family = \"mlp\"\nhidden = [5, 4]", InputShape::Features { n: 7 }, 3);
        assert_eq!(mlp, 2 * (7 * 5 + 5 * 4 + 4 * 3));
        // 8×8 → same 8×8 of 4 channels, pooled to 4×4 → valid 2×2 of 6 channels in 2 groups → 24 → 10
        let conv = "family = \"cnn\"\nconv = [{ channels = 4, kernel = 3, padding = \"same\", pool = 2 }, \
                    { channels = 6, kernel = 3, groups = 2 }]";
        let cnn = operations(conv, InputShape::Image { shape: [1, 8, 8] }, 10);
        assert_eq!(cnn, 2 * (64 * 4 * 9 + 4 * 6 * 2 * 9 + 24 * 10));
        // A block whose input has another number of channels: a 1×1 convolution beside it.
        let block = "family = \"cnn\"\nglobal_pool = \"avg\"\nconv = [{ channels = 4, kernel = 3, \
                     padding = \"same\", residual = 1 }]";
        let cnn = operations(block, InputShape::Series { steps: 9, channels: 2 }, 5);
        assert_eq!(cnn, 2 * (9 * 4 * 2 * 3 + 9 * 4 * 2 + 4 * 5));
        let gru = operations(
            "family = \"gru\"\nhidden_size = 6\nbidirectional = true",
            InputShape::Series { steps: 9, channels: 2 },
            5,
        );
        assert_eq!(gru, 2 * (2 * 9 * 3 * (6 * 2 + 6 * 6) + 12 * 5));
        // T = 9, C = 8, F = 16: in_proj 3C², out_proj C², two feed-forward products, scores and their sum.
        let encoder = "family = \"transformer\"\nvariant = \"encoder\"\nd_model = 8\nnhead = 2\nnum_layers = 3\n\
                       dim_feedforward = 16\ncontext = 9";
        let transformer = operations(encoder, InputShape::Tokens { vocabulary: 50, time: 9 }, 5);
        assert_eq!(transformer, 2 * (3 * (9 * (4 * 64 + 2 * 8 * 16) + 2 * 81 * 8) + 8 * 5));
    }

    #[test]
    fn a_linear_model_counts_twice_its_weights() {
        let linear = operations("family = \"mlp\"\nhidden = []", InputShape::Image { shape: [1, 8, 8] }, 10);
        assert_eq!(linear, 2 * 640);
    }
}
