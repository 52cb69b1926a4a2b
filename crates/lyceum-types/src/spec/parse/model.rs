//! `[model]`: the family and its shape, with PyTorch's defaults where PyTorch has one.

use super::ProblemCode;
use super::section::{DECAY, POSITIVE, Section};
use crate::spec::{
    ActivationSpec, CnnSpec, ConvNorm, ConvSpec, MlpSpec, ModelSpec, NormKind, PoolKind, Positional,
    RecurrentHead, RecurrentSpec, Task, TransformerSpec, TransformerVariant,
};
use crate::suggest::did_you_mean;

const ACTIVATIONS: &[(&str, ActivationSpec)] = &[
    ("relu", ActivationSpec::Relu),
    ("gelu", ActivationSpec::Gelu),
    ("gelu_tanh", ActivationSpec::GeluTanh),
    ("silu", ActivationSpec::Silu),
    ("tanh", ActivationSpec::Tanh),
    ("sigmoid", ActivationSpec::Sigmoid),
];
const CONV_NORMS: &[(&str, ConvNorm)] = &[("batch", ConvNorm::Batch), ("group", ConvNorm::Group)];
const POOLS: &[(&str, PoolKind)] = &[("avg", PoolKind::Avg), ("max", PoolKind::Max)];
const HEADS: &[(&str, RecurrentHead)] =
    &[("last", RecurrentHead::Last), ("step", RecurrentHead::Step), ("next", RecurrentHead::Next)];
const VARIANTS: &[(&str, TransformerVariant)] = &[
    ("decoder", TransformerVariant::Decoder),
    ("encoder", TransformerVariant::Encoder),
    ("encoder_decoder", TransformerVariant::EncoderDecoder),
];
const POSITIONALS: &[(&str, Positional)] =
    &[("learned", Positional::Learned), ("sinusoidal", Positional::Sinusoidal), ("rope", Positional::Rope)];
const NORMS: &[(&str, NormKind)] = &[("layer", NormKind::Layer), ("rms", NormKind::Rms)];

const FAMILIES: [&str; 6] = ["mlp", "cnn", "rnn", "lstm", "gru", "transformer"];

/// Bounds that no model on one machine reaches; they keep products of sizes inside 64 bits.
const WIDTH_MAX: usize = 1 << 20;
const LAYERS_MAX: usize = 1024;
const CONTEXT_MAX: usize = 1 << 20;
/// The piece of truncated back-propagation through time for next-step heads: TRAINING's own example.
const BPTT_DEFAULT: usize = 128;

const MLP_KEYS: [&str; 3] = ["hidden", "activation", "dropout"];
const CNN_KEYS: [&str; 2] = ["conv", "global_pool"];
const RECURRENT_KEYS: [&str; 7] =
    ["hidden_size", "bidirectional", "head", "bptt", "embedding_dim", "one_hot", "num_layers"];
const TRANSFORMER_KEYS: [&str; 15] = [
    "variant",
    "d_model",
    "nhead",
    "num_layers",
    "num_encoder_layers",
    "num_decoder_layers",
    "dim_feedforward",
    "context",
    "positional",
    "norm",
    "norm_first",
    "bias",
    "tie_embeddings",
    "layer_norm_eps",
    "activation",
];

pub(super) fn read(mut section: Section<'_>, task: Option<Task>) -> Option<ModelSpec> {
    section.require("family", "the kind of model", "family = \"mlp\"");
    section.elsewhere(&["lora"], "fine-tuning: family = an imported model's name");
    section.not_yet("quantize", "training on quantised weights");
    let family = section.text("family")?;
    let model = match family.as_str() {
        "mlp" => ModelSpec::Mlp(mlp(&mut section)),
        "cnn" => ModelSpec::Cnn(cnn(&mut section)),
        "rnn" => ModelSpec::Rnn(recurrent(&mut section, task)),
        "lstm" => ModelSpec::Lstm(recurrent(&mut section, task)),
        "gru" => ModelSpec::Gru(recurrent(&mut section, task)),
        "transformer" => ModelSpec::Transformer(transformer(&mut section)?),
        name => {
            unknown_family(&mut section, name);
            return None;
        }
    };
    section.elsewhere(&CNN_KEYS, "the family cnn");
    section.elsewhere(&["hidden"], "the families mlp and cnn");
    section.elsewhere(&MLP_KEYS, "the families mlp, cnn and transformer");
    section.elsewhere(&RECURRENT_KEYS, "the families rnn, lstm and gru");
    section.elsewhere(&TRANSFORMER_KEYS, "the family transformer");
    section.finish();
    Some(model)
}

