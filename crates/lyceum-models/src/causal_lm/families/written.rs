//! A configuration as `config.json`, for a model that came without one (GGUF): what this program and `transformers` read
//! as the same model, or a refusal.

use super::{DescribeError, FAMILIES};
use crate::causal_lm::config::{Config, Rope, Scaling};
use lyceum_nn::Activation;
use serde_json::{Value, json};

/// What a number may be off after it was written in another form, as a part of itself.
pub(super) const ROUNDING: f64 = 1e-5;
/// `factor` of the Llama 3.1 and 3.2 files, whose frequencies GGUF has as divisors.
const LLAMA3_FACTORS: [f64; 2] = [8.0, 32.0];

/// `config.json` of a model.
///
/// # Errors
/// A model whose `config.json` would be read as another one.
pub fn to_hugging_face(config: &Config) -> Result<Value, DescribeError> {
    let family = FAMILIES
        .iter()
        .find(|family| (family.is_own)(config))
        .ok_or_else(|| DescribeError::Unsupported(format!("writing config.json of {}", config.model_type)))?;
    let first = config.ropes.first().ok_or_else(|| {
        DescribeError::Unsupported("writing config.json of a model without rotary positions".into())
    })?;
    let mut written = json!({
        "architectures": [family.class], "model_type": family.model_type, "torch_dtype": "float32",
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.layers.len(),
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads, "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": shortest(config.rms_norm_eps), "tie_word_embeddings": config.tie_word_embeddings,
        "rope_theta": first.theta, "rope_scaling": scaling(first, config.head_dim)?,
        "attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias,
    });
    let activation = match config.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Gelu => "gelu",
        _ => return Err(DescribeError::Unsupported("writing config.json with this activation".into())),
    };
    written["hidden_act"] = json!(activation);
    (family.to_hugging_face)(config, &mut written);
    let (_, read) = super::from_hugging_face(&written)?;
    match difference(config, &read) {
        None => Ok(written),
        Some(what) => {
            let family = family.model_type;
            Err(DescribeError::Unsupported(format!("{what} of this model in a {family} config.json")))
        }
    }
}

/// The window of those layers that have one, and which these are.
pub(super) fn layer_types(config: &Config, file: &mut Value) {
    let types = |window: Option<usize>| match window {
        Some(_) => "sliding_attention",
        None => "full_attention",
    };
    let types: Vec<&str> = config.layers.iter().map(|layer| types(layer.window)).collect();
    (file["sliding_window"], file["layer_types"]) = (json!(config.window()), json!(types));
}

/// The number that people wrote, in f64.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

fn scaling(rope: &Rope, head_dim: usize) -> Result<Value, DescribeError> {
    let llama3 = |factor: f64| Scaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    let written = |scaling: &Scaling| match scaling {
        Scaling::None => Some(Value::Null),
        Scaling::Linear { factor } => Some(json!({ "rope_type": "linear", "factor": factor })),
        Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            Some(json!({ "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_context }))
        }
        Scaling::Divisors(_) => None,
    };
    let alike =
        |other: &Scaling| same_angles(rope, &Rope { scaling: other.clone(), ..rope.clone() }, head_dim);
    let known = LLAMA3_FACTORS.map(llama3);
    let found = written(&rope.scaling).or_else(|| known.iter().find(|known| alike(known)).and_then(written));
    found.ok_or_else(|| {
        let what = "writing config.json with these divisors of rotary frequencies, which are not Llama 3.1's or 3.2's";
        DescribeError::Unsupported(what.into())
    })
}

fn same_angles(a: &Rope, b: &Rope, head_dim: usize) -> bool {
    let (a, b) = (a.frequencies(head_dim), b.frequencies(head_dim));
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a / b - 1.0).abs() < ROUNDING)
}

