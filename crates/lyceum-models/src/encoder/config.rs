//! What an encoder is, apart from its weights, as `config.json` and its pooling module say.

use crate::causal_lm::families::{DescribeError, HuggingFace};
use lyceum_nn::Activation;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `bert`, `roberta` or `xlm-roberta`.
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Rows of the table of positions.
    pub max_position_embeddings: usize,
    /// The row of a text's first token (RoBERTa leaves the padding's row and those before it out).
    pub first_position: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f32,
    pub activation: Activation,
    pub head: Head,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// A vector a text.
    Embedding {
        pooling: Pooling,
        /// Vectors are scaled to length 1.
        normalise: bool,
    },
    /// A number for each label.
    Classifier { labels: Vec<String> },
    /// A number for each label of each token.
    Tokens { labels: Vec<String> },
}

/// How rows become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over the text's tokens.
    Mean,
    /// The first token's.
    First,
}

/// `model_type`s of `config.json` that are encoders.
pub const MODEL_TYPES: [&str; 3] = ["bert", "roberta", "xlm-roberta"];

const SIZE_MAX: usize = 1 << 24;

impl Config {
    /// From `config.json`, and for embeddings the modules of `sentence-transformers` where the files have them
    /// (else the mean, scaled to length 1).
    pub fn from_hugging_face(
        config: &Value,
        modules: Option<(Pooling, bool)>,
    ) -> Result<Self, DescribeError> {
        let file = HuggingFace::new(config)?;
        let model_type = file.text("model_type")?;
        let padding = file.count_or("pad_token_id", if model_type == "bert" { 0 } else { 1 })?;
        let first_position = match model_type {
            "bert" => 0,
            "roberta" | "xlm-roberta" => padding + 1,
            other => {
                let known = MODEL_TYPES.join(", ");
                let what = format!("encoder of model_type \"{other}\"; there are {known}");
                return Err(DescribeError::Unsupported(what));
            }
        };
        if file.find("position_embedding_type").is_some_and(|kind| kind != "absolute") {
            return Err(DescribeError::Unsupported("a position_embedding_type other than absolute".into()));
        }
        let activation = match file.find("hidden_act").and_then(Value::as_str) {
            None | Some("gelu") => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("relu") => Activation::Relu,
            Some(other) => return Err(DescribeError::Unsupported(format!("activation \"{other}\""))),
        };
        let is_for = |what: &str| {
            let all = file.find("architectures").and_then(Value::as_array);
            all.is_some_and(|all| all.iter().any(|a| a.as_str().is_some_and(|a| a.ends_with(what))))
        };
        let head = match (is_for("ForSequenceClassification"), is_for("ForTokenClassification")) {
            (true, _) => Head::Classifier { labels: labels(&file)? },
            (_, true) => Head::Tokens { labels: labels(&file)? },
            _ => {
                let (pooling, normalise) = modules.unwrap_or((Pooling::Mean, true));
                Head::Embedding { pooling, normalise }
            }
        };
        let config = Config {
            model_type: model_type.into(),
            vocab_size: file.count("vocab_size")?,
            hidden_size: file.count("hidden_size")?,
            intermediate_size: file.count("intermediate_size")?,
            num_hidden_layers: file.count("num_hidden_layers")?,
            num_attention_heads: file.count("num_attention_heads")?,
            max_position_embeddings: file.count("max_position_embeddings")?,
            first_position,
            type_vocab_size: file.count_or("type_vocab_size", 2)?,
            layer_norm_eps: file.number_or("layer_norm_eps", 1e-12)? as f32,
            activation,
            head,
        };
        config.check().map_err(DescribeError::Sizes)?;
        Ok(config)
    }

    /// Names of the classifier's two layers.
    pub(super) fn classifier_names(&self) -> [&'static str; 2] {
        match self.model_type.as_str() {
            "bert" => ["pooler.dense", "classifier"],
            _ => ["classifier.dense", "classifier.out_proj"],
        }
    }

    fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, value)) = sizes.into_iter().find(|&(_, n)| n == 0 || n > SIZE_MAX) {
            return Err(format!("{name} is {value}"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (c, h) = (self.hidden_size, self.num_attention_heads);
            return Err(format!("hidden_size {c} does not divide into {h} heads"));
        }
        if self.first_position >= self.max_position_embeddings || self.num_hidden_layers > 1024 {
            return Err("sizes that no text fits into".into());
        }
        Ok(())
    }
}

/// `id2label` in order, or `num_labels` numbers.
fn labels(file: &HuggingFace<'_>) -> Result<Vec<String>, DescribeError> {
    let Some(names) = file.find("id2label").and_then(Value::as_object) else {
        let n = file.count_or("num_labels", 2)?.min(1 << 16);
        return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
    };
    let name = |i: usize| names.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned);
    let all: Option<Vec<_>> = (0..names.len()).map(name).collect();
    all.filter(|all| !all.is_empty()).ok_or_else(|| DescribeError::Key {
        key: "id2label".into(),
        problem: "does not name the labels 0, 1, …".into(),
    })
}
