//! Convolutional networks for images and series.
//!
//! Each layer is conv → norm → activation → pool; then global pooling or flattening (channel, row, column),
//! hidden linear layers (each with the activation and dropout), and a linear output. A layer with
//! `residual = n` closes a block of `n` layers: the block's input is added before the layer's activation,
//! through a 1×1 convolution (and a norm, where the layer has one) where channels or strides differ
//! (He et al. 2015, arXiv:1512.03385).
//!
//! Parameters, PyTorch's shapes (`Conv2d` for images, `Conv1d` for series; `BatchNorm`, `GroupNorm`):
//! * `conv.{i}.weight`, `conv.{i}.bias` of layer `i`;
//! * `norm.{i}.weight`, `norm.{i}.bias` where it has a norm, and for a batch norm `norm.{i}.running_mean`,
//!   `norm.{i}.running_var`, `norm.{i}.num_batches_tracked`;
//! * `shortcut.{i}.…` and `shortcut_norm.{i}.…` of the block that layer `i` closes;
//! * `hidden.{i}.…`, `output.…`.
//!
//! Input `[n, channels, height, width]`, or `[n, steps, channels]` (turned to channels first); output
//! `[n, outputs]`.

use crate::layers::{self, Builder, Linear};
use crate::model::{InputShape, ModelError, unsuited};
use crate::walk::Layer;
use lyceum_nn::ops::batch_norm::BatchNormParams;
use lyceum_nn::ops::conv::ConvGeometry;
use lyceum_nn::ops::pooling::{Pooling, Window};
use lyceum_nn::{Activation, Init, NnError, ParamId, ParamKind, Tape, Var};
use lyceum_types::spec::{CnnSpec, ConvNorm, ConvSpec, PoolKind};

/// PyTorch's defaults.
const NORM_EPS: f32 = 1e-5;
const BATCH_NORM_MOMENTUM: f32 = 0.1;
/// Groups of a group norm, at most (Wu & He 2018).
const GROUPS_MAX: usize = 32;

#[derive(Clone, Debug)]
pub struct Cnn {
    layers: Vec<ConvLayer>,
    global_pool: Option<Pooling>,
    hidden: Vec<Linear>,
    output: Linear,
    activation: Activation,
    dropout: f64,
    /// The input is `[n, steps, channels]`.
    series: bool,
}

#[derive(Clone, Debug)]
struct ConvLayer {
    conv: Conv,
    norm: Option<Norm>,
    pool: Option<Window>,
    residual: Option<Residual>,
    /// Pixels or steps that the convolution puts out.
    positions: usize,
}

/// `torch.nn.Conv2d` or `Conv1d`.
#[derive(Clone, Copy, Debug)]
struct Conv {
    weight: ParamId,
    bias: ParamId,
    geometry: ConvGeometry,
}

#[derive(Clone, Copy, Debug)]
enum Norm {
    Batch(BatchNormParams),
    Group { groups: usize, weight: ParamId, bias: ParamId },
}

#[derive(Clone, Debug)]
struct Residual {
    /// The layer that opens the block.
    from: usize,
    /// None where the block's input has the shape of its output.
    shortcut: Option<(Conv, Option<Norm>)>,
}

/// The size of a value between two layers: channels, rows (1 for a series), columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Size {
    channels: usize,
    plane: [usize; 2],
}