/// A slip of a family's name, or what is no name; a model's name makes a fine-tuning ([`super::tune`]).
fn unknown_family(section: &mut Section<'_>, name: &str) {
    if let Some(near) = did_you_mean(name, FAMILIES) {
        let message = format!("\"{name}\" is no family");
        section.note("family", ProblemCode::UnknownValue, message, format!("did you mean \"{near}\"?"));
        return;
    }
    let message = format!("\"{name}\" is none of {}", FAMILIES.join(", "));
    let fix = "train a family from the start, as in family = \"transformer\", or tune an imported model by its name with lyceum train";
    section.note("family", ProblemCode::UnknownValue, message, fix);
}

fn mlp(section: &mut Section<'_>) -> MlpSpec {
    section.require("hidden", "the sizes of the hidden layers", "hidden = [128, 64] (or [] for none)");
    MlpSpec {
        hidden: section.sizes("hidden", 1, WIDTH_MAX).unwrap_or_default(),
        activation: section.choice("activation", ACTIVATIONS).unwrap_or(ActivationSpec::Relu),
        dropout: section.number_or("dropout", 0.0, DECAY),
    }
}

fn cnn(section: &mut Section<'_>) -> CnnSpec {
    section.require("conv", "the convolutions", "conv = [{ channels = 32, kernel = 3 }]");
    let layers = section.sections("conv");
    if layers.as_ref().is_some_and(Vec::is_empty) {
        let fix = "write as in conv = [{ channels = 32, kernel = 3 }]";
        section.note("conv", ProblemCode::OutOfRange, "needs at least one convolution", fix);
    }
    let mut before = 0;
    let mut conv = Vec::new();
    for (index, layer) in layers.into_iter().flatten().enumerate() {
        let layer = convolution(layer, index, before);
        // Blocks may not overlap: the layers since the last closed block are free.
        before = if layer.residual.is_some() { index + 1 } else { before };
        conv.push(layer);
    }
    CnnSpec {
        conv,
        global_pool: section.choice("global_pool", POOLS),
        hidden: section.sizes("hidden", 1, WIDTH_MAX).unwrap_or_default(),
        activation: section.choice("activation", ACTIVATIONS).unwrap_or(ActivationSpec::Relu),
        dropout: section.number_or("dropout", 0.0, DECAY),
    }
}

/// `index`: of this layer; `free_from`: the first layer that no residual block has closed.
fn convolution(mut section: Section<'_>, index: usize, free_from: usize) -> ConvSpec {
    section.require("channels", "the filters of this layer", "channels = 32");
    section.require("kernel", "the filters' size", "kernel = 3");
    let layer = ConvSpec {
        channels: section.size_or("channels", 1, 1, WIDTH_MAX),
        kernel: section.size_or("kernel", 1, 1, 65_535),
        stride: section.size_or("stride", 1, 1, 65_535),
        padding: padding(&mut section),
        dilation: section.size_or("dilation", 1, 1, 65_535),
        groups: section.size_or("groups", 1, 1, WIDTH_MAX),
        norm: section.choice("norm", CONV_NORMS),
        pool: section.size("pool", 1, 65_535).filter(|size| *size > 1),
        residual: residual(&mut section, index, free_from),
    };
    if !layer.channels.is_multiple_of(layer.groups) {
        let message =
            format!("channels = {} cannot be parted into groups = {}", layer.channels, layer.groups);
        section.note("groups", ProblemCode::Contradiction, message, "write a divisor of channels");
    }
    section.finish();
    layer
}

/// PyTorch's: 0 when unset; a number, or "same" (which is none in the parsed form), or "valid".
fn padding(section: &mut Section<'_>) -> Option<usize> {
    if !section.has("padding") {
        return Some(0);
    }
    if section.is_text("padding") {
        return section.choice("padding", &[("same", None), ("valid", Some(0))]).unwrap_or(Some(0));
    }
    Some(section.size_or("padding", 0, 0, 65_535))
}