/// What of two models is not the same; None: they compute the same of the same weights.
fn difference(config: &Config, read: &Config) -> Option<&'static str> {
    let angles =
        |config: &Config, i: usize| config.layers[i].rope.and_then(|rope| config.ropes.get(rope)).cloned();
    if config.layers.len() != read.layers.len() {
        return Some("the number of layers");
    }
    for i in 0..config.layers.len() {
        if config.layers[i].window != read.layers[i].window {
            return Some("the sliding windows");
        }
        let same = match (angles(config, i), angles(read, i)) {
            (None, None) => true,
            (Some(a), Some(b)) => same_angles(&a, &b, config.head_dim),
            _ => false,
        };
        if !same {
            return Some("the rotary positions");
        }
    }
    if (config.attention_scale / read.attention_scale - 1.0).abs() > ROUNDING as f32 {
        return Some("the scale of attention");
    }
    // What was compared, and how files are written, is no difference of the rest.
    let rest = Config {
        model_type: config.model_type.clone(),
        attention_scale: config.attention_scale,
        norm_weights_minus_one: config.norm_weights_minus_one,
        ropes: config.ropes.clone(),
        layers: config.layers.clone(),
        ..read.clone()
    };
    (rest != *config).then_some("a size, a norm or a bias")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal_lm::config::Layer;

    fn llama() -> Config {
        Config {
            model_type: "llama".into(),
            vocab_size: 100,
            hidden_size: 32,
            intermediate_size: 64,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
            max_position_embeddings: 128,
            rms_norm_eps: 1e-5,
            activation: Activation::Silu,
            tie_word_embeddings: true,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            post_norms: false,
            norm_weights_minus_one: false,
            embedding_scale: None,
            attention_scale: 1.0 / 8f32.sqrt(),
            ropes: vec![Rope::plain(10_000.0)],
            layers: vec![Layer { window: None, rope: Some(0) }; 7],
        }
    }

    #[track_caller]
    fn read(config: &Config) -> (&'static str, Config) {
        let written = to_hugging_face(config).unwrap();
        let (family, read) = crate::causal_lm::families::from_hugging_face(&written).unwrap();
        (family.model_type, read)
    }

    #[test]
    fn what_is_written_is_read_as_the_same_model() {
        assert_eq!(read(&llama()), ("llama", llama()));
        let rope = |scaling| vec![Rope { theta: 500_000.0, scaling }];
        let linear = Config { ropes: rope(Scaling::Linear { factor: 4.0 }), ..llama() };
        assert_eq!(read(&linear).1, linear);
        let biased = Config { qkv_bias: true, o_bias: true, mlp_bias: true, ..llama() };
        assert_eq!(read(&biased).1, biased);
        let qwen = Config { model_type: "qwen2".into(), qkv_bias: true, ..llama() };
        assert_eq!(read(&qwen), ("qwen2", qwen.clone()));
        let qwen = Config { model_type: "qwen3".into(), qk_norm: true, ..llama() };
        assert_eq!(read(&qwen), ("qwen3", qwen.clone()));
        let mut smol = Config { model_type: "smollm3".into(), ..llama() };
        smol.layers[3].rope = None;
        assert_eq!(read(&smol), ("smollm3", smol.clone()));
        let mut mistral = llama();
        mistral.layers.iter_mut().for_each(|layer| layer.window = Some(16));
        let (model_type, found) = read(&mistral);
        assert_eq!((model_type, found.layers), ("mistral", mistral.layers));
        let mut gemma = Config {
            model_type: "gemma3".into(),
            activation: Activation::GeluTanh,
            qk_norm: true,
            post_norms: true,
            embedding_scale: Some(32f32.sqrt()),
            ropes: vec![Rope { theta: 1e6, scaling: Scaling::Linear { factor: 8.0 } }, Rope::plain(10_000.0)],
            ..llama()
        };
        for (i, layer) in gemma.layers.iter_mut().enumerate() {
            *layer = Layer { window: (i != 5).then_some(16), rope: Some(usize::from(i != 5)) };
        }
        let (model_type, found) = read(&gemma);
        assert_eq!((model_type, found.norm_weights_minus_one), ("gemma3_text", true));
        assert_eq!((found.ropes, found.layers), (gemma.ropes, gemma.layers));
    }

    #[test]
    fn llama_3s_angles_are_known_and_others_are_refused() {
        let scaling = Scaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let rope = Rope { theta: 500_000.0, scaling };
        let plain = Rope::plain(500_000.0).frequencies(8);
        let divisors = plain.iter().zip(rope.frequencies(8)).map(|(a, b)| (a / b) as f32).collect();
        let of = |divisors| Config {
            ropes: vec![Rope { theta: 500_000.0, scaling: Scaling::Divisors(divisors) }],
            ..llama()
        };
        assert_eq!(read(&of(divisors)).1.ropes, [rope]);
        let refused = |config: &Config| to_hugging_face(config).unwrap_err().to_string();
        assert!(refused(&of(vec![1.0, 2.0, 3.0, 4.0])).contains("divisors"));
        // Biases of queries without one of the output are Qwen2's alone, and a llama's config.json cannot say it.
        let odd = Config { qkv_bias: true, ..llama() };
        assert!(refused(&odd).contains("bias"), "{}", refused(&odd));
        assert!(refused(&Config { model_type: "other".into(), ..llama() }).contains("other"));
    }
}