impl Cnn {
    pub fn new(
        b: &mut Builder<'_>,
        spec: &CnnSpec,
        input: &InputShape,
        outputs: usize,
    ) -> Result<Self, ModelError> {
        let (mut size, series) = match *input {
            InputShape::Image { shape: [channels, h, w] } => (Size { channels, plane: [h, w] }, false),
            InputShape::Series { steps, channels } => (Size { channels, plane: [1, steps] }, true),
            InputShape::Features { .. } => {
                let fix = "say input = { type = \"image\", shape = [channels, height, width] } or \
                           { type = \"series\" }, or use family = \"mlp\"";
                return Err(unsuited("cnn", "columns without an order", fix));
            }
            InputShape::Tokens { .. } | InputShape::Pair { .. } => {
                return Err(unsuited("cnn", "text", "use family = \"transformer\" or \"lstm\""));
            }
        };
        // The sizes that enter each layer.
        let mut entering = Vec::new();
        let mut layers = Vec::new();
        for (i, layer) in spec.conv.iter().enumerate() {
            entering.push(size);
            let built = ConvLayer::new(b, spec, i, &entering, series)?;
            size = layer_output(layer, i, size, series)?;
            layers.push(built);
        }
        let mut width = match spec.global_pool {
            Some(_) => size.channels,
            None => size.channels * size.plane[0] * size.plane[1],
        };
        let mut hidden = Vec::new();
        for (i, &units) in spec.hidden.iter().enumerate() {
            hidden.push(Linear::new(b, &format!("hidden.{i}"), width, units));
            width = units;
        }
        let output = Linear::new(b, "output", width, outputs);
        let global_pool = spec.global_pool.map(|kind| match kind {
            PoolKind::Avg => Pooling::Avg,
            PoolKind::Max => Pooling::Max,
        });
        let activation = layers::activation(spec.activation);
        Ok(Cnn { layers, global_pool, hidden, output, activation, dropout: spec.dropout, series })
    }

    /// Matrices, and how often an answer multiplies by each.
    pub(crate) fn products(&self) -> Vec<(ParamId, usize)> {
        let shortcut =
            |layer: &ConvLayer| layer.residual.as_ref()?.shortcut.as_ref().map(|(conv, _)| conv.weight);
        let convs = self.layers.iter().flat_map(|layer| {
            [Some(layer.conv.weight), shortcut(layer)]
                .into_iter()
                .flatten()
                .map(|weight| (weight, layer.positions))
        });
        convs.chain(self.hidden.iter().chain([&self.output]).map(|linear| (linear.weight, 1))).collect()
    }

    /// `x` as the module says, to `[n, outputs]`.
    pub fn forward(&self, tape: &mut Tape<'_>, x: Var) -> Result<Var, NnError> {
        let mut a = if self.series { tape.channels_first(x)? } else { x };
        let mut opened = a;
        for (i, layer) in self.layers.iter().enumerate() {
            // The next block to close says which layer's input it adds; blocks do not overlap.
            let next = self.layers[i..].iter().find_map(|l| l.residual.as_ref());
            if next.is_some_and(|r| r.from == i) {
                opened = a;
            }
            a = layer.forward(tape, a, opened, self.activation)?;
            tape.mark(a, || format!("conv.{i}"));
        }
        let shape = tape.shape(a);
        a = match self.global_pool {
            Some(pooling) => tape.global_pool(a, pooling)?,
            None => tape.reshape(a, &[shape.first(), shape.len() / shape.first().max(1)])?,
        };
        for (i, layer) in self.hidden.iter().enumerate() {
            a = layer.forward(tape, a, self.activation)?;
            tape.mark(a, || format!("hidden.{i}"));
            a = tape.dropout(a, self.dropout)?;
        }
        self.output.forward(tape, a, Activation::None)
    }

    /// See [`crate::walk`].
    pub(crate) fn layers(&self) -> Result<Vec<Layer>, &'static str> {
        let mut layers = Vec::new();
        if self.series {
            layers.push(Layer::ChannelsFirst);
        }
        for layer in &self.layers {
            let Conv { weight, bias, geometry } = layer.conv;
            layers.push(Layer::Conv { weight, bias, geometry });
            match layer.norm {
                Some(Norm::Batch(params)) => layers.push(Layer::BatchNorm(params)),
                Some(Norm::Group { .. }) => return Err("a group norm mixes the numbers of a row"),
                None => {}
            }
            if layer.residual.is_some() {
                return Err("a residual block is no chain of layers");
            }
            layers.push(Layer::Activate(self.activation));
            layers.extend(layer.pool.map(Layer::MaxPool));
        }
        layers.push(self.global_pool.map_or(Layer::Flatten, Layer::GlobalPool));
        for &layer in &self.hidden {
            layers.extend([Layer::Linear(layer), Layer::Activate(self.activation)]);
        }
        layers.push(Layer::Linear(self.output));
        Ok(layers)
    }
}

