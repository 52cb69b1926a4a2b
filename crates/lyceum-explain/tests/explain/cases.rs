//! Models with inputs: those of the fixture, and fresh ones of every family.

use lyceum_explain::{
    Baseline, Check, ExplainError, Explanation, Groups, Method, Quantity, Request, Subject, Target, Term,
    ThisThread, attribute,
};
use lyceum_models::batch::{Input, Tokens};
use lyceum_models::{InputShape, Model, ModelShape, OutputShape};
use lyceum_nn::weights::{Tensor, read_safetensors};
use lyceum_types::control::Control;
use lyceum_types::spec::{ModelSpec, Spec};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

pub struct Fixture {
    json: Value,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    pub fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let text = std::fs::read_to_string(folder.join("explain.json")).unwrap();
        let bytes = std::fs::read(folder.join("explain.safetensors")).unwrap();
        Fixture { json: serde_json::from_str(&text).unwrap(), tensors: read_safetensors(&bytes).unwrap() }
    }

    pub fn names(&self) -> Vec<String> {
        self.json.as_object().unwrap().keys().cloned().collect()
    }

    pub fn find(&self, case: &str, name: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{case}.{name}"))
    }

    pub fn numbers(&self, case: &str, name: &str) -> &[f32] {
        &self.find(case, name).unwrap_or_else(|| panic!("the fixture has {case}.{name}")).data
    }

    /// Every tensor of a case that is an attribution.
    pub fn count(&self, case: &str, prefix: &str) -> usize {
        self.tensors.keys().filter(|k| k.starts_with(&format!("{case}.{prefix}"))).count()
    }

    pub fn case(&self, case: &str) -> Case {
        let json = &self.json[case];
        let spec = model_spec(&json["model"]);
        let (input, shape) = match self.find(case, "ids") {
            Some(ids) => {
                let ids: Vec<u32> = ids.data.iter().map(|&x| x as u32).collect();
                (Input::Tokens(Tokens::single(&ids)), InputShape::Tokens { vocabulary: 11, time: 9 })
            }
            None => {
                let tensor = self.find(case, "input").unwrap();
                let dims = tensor.dims[1..].to_vec();
                let shape = match dims[..] {
                    [n] => InputShape::Features { n },
                    [c, h, w] => InputShape::Image { shape: [c, h, w] },
                    _ => panic!("unexpected input {dims:?}"),
                };
                (Input::Dense { shape: dims, data: tensor.data.clone() }, shape)
            }
        };
        let shape = ModelShape { input: shape, output: OutputShape::Classes { n: 3 } };
        let mut model = Model::new(&spec, &shape, 0).unwrap();
        for id in model.params.ids() {
            let tensor = self.find(case, &format!("init.{}", model.params.name(id))).unwrap();
            model.params.set(id, &tensor.dims, tensor.data.clone()).unwrap();
        }
        let groups = json["groups"].as_array().unwrap().iter().map(|g| Some(g.as_u64().unwrap() as u32));
        Case {
            model: Arc::new(model),
            input,
            groups: Groups::new(groups.collect()).unwrap(),
            target: json["target"].as_u64().unwrap() as usize,
        }
    }
}

/// A model part of a job spec.
pub fn model_spec(model: &Value) -> ModelSpec {
    let task = match (model["family"].as_str(), model["variant"].as_str(), model["head"].as_str()) {
        (_, Some("decoder"), _) | (_, _, Some("next")) => "language_modeling",
        (_, Some("encoder_decoder"), _) => "sequence_to_sequence",
        _ => "classification",
    };
    let document = json!({
        "name": "explained", "task": task, "data": { "train": "x.csv", "target": "y" },
        "model": model, "train": { "epochs": 1 },
    });
    Spec::from_json(&document).unwrap_or_else(|e| panic!("{model}: {e}")).model
}

pub struct Case {
    pub model: Arc<Model>,
    pub input: Input,
    pub groups: Groups,
    pub target: usize,
}

impl Case {
    pub fn subject(&self, quantity: Quantity) -> Result<Subject, ExplainError> {
        let quantity = match self.model.shape.output {
            OutputShape::Values { .. } => Quantity::Value { scale: 2.0, shift: 3.0 },
            _ => quantity,
        };
        let row = match (&self.model.shape.output, &self.input) {
            (OutputShape::Classes { .. } | OutputShape::Values { .. }, _) => 0,
            (_, Input::Tokens(tokens)) => tokens.time - 1,
            (_, Input::Pair { target, .. }) => target.time - 1,
            (_, Input::Dense { shape, .. }) => shape[0] - 1,
        };
        let terms = vec![Term { row, class: self.target, not: None }];
        let target = Target::new(terms, quantity, &self.model.shape.output)?;
        Subject::new(self.model.clone(), self.input.clone(), target, self.groups.clone())
    }

    pub fn explain(&self, method: Method, baseline: Baseline) -> Result<Explanation, ExplainError> {
        self.explain_and(method, baseline, Quantity::Logit, &[])
    }

    pub fn explain_and(
        &self,
        method: Method,
        baseline: Baseline,
        quantity: Quantity,
        evaluate: &[Check],
    ) -> Result<Explanation, ExplainError> {
        let request = Request {
            subject: self.subject(quantity)?,
            method,
            baseline,
            evaluate: evaluate.to_vec(),
            max_passes: 20_000,
            seed: 7,
        };
        attribute(&request, &mut ThisThread::new(), &Control::new())
    }

    /// The same question of a model with other weights.
    pub fn with_model(&self, model: Model) -> Case {
        Case {
            model: Arc::new(model),
            input: self.input.clone(),
            groups: self.groups.clone(),
            target: self.target,
        }
    }
}