/// The number of layers that the block which this layer closes spans; `true` is one layer.
fn residual(section: &mut Section<'_>, index: usize, free_from: usize) -> Option<usize> {
    if !section.has("residual") {
        return None;
    }
    let span = if section.is_flag("residual") {
        usize::from(section.flag("residual")?)
    } else {
        section.size("residual", 1, LAYERS_MAX)?
    };
    let free = index + 1 - free_from;
    if span > free {
        let message = format!("spans {span} layers, and only {free} stand before the end of this one");
        section.note("residual", ProblemCode::OutOfRange, message, format!("write {free} or less"));
    }
    (span > 0).then_some(span)
}

fn recurrent(section: &mut Section<'_>, task: Option<Task>) -> RecurrentSpec {
    let halves = halves(section, task);
    if halves.hidden_size.is_none() {
        section.require("hidden_size", "the size of the state", "hidden_size = 128");
    }
    // What a task needs when the head is not said.
    let default_head = match task {
        Some(Task::LanguageModeling) => RecurrentHead::Next,
        Some(Task::SequenceToSequence) => RecurrentHead::Step,
        _ => RecurrentHead::Last,
    };
    let head = section.choice("head", HEADS).unwrap_or(default_head);
    let bptt = section.size("bptt", 1, CONTEXT_MAX);
    let spec = RecurrentSpec {
        hidden_size: section.size("hidden_size", 1, WIDTH_MAX).or(halves.hidden_size).unwrap_or(1),
        num_layers: section.size("num_layers", 1, LAYERS_MAX).or(halves.num_layers).unwrap_or(1),
        bidirectional: section.flag("bidirectional").unwrap_or(false),
        dropout: section.number_or("dropout", 0.0, DECAY),
        head,
        bptt: bptt.or((head == RecurrentHead::Next).then_some(BPTT_DEFAULT)),
        embedding_dim: section.size("embedding_dim", 1, WIDTH_MAX),
        one_hot: section.flag("one_hot").unwrap_or(false),
    };
    if spec.one_hot && spec.embedding_dim.is_some() {
        let message = "an embedding's size cannot stand beside one_hot = true";
        section.note("embedding_dim", ProblemCode::Contradiction, message, "remove one of the two");
    }
    if spec.bidirectional && head == RecurrentHead::Next {
        let message = "a head that predicts the next step cannot read the sequence from its end";
        section.note("bidirectional", ProblemCode::Contradiction, message, "remove bidirectional");
    }
    spec
}

/// Sizes said by `encoder = { … }` and `decoder = { … }` instead of at the top.
#[derive(Default, PartialEq)]
struct Half {
    hidden_size: Option<usize>,
    num_layers: Option<usize>,
}

/// The parts of a sequence-to-sequence model: an encoder whose last state is repeated to every step of a
/// decoder. Both have the same sizes; other arrangements are refused.
fn halves(section: &mut Section<'_>, task: Option<Task>) -> Half {
    if task.is_some_and(|task| task != Task::SequenceToSequence) {
        section.elsewhere(&["encoder", "repeat", "decoder"], "task = \"sequence_to_sequence\"");
        return Half::default();
    }
    if section.flag("repeat") == Some(false) {
        let message = "a decoder that is not fed the repeated state is not in this version yet";
        section.note("repeat", ProblemCode::NotYet, message, "write repeat = true, or remove it");
    }
    let mut said: Option<Half> = None;
    for key in ["encoder", "decoder"] {
        let Some(mut table) = section.section(key) else { continue };
        let half = Half {
            hidden_size: table.size("hidden_size", 1, WIDTH_MAX),
            num_layers: table.size("num_layers", 1, LAYERS_MAX),
        };
        table.finish();
        for (name, size) in [("hidden_size", half.hidden_size), ("num_layers", half.num_layers)] {
            let above =
                if name == "hidden_size" { section.has("hidden_size") } else { section.has("num_layers") };
            if size.is_some() && above {
                let message = format!("says {name}, which stands under [model] too");
                section.note(key, ProblemCode::Contradiction, message, format!("remove one {name}"));
            }
        }
        if said.as_ref().is_some_and(|first| *first != half) {
            let message = "an encoder and a decoder of different sizes are not in this version yet";
            section.note(key, ProblemCode::NotYet, message, "write the same sizes for both");
        }
        said.get_or_insert(half);
    }
    said.unwrap_or_default()
}