impl ConvLayer {
    /// Layer `i`, whose input has the last of the sizes `entering`.
    fn new(
        b: &mut Builder<'_>,
        spec: &CnnSpec,
        i: usize,
        entering: &[Size],
        series: bool,
    ) -> Result<Self, ModelError> {
        let (layer, size) = (&spec.conv[i], entering[i]);
        if !size.channels.is_multiple_of(layer.groups) || !layer.channels.is_multiple_of(layer.groups) {
            let what = format!(
                "conv[{i}]: {} channels to {} in {} groups",
                size.channels, layer.channels, layer.groups
            );
            return Err(unsuited("cnn", &what, "write groups that divide both"));
        }
        let geometry = geometry(layer);
        let conv =
            Conv::new(b, &format!("conv.{i}"), size.channels, layer.channels, layer.kernel, geometry, series);
        let norm = layer.norm.map(|kind| Norm::new(b, &format!("norm.{i}"), kind, layer.channels));
        let pool = layer.pool.map(Window::square);
        let residual = match layer.residual {
            Some(span) => Some(Residual::new(b, spec, i, span, entering, series)?),
            None => None,
        };
        let positions = conv_output(layer, i, size, series)?.iter().product();
        Ok(ConvLayer { conv, norm, pool, residual, positions })
    }

    fn forward(&self, tape: &mut Tape<'_>, x: Var, opened: Var, f: Activation) -> Result<Var, NnError> {
        let alone = self.norm.is_none() && self.residual.is_none() && self.pool.is_none();
        if alone {
            return self.conv.forward(tape, x, f);
        }
        let mut a = self.conv.forward(tape, x, Activation::None)?;
        if let Some(norm) = &self.norm {
            a = norm.forward(tape, a)?;
        }
        if let Some(residual) = &self.residual {
            let mut s = opened;
            if let Some((conv, norm)) = &residual.shortcut {
                s = conv.forward(tape, s, Activation::None)?;
                if let Some(norm) = norm {
                    s = norm.forward(tape, s)?;
                }
            }
            a = tape.add(a, s)?;
        }
        match self.pool {
            // max(relu(x)) = relu(max(x)), value and gradient: the order with fewer numbers to rectify.
            Some(window) if f == Activation::Relu => {
                let pooled = tape.pool(a, Pooling::Max, window)?;
                tape.activate(pooled, f)
            }
            Some(window) => {
                let a = tape.activate(a, f)?;
                tape.pool(a, Pooling::Max, window)
            }
            None => tape.activate(a, f),
        }
    }
}

impl Conv {
    fn new(
        b: &mut Builder<'_>,
        name: &str,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        geometry: ConvGeometry,
        series: bool,
    ) -> Self {
        let dims = [outputs, inputs / geometry.groups, kernel, kernel];
        let dims = if series { &dims[..3] } else { &dims[..] };
        let fan_in: usize = dims[1..].iter().product();
        let init = Init::Uniform(1.0 / (fan_in as f64).sqrt());
        Conv {
            weight: b.weight(&format!("{name}.weight"), dims, init),
            bias: b.weight(&format!("{name}.bias"), &[outputs], init),
            geometry,
        }
    }

    fn forward(&self, tape: &mut Tape<'_>, x: Var, activation: Activation) -> Result<Var, NnError> {
        tape.conv(x, self.weight, Some(self.bias), self.geometry, activation)
    }
}

impl Norm {
    fn new(b: &mut Builder<'_>, name: &str, kind: ConvNorm, channels: usize) -> Self {
        let weight = b.weight(&format!("{name}.weight"), &[channels], Init::Ones);
        let bias = b.weight(&format!("{name}.bias"), &[channels], Init::Zeros);
        let mut buffer =
            |what: &str, n: usize, kind, init| b.buffer(&format!("{name}.{what}"), &[n], kind, init);
        match kind {
            ConvNorm::Batch => Norm::Batch(BatchNormParams {
                weight,
                bias,
                running_mean: buffer("running_mean", channels, ParamKind::Buffer, Init::Zeros),
                running_var: buffer("running_var", channels, ParamKind::Buffer, Init::Ones),
                num_batches_tracked: buffer("num_batches_tracked", 1, ParamKind::Counter, Init::Zeros),
                eps: NORM_EPS,
                momentum: BATCH_NORM_MOMENTUM,
            }),
            ConvNorm::Group => Norm::Group { groups: norm_groups(channels), weight, bias },
        }
    }

