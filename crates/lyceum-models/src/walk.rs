//! The layers of a feed-forward model one by one, for those who walk them by themselves: bounds on outputs
//! need the layers, not the forward pass.

use crate::layers::Linear;
use crate::model::{Arch, Model};
use lyceum_nn::ops::batch_norm::BatchNormParams;
use lyceum_nn::ops::conv::ConvGeometry;
use lyceum_nn::ops::pooling::{Pooling, Window};
use lyceum_nn::{Activation, ParamId};

/// A layer as evaluation applies it (dropout is none).
#[derive(Clone, Copy, Debug)]
pub enum Layer {
    /// `[n, …]` to `[n, product]`.
    Flatten,
    /// `[n, steps, channels]` to `[n, channels, steps]`.
    ChannelsFirst,
    Linear(Linear),
    Conv {
        weight: ParamId,
        bias: ParamId,
        geometry: ConvGeometry,
    },
    /// With its running statistics.
    BatchNorm(BatchNormParams),
    Activate(Activation),
    MaxPool(Window),
    GlobalPool(Pooling),
}

impl Model {
    /// The layers in their order.
    ///
    /// # Errors
    /// Why this model is not a chain of such layers.
    pub fn layers(&self) -> Result<Vec<Layer>, &'static str> {
        match &self.arch {
            Arch::Mlp(mlp) => Ok(mlp.layers()),
            Arch::Cnn(cnn) => cnn.layers(),
            Arch::Recurrent(_) => Err("a recurrent network is no chain of layers"),
            Arch::Transformer(_) | Arch::CausalLm(_) | Arch::Encoder(_) => {
                Err("a Transformer is no chain of layers")
            }
        }
    }
}