fn transformer(section: &mut Section<'_>) -> Option<TransformerSpec> {
    section.require("variant", "which half of the Transformer", "variant = \"decoder\"");
    let variant = section.choice("variant", VARIANTS);
    let (encoder_layers, decoder_layers) = layers(section, variant);
    let spec = TransformerSpec {
        variant: variant.unwrap_or(TransformerVariant::Decoder),
        d_model: section.size_or("d_model", 512, 1, WIDTH_MAX),
        nhead: section.size_or("nhead", 8, 1, WIDTH_MAX),
        num_encoder_layers: encoder_layers,
        num_decoder_layers: decoder_layers,
        dim_feedforward: section.size_or("dim_feedforward", 2048, 1, WIDTH_MAX),
        context: section.size_or("context", 512, 1, CONTEXT_MAX),
        positional: section.choice("positional", POSITIONALS).unwrap_or(match variant {
            // GPT's positions are learned; the founding paper's are sines.
            Some(TransformerVariant::Decoder) => Positional::Learned,
            _ => Positional::Sinusoidal,
        }),
        norm: section.choice("norm", NORMS).unwrap_or(NormKind::Layer),
        norm_first: section.flag("norm_first").unwrap_or(false),
        activation: section.choice("activation", ACTIVATIONS).unwrap_or(ActivationSpec::Relu),
        bias: section.flag("bias").unwrap_or(true),
        tie_embeddings: section.flag("tie_embeddings").unwrap_or(false),
        dropout: section.number_or("dropout", 0.1, DECAY),
        layer_norm_eps: section.number_or("layer_norm_eps", 1e-5, POSITIVE),
    };
    check_heads(section, &spec);
    variant.map(|_| spec)
}

/// `num_layers` says both counts; a variant without an encoder or a decoder has 0 there.
fn layers(section: &mut Section<'_>, variant: Option<TransformerVariant>) -> (usize, usize) {
    let both = section.size("num_layers", 1, LAYERS_MAX);
    let encoder = section.size("num_encoder_layers", 1, LAYERS_MAX);
    let decoder = section.size("num_decoder_layers", 1, LAYERS_MAX);
    for (key, value) in [("num_encoder_layers", encoder), ("num_decoder_layers", decoder)] {
        if both.is_some() && value.is_some() {
            let message = "cannot stand beside num_layers, which says both counts";
            section.note(key, ProblemCode::Contradiction, message, "remove one of the two");
        }
    }
    let encoder_layers = encoder.or(both).unwrap_or(6);
    let decoder_layers = decoder.or(both).unwrap_or(6);
    let no_such = |half: &str| format!("this variant has no {half}");
    match variant {
        Some(TransformerVariant::Encoder) => {
            if decoder.is_some() {
                let fix = "write num_encoder_layers or num_layers";
                section.note("num_decoder_layers", ProblemCode::Contradiction, no_such("decoder"), fix);
            }
            (encoder_layers, 0)
        }
        Some(TransformerVariant::Decoder) => {
            if encoder.is_some() {
                let fix = "write num_decoder_layers or num_layers";
                section.note("num_encoder_layers", ProblemCode::Contradiction, no_such("encoder"), fix);
            }
            (0, decoder_layers)
        }
        Some(TransformerVariant::EncoderDecoder) | None => (encoder_layers, decoder_layers),
    }
}

fn check_heads(section: &mut Section<'_>, spec: &TransformerSpec) {
    if section.touched("d_model") || section.touched("nhead") {
        return;
    }
    let (d_model, nhead) = (spec.d_model, spec.nhead);
    if !d_model.is_multiple_of(nhead) {
        let message = format!("nhead = {nhead} does not divide d_model = {d_model}");
        let near = (1..=d_model).filter(|heads| d_model.is_multiple_of(*heads));
        let near = near.min_by_key(|heads| heads.abs_diff(nhead)).unwrap_or(1);
        section.note("nhead", ProblemCode::Contradiction, message, format!("write nhead = {near}"));
        return;
    }
    if spec.positional == Positional::Rope && !(d_model / nhead).is_multiple_of(2) {
        let message = format!("rope turns pairs, and a head has {} numbers", d_model / nhead);
        section.note("positional", ProblemCode::Contradiction, message, "write an even d_model / nhead");
    }
    if spec.positional == Positional::Sinusoidal && !d_model.is_multiple_of(2) {
        let message = format!("sines and cosines come in pairs, and d_model = {d_model} is odd");
        section.note("positional", ProblemCode::Contradiction, message, "write an even d_model");
    }
}