    fn forward(&self, tape: &mut Tape<'_>, x: Var) -> Result<Var, NnError> {
        match *self {
            Norm::Batch(params) => tape.batch_norm(x, params),
            Norm::Group { groups, weight, bias } => tape.group_norm(x, groups, weight, bias, NORM_EPS),
        }
    }
}

impl Residual {
    /// The block of `span` layers that layer `i` closes.
    fn new(
        b: &mut Builder<'_>,
        spec: &CnnSpec,
        i: usize,
        span: usize,
        entering: &[Size],
        series: bool,
    ) -> Result<Self, ModelError> {
        let Some(from) = (i + 1).checked_sub(span) else {
            let what = format!("conv[{i}]: a residual block of {span} layers");
            return Err(unsuited("cnn", &what, &format!("write {} or less", i + 1)));
        };
        let block = &spec.conv[from..=i];
        let (start, layer) = (entering[from], &spec.conv[i]);
        let end = Size { channels: layer.channels, plane: conv_output(layer, i, entering[i], series)? };
        if start == end {
            return Ok(Residual { from, shortcut: None });
        }
        // A 1×1 convolution that moves as the block's convolutions and pools do together.
        let pools = block[..span - 1].iter().filter_map(|l| l.pool);
        let stride = block.iter().map(|l| l.stride).chain(pools).product();
        let geometry = ConvGeometry::square(stride, 0, 1, 1);
        let reached = start.plane.map(|n| (n - 1) / stride + 1);
        let reached = if series { [1, reached[1]] } else { reached };
        if reached != end.plane {
            let what = format!(
                "conv[{from}..={i}] as a residual block: {:?} shrinks to {:?}, its shortcut to {reached:?}",
                start.plane, end.plane
            );
            return Err(unsuited(
                "cnn",
                &what,
                "write padding = \"same\" in the block, or no pool inside it",
            ));
        }
        let conv = Conv::new(b, &format!("shortcut.{i}"), start.channels, end.channels, 1, geometry, series);
        let norm = layer.norm.map(|kind| Norm::new(b, &format!("shortcut_norm.{i}"), kind, end.channels));
        Ok(Residual { from, shortcut: Some((conv, norm)) })
    }
}

/// The largest divisor of `channels` up to 32 that leaves two channels a group (one channel: one group).
fn norm_groups(channels: usize) -> usize {
    (1..=GROUPS_MAX.min(channels / 2)).rev().find(|&g| channels.is_multiple_of(g)).unwrap_or(1)
}

fn geometry(layer: &ConvSpec) -> ConvGeometry {
    match layer.padding {
        Some(padding) => ConvGeometry::square(layer.stride, padding, layer.dilation, layer.groups),
        None => ConvGeometry::same(layer.stride, layer.kernel, layer.dilation, layer.groups),
    }
}

/// Rows and columns after the convolution of layer `i`.
fn conv_output(layer: &ConvSpec, i: usize, size: Size, series: bool) -> Result<[usize; 2], ModelError> {
    let geometry = geometry(layer);
    let mut plane = size.plane;
    for axis in usize::from(series)..2 {
        let padded = plane[axis] + geometry.pad_before[axis] + geometry.pad_after[axis];
        let reach = layer.dilation * (layer.kernel - 1) + 1;
        let Some(room) = padded.checked_sub(reach) else {
            let what =
                format!("conv[{i}]: a kernel that reaches over {reach} in {padded} padded pixels or steps");
            return Err(unsuited(
                "cnn",
                &what,
                "write a smaller kernel, padding = \"same\", or fewer pools before it",
            ));
        };
        plane[axis] = room / layer.stride + 1;
    }
    Ok(plane)
}

/// The size after layer `i`, its pool included.
fn layer_output(layer: &ConvSpec, i: usize, size: Size, series: bool) -> Result<Size, ModelError> {
    let mut plane = conv_output(layer, i, size, series)?;
    if let Some(pool) = layer.pool {
        for axis in usize::from(series)..2 {
            if plane[axis] < pool {
                let what = format!("conv[{i}]: a pool of {pool} over {} pixels or steps", plane[axis]);
                return Err(unsuited("cnn", &what, "write a smaller pool, or none"));
            }
            plane[axis] /= pool;
        }
    }
    Ok(Size { channels: layer.channels, plane })
}

#[cfg(test)]
mod tests;
