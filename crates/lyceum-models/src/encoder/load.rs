//! An encoder's weights from Hugging Face's layout.

use super::{Config, Encoder, Head, Pooling};
use crate::causal_lm::families::DescribeError;
use crate::from_checkpoint::{LoadError, Naming, Reader};
use lyceum_kernels::stored::Stored;
use lyceum_nn::Params;
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_types::control::Control;
use serde_json::Value;

/// The files that describe an encoder.
pub struct Description<'a> {
    /// `config.json`.
    pub config: &'a Value,
    /// `modules.json` of sentence-transformers, and the pooling module's own `config.json`.
    pub modules: Option<(&'a Value, &'a Value)>,
}

pub struct Loaded {
    pub params: Params,
    pub model: Encoder,
    /// What a user should be told.
    pub notes: Vec<String>,
}

/// Reads every tensor that the encoder needs; matrices stay in the file's type or become `quant`.
pub fn load(
    checkpoint: Checkpoint,
    description: &Description<'_>,
    quant: Option<Stored>,
    control: &Control,
) -> Result<Loaded, LoadError> {
    let modules = description.modules.map(|(modules, pooling)| pooled(modules, pooling)).transpose()?;
    let config = Config::from_hugging_face(description.config, modules)?;
    let prefixes = ["", "bert.", "roberta."];
    let word = "embeddings.word_embeddings.weight";
    let prefix = prefixes.iter().find(|prefix| checkpoint.find(&format!("{prefix}{word}")).is_some());
    let prefix =
        prefix.ok_or_else(|| LoadError::Tensor { name: word.into(), problem: "is missing".into() })?;
    let names = Prefixed(prefix);
    let mut reader = Reader::new(checkpoint, &names, quant, control);
    let model = Encoder::build(config, &mut reader)?;
    let Reader { checkpoint, params, mut notes, .. } = reader;
    // Heads of pre-training, and what a head that is not asked for would use.
    let spare = |name: &str| {
        let inner = name.strip_prefix(*prefix).unwrap_or(name);
        // A classifier of whole texts alone has a pooler.
        let spares_pooler = !matches!(model.config.head, Head::Classifier { .. });
        name.starts_with("cls.")
            || name.starts_with("lm_head.")
            || (spares_pooler && inner.starts_with("pooler."))
            || inner == "embeddings.position_ids"
    };
    if let Some(name) = checkpoint.names().find(|name| !spare(name)) {
        let problem = format!("is not part of this {} model", model.config.model_type);
        return Err(LoadError::Tensor { name: name.into(), problem });
    }
    let left = checkpoint.names().count();
    if left > 0 {
        notes.push(format!("{left} tensors of heads that are not used were left out"));
    }
    Ok(Loaded { params, model, notes })
}

/// The model's own parameters below a prefix; a classifier stands beside them.
struct Prefixed<'a>(&'a str);

impl Naming for Prefixed<'_> {
    fn tensor(&self, name: &str) -> String {
        if name.starts_with("classifier") { name.into() } else { format!("{}{name}", self.0) }
    }
}

/// Pooling and normalisation from `modules.json` and the pooling module's settings.
fn pooled(modules: &Value, pooling: &Value) -> Result<(Pooling, bool), DescribeError> {
    let kinds: Vec<&str> =
        modules.as_array().into_iter().flatten().filter_map(|m| m["type"].as_str()).collect();
    let mut normalise = false;
    for kind in &kinds {
        match kind.rsplit('.').next().unwrap_or(kind) {
            "Transformer" | "Pooling" => {}
            "Normalize" => normalise = true,
            other => return Err(DescribeError::Unsupported(format!("the module {other} of modules.json"))),
        }
    }
    let on: Vec<&String> = pooling
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with("pooling_mode_") && value.as_bool() == Some(true))
        .map(|(key, _)| key)
        .collect();
    let by_name = pooling["pooling_mode"].as_str();
    match (&on[..], by_name) {
        ([mode], _) if mode.as_str() == "pooling_mode_mean_tokens" => Ok((Pooling::Mean, normalise)),
        ([mode], _) if mode.as_str() == "pooling_mode_cls_token" => Ok((Pooling::First, normalise)),
        ([], Some("mean")) => Ok((Pooling::Mean, normalise)),
        ([], Some("cls")) => Ok((Pooling::First, normalise)),
        _ => Err(DescribeError::Unsupported(format!("pooling {on:?} {by_name:?} (mean and cls are)"))),
    }
}