/// One model of each family and kind of input, with some weights and one input.
pub fn families() -> Vec<(&'static str, Case)> {
    let image = InputShape::Image { shape: [2, 8, 8] };
    let series = InputShape::Series { steps: 7, channels: 2 };
    let tokens = InputShape::Tokens { vocabulary: 13, time: 9 };
    let pair = InputShape::Pair { vocabulary: 13, source_time: 9, target_time: 6 };
    let features = InputShape::Features { n: 6 };
    let classes = OutputShape::Classes { n: 3 };
    let words = OutputShape::Tokens { vocabulary: 13 };
    let transformer = |variant: &str, layers: &str, more: Value| {
        let mut model = json!({
            "family": "transformer", "variant": variant, "d_model": 8, "nhead": 2, "dim_feedforward": 12,
            "positional": "learned", "context": 9, "dropout": 0.0, layers: 2,
        });
        model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        model
    };
    let pair_spec = transformer("encoder_decoder", "num_encoder_layers", json!({ "num_decoder_layers": 1 }));
    let rope = json!({ "positional": "rope", "norm": "rms", "activation": "silu", "norm_first": true });
    let list = vec![
        (
            "mlp",
            json!({ "family": "mlp", "hidden": [7, 5], "activation": "gelu" }),
            features.clone(),
            classes,
        ),
        ("linear", json!({ "family": "mlp", "hidden": [] }), features.clone(), classes),
        (
            "mlp_regression",
            json!({ "family": "mlp", "hidden": [7], "activation": "silu" }),
            features,
            OutputShape::Values { n: 3 },
        ),
        (
            "cnn",
            json!({ "family": "cnn", "conv": [{ "channels": 4, "kernel": 3, "padding": 1, "norm": "batch", "pool": 2 },
                { "channels": 4, "kernel": 3, "padding": 1, "norm": "group", "residual": 1 }],
                "global_pool": "avg", "hidden": [5], "activation": "relu" }),
            image.clone(),
            classes,
        ),
        (
            "cnn_1d",
            json!({ "family": "cnn", "conv": [{ "channels": 4, "kernel": 3, "padding": 1 }], "global_pool": "max",
                "activation": "gelu" }),
            series.clone(),
            classes,
        ),
        ("mlp_image", json!({ "family": "mlp", "hidden": [6], "activation": "relu" }), image, classes),
        ("rnn", json!({ "family": "rnn", "head": "last", "hidden_size": 5 }), series.clone(), classes),
        (
            "gru",
            json!({ "family": "gru", "head": "last", "hidden_size": 5, "embedding_dim": 4, "bidirectional": true,
                "num_layers": 2 }),
            tokens.clone(),
            classes,
        ),
        (
            "lstm_language",
            json!({ "family": "lstm", "head": "next", "hidden_size": 5, "embedding_dim": 4, "bptt": 3 }),
            tokens.clone(),
            words,
        ),
        (
            "lstm_pair",
            json!({ "family": "lstm", "head": "step", "hidden_size": 5, "embedding_dim": 4 }),
            pair.clone(),
            words,
        ),
        (
            "encoder",
            transformer("encoder", "num_layers", json!({ "norm_first": true })),
            tokens.clone(),
            classes,
        ),
        ("encoder_series", transformer("encoder", "num_layers", json!({})), series, classes),
        ("decoder", transformer("decoder", "num_layers", rope), tokens, words),
        ("encoder_decoder", pair_spec, pair, words),
    ];
    list.into_iter().map(|(name, model, input, output)| (name, fresh(&model, input, output, 3))).collect()
}

/// A model with drawn weights and one input.
pub fn fresh(model: &Value, input: InputShape, output: OutputShape, seed: u64) -> Case {
    let shape = ModelShape { input: input.clone(), output };
    let mut model = Model::new(&model_spec(model), &shape, seed).unwrap();
    // Starts are small, and equal outputs explain nothing: louder weights, biases included.
    for id in model.params.ids() {
        let name = model.params.name(id).to_owned();
        let loud = name.contains("embedding") || name.contains("position");
        let noisy = name.ends_with("bias");
        for (i, w) in model.params.value_mut(id).iter_mut().enumerate() {
            if loud {
                *w = ((i as f32 + 1.0) * 12.9898).sin();
            } else if noisy {
                *w += 0.1 * ((i as f32 + 1.0) * 7.233).sin();
            } else if !name.contains("norm") {
                *w *= 2.0;
            }
        }
    }
    let number = |i: usize| ((i as f32 + seed as f32) * 1.7).sin();
    let ids: Vec<u32> = [3, 1, 4, 12, 5, 9, 2].to_vec();
    let dense = |shape: Vec<usize>| {
        let data = (0..shape.iter().product::<usize>()).map(number).collect();
        Input::Dense { shape, data }
    };
    let (input, groups) = match input {
        InputShape::Features { n } => (dense(vec![n]), Groups::each(n).unwrap()),
        InputShape::Image { shape: [c, h, w] } => {
            let patch = |i: usize| Some((i % (h * w) / w / 4 * (w / 4) + i % w / 4) as u32);
            (dense(vec![c, h, w]), Groups::new((0..c * h * w).map(patch).collect()).unwrap())
        }
        InputShape::Series { steps, channels } => {
            let step = |i: usize| Some((i / channels) as u32);
            (dense(vec![steps, channels]), Groups::new((0..steps * channels).map(step).collect()).unwrap())
        }
        InputShape::Tokens { .. } => (Input::Tokens(Tokens::single(&ids)), Groups::each(ids.len()).unwrap()),
        InputShape::Pair { .. } => (
            Input::Pair { source: Tokens::single(&ids), target: Tokens::single(&[1, 6, 8]) },
            Groups::each(ids.len()).unwrap(),
        ),
    };
    Case { model: Arc::new(model), input, groups, target: 1 }
}
