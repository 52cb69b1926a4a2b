//! `lyceum explain MODEL`: why it answers as it does, on the terminal and as SVG, PNG and HTML files.

mod language;
mod row;
mod svg;
mod terminal;

pub(in crate::commands) use terminal::bars;

use crate::context::{Context, Speaker};
use crate::failure::{Exit, Failure};
use crate::{files, output};
use clap::Args;
use lyceum_api::explanations::{ApiError, OptionsBody, explanation, instance};
use lyceum_models::prepare::OutputPreparation;
use lyceum_service::Payer;
use lyceum_service::completions::{self, Prompt, Sampling};
use lyceum_service::explain::{self, Answer, Explained, Explanation, Parts, TargetShown, What};
use lyceum_service::{Content, Resident, Service};
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Tokens of the continuation that is explained when none is given.
const SAID_TOKENS: usize = 24;

#[derive(Debug, Args)]
pub struct Explain {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// A text, a row as JSON ({"age": 3} or [3, "x"]), or a file: a picture, a wav, .json, .txt, .csv or .tsv
    #[arg(long, value_name = "FILE|TEXT")]
    pub(in crate::commands) input: String,
    /// Which row of a .csv or .tsv file, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::commands) row: usize,
    /// What a language model said after the input; without it, its likeliest continuation
    #[arg(long, value_name = "TEXT")]
    pub(in crate::commands) completion: Option<String>,
    /// auto, saliency, gradient_x_input, smooth_grad, integrated_gradients, grad_cam, conductance, relevance,
    /// feature_ablation, leave_one_out, occlusion, shapley, shapley_sampling, kernel_shap, linear_shap,
    /// contextcite, direct_logit_attribution, attention_weights, attention_rollout; or tracin: the training rows that pulled the answer where it is
    #[arg(long, default_value = "auto")]
    method: String,
    /// A label, an output of a regression, or a part of the continuation; without it, what the model chose
    #[arg(long)]
    target: Option<String>,
    /// Another label or text: explains the difference
    #[arg(long)]
    not: Option<String>,
    /// What of a language model's answer: content or reasoning; then --completion is all that it said, with its marks
    #[arg(long)]
    pub(in crate::commands) part: Option<String>,
    /// token, word, sentence, paragraph, message, feature, patch:N, step, channel
    #[arg(long)]
    granularity: Option<String>,
    /// zeros, mean or drop
    #[arg(long)]
    baseline: Option<String>,
    /// comprehensiveness, sufficiency, deletion_auc, insertion_auc, infidelity, sensitivity
    #[arg(long, value_delimiter = ',', value_name = "MEASURES")]
    evaluate: Vec<String>,
    /// Also the smallest change of a row of a table that gives another answer
    #[arg(long, value_name = "LABEL", num_args = 0..=1, default_missing_value = "")]
    counterfactual: Option<String>,
    #[arg(long, value_name = "N")]
    max_passes: Option<u64>,
    /// The same seed gives the same numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Of integrated_gradients and conductance
    #[arg(long, value_name = "N")]
    n_steps: Option<usize>,
    /// Of smooth_grad, kernel_shap and contextcite
    #[arg(long, value_name = "N")]
    n_samples: Option<usize>,
    /// Of grad_cam and conductance
    #[arg(long)]
    layer: Option<String>,
    /// Also write a drawing
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) svg: Option<PathBuf>,
    /// Also write the heat map of a picture
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) png: Option<PathBuf>,
    /// Also write a page with the drawing and every number
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) html: Option<PathBuf>,
    /// With --url: columns of a file that the model does not read, such as the target
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub(in crate::commands) without: Vec<String>,
}

impl Explain {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        crate::commands::predict::without_url(&self.without)?;
        let (service, speaker) = context.speaker(&self.model).await?;
        let (model, field, what) = match speaker {
            Speaker::Trained(resident) => {
                let what = self.what(context, &service, &resident).await?;
                (resident.version.id().parse()?, field(&resident), what)
            }
            Speaker::Language(reference, language) => {
                let what = language::what(&self, context, &service, (&reference, &language)).await?;
                (reference, "text", what)
            }
        };
        let (options, extras) = self.options(field)?.parse("").map_err(refused)?;
        let request = explain::Request { model, what, options };
        let explained = explain::create(&service, &Payer::local(&context.project), request).await?;
        let body = explanation(&explained, extras);
        self.write_files(&explained, &body)?;
        if context.is_json() {
            output::json_line(&body);
            return Ok(());
        }
        terminal::show(&explained, output::stdout_has_color());
        Ok(())
    }

    /// The options as the wire has them, so that both doors take and refuse the same.
    fn options(&self, field: &str) -> Result<OptionsBody, Failure> {
        serde_json::from_value(Value::Object(self.option_values(field))).map_err(|error| {
            Failure::usage(error.to_string(), "an option has a value that it does not take", "see --help")
        })
    }

    /// The options as JSON; `field` is what a target is called for this kind of model.
    pub(in crate::commands) fn option_values(&self, field: &str) -> Map<String, Value> {
        let mut options = Map::new();
        options.insert("method".into(), self.method.clone().into());
        options.insert("seed".into(), self.seed.into());
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                options.insert(name.into(), value);
            }
        };
        put("granularity", self.granularity.clone().map(Value::from));
        put("baseline", self.baseline.as_ref().map(|baseline| json!({ "type": baseline })));
        put("evaluate", (!self.evaluate.is_empty()).then(|| self.evaluate.clone().into()));
        put(
            "counterfactual",
            self.counterfactual.as_ref().map(|label| match label.as_str() {
                "" => json!({}),
                label => json!({ "label": label }),
            }),
        );
        put("max_passes", self.max_passes.map(Value::from));
        put("n_steps", self.n_steps.map(Value::from));
        put("n_samples", self.n_samples.map(Value::from));
        put("layer", self.layer.clone().map(Value::from));
        let mut target = Map::new();
        if let Some(name) = &self.target {
            target.insert(field.into(), name.clone().into());
        }
        if let Some(not) = &self.not {
            target.insert("not".into(), not.clone().into());
        }
        if let Some(part) = &self.part {
            target.insert("part".into(), part.clone().into());
        }
        if !target.is_empty() {
            options.insert("target".into(), target.into());
        }
        options
    }

    async fn what(&self, context: &Context, service: &Service, resident: &Resident) -> Result<What, Failure> {
        let path = Path::new(&self.input);
        let content = match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") if path.is_file() => row::row(resident, path, self.row, b',')?,
            Some("tsv") if path.is_file() => row::row(resident, path, self.row, b'\t')?,
            _ => content(&self.input)?,
        };
        if resident.preparation.output != OutputPreparation::Tokens {
            if self.completion.is_some() {
                let why = format!("{} continues no text", resident.version.id());
                return Err(Failure::usage("--completion has no meaning here", why, "leave it out"));
            }
            return Ok(What::Input(content));
        }
        let Content::Text(prompt) = content else {
            let why = "a language model reads a text";
            return Err(Failure::usage("--input is no text", why, "give a text or a .txt file"));
        };
        let completion = match &self.completion {
            Some(completion) => completion.clone(),
            None => {
                let model = resident.version.id().parse()?;
                // Within the context; `None` would be OpenAI's 16.
                let most = resident.model.context().is_none().then_some(SAID_TOKENS);
                said(context, service, &model, (&prompt, most)).await?
            }
        };
        Ok(What::Continuation { prompt, completion })
    }

    fn write_files(&self, explained: &Explained, body: &Value) -> Result<(), Failure> {
        let drawn = |flag: &str| match &explained.answer {
            Answer::Attributions { target, parts, explanation, .. } => Ok((target, parts, explanation)),
            Answer::Attention(_) => {
                let why = "weights of attention are not an explanation, and are not drawn as one";
                Err(Failure::usage(format!("{flag} has no meaning here"), why, "use --json"))
            }
            Answer::Influence(_) => {
                let why = "rows of a file are a list, and not a drawing";
                Err(Failure::usage(format!("{flag} has no meaning here"), why, "use --json"))
            }
        };
        if let Some(path) = &self.svg {
            let (_, parts, explanation) = drawn("--svg")?;
            write(path, svg::drawing(parts, explanation).as_bytes())?;
        }
        if let Some(path) = &self.png {
            let (_, parts, explanation) = drawn("--png")?;
            write(path, &png(parts, explanation)?)?;
        }
        if let Some(path) = &self.html {
            let (target, parts, explanation) = drawn("--html")?;
            let page = svg::page(&explained.model, &target_text(target), parts, explanation, body);
            write(path, page.as_bytes())?;
        }
        Ok(())
    }
}

/// What a target is called for this kind of model.
fn field(resident: &Resident) -> &'static str {
    match resident.preparation.output {
        OutputPreparation::Labels { .. } | OutputPreparation::StepLabels { .. } => "label",
        OutputPreparation::Values { .. } => "output",
        OutputPreparation::Tokens => "text",
    }
}

/// A file by its kind, JSON by its first character, or the text itself.
fn content(input: &str) -> Result<Content, Failure> {
    let path = Path::new(input);
    let bytes_max = limits::BODY_BYTES_MAX as u64;
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    let text = match extension.as_deref() {
        Some("png" | "jpg" | "jpeg" | "webp" | "gif" | "wav") if path.is_file() => {
            return Ok(Content::File(files::read_bytes(path, bytes_max)?));
        }
        Some("json" | "txt") if path.is_file() => files::read_text(path, bytes_max)?,
        _ => input.to_owned(),
    };
    if text.trim_start().starts_with(['{', '[']) {
        let value: Value = serde_json::from_str(&text).map_err(|error| {
            Failure::usage("--input is not JSON", error.to_string(), "write {\"age\": 3} or [3, \"x\"]")
        })?;
        return instance("input", value).map_err(refused);
    }
    Ok(Content::Text(text.strip_suffix('\n').map_or(text.clone(), str::to_owned)))
}

/// The likeliest continuation.
async fn said(
    context: &Context,
    service: &Service,
    model: &ModelRef,
    (prompt, max_tokens): (&str, Option<usize>),
) -> Result<String, Failure> {
    let request = completions::Request {
        model: model.clone(),
        prompts: vec![Prompt::Text(prompt.to_owned())],
        n: 1,
        max_tokens,
        sampling: Sampling { seed: Some(0), ..Sampling::greedy() },
        stop: Vec::new(),
        stop_ids: Vec::new(),
        logprobs: None,
        prompt_logprobs: None,
        echo: false,
        ignore_eos: false,
        priority: completions::Priority::Interactive,
    };
    let mut running = completions::create(service, &Payer::local(&context.project), request).await?;
    let mut text = String::new();
    while let Some(piece) = running.next().await? {
        text.push_str(&piece.text);
    }
    Ok(text)
}

fn png(parts: &Parts, explanation: &Explanation) -> Result<Vec<u8>, Failure> {
    let values: Vec<f64> = explanation.attributions.iter().map(|a| a.value).collect();
    match (parts, parts.heatmap(explanation.elements.as_deref(), &values)) {
        (Parts::Image { height, width, .. }, Some(map)) if values.len() > 1 || map.len() == 1 => {
            Ok(explain::heatmap_png(&map, *height, *width))
        }
        _ => {
            let why = "a PNG is the heat map of a picture";
            Err(Failure::usage("--png has no meaning here", why, "use --svg or --html"))
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|error| Failure::file("write", path, &error))?;
    output::note(format!("wrote {}", path.display()));
    Ok(())
}

/// What the HTTP door would have said, as a failure of the command.
fn refused(error: ApiError) -> Failure {
    let code = error.detail.code.unwrap_or("invalid_value");
    let why = match error.detail.param {
        Some(param) => format!("it is about {param}"),
        None => "the request cannot be read".into(),
    };
    let fix = "lyceum explain --help shows what can be asked";
    Failure::new(Exit::Usage, code, error.detail.message, why, fix)
}

/// What is explained, for people.
fn target_text(target: &TargetShown) -> String {
    let not = |not: &Option<String>| not.as_ref().map_or(String::new(), |not| format!(" rather than {not}"));
    match target {
        TargetShown::Label { label, not: other, step: None } => format!("{label}{}", not(other)),
        TargetShown::Label { label, not: other, step: Some(step) } => {
            format!("{label}{} at step {step}", not(other))
        }
        TargetShown::Choice { label, not: other, .. } => format!("{label}{}", not(other)),
        TargetShown::Output { output } => output.clone(),
        TargetShown::Text { text, not: other, .. } => format!("{text:?}{}", not(other)),
    }
}

/// The name of each attribution: a span's text, a column, a patch, a step, a unit.
pub fn names(parts: &Parts, explanation: &Explanation) -> Vec<String> {
    let n = explanation.attributions.len();
    if let explain::Of::Layer { name, .. } = &explanation.of {
        return (0..n).map(|i| format!("{name} unit {i}")).collect();
    }
    if let explain::Of::Components(names) = &explanation.of {
        return names.clone();
    }
    match parts {
        Parts::Text { text, spans } => {
            let characters: Vec<char> = text.chars().collect();
            spans.iter().map(|span| characters[span.clone()].iter().collect()).collect()
        }
        Parts::Table { rows } => rows
            .iter()
            .map(|(name, x)| match x {
                Value::String(text) => format!("{name} = {text}"),
                Value::Null => format!("{name} is missing"),
                other => format!("{name} = {other}"),
            })
            .collect(),
        Parts::Image { width, patch, .. } => {
            let across = width.div_ceil(*patch);
            (0..n).map(|i| format!("row {}, column {}", i / across * patch, i % across * patch)).collect()
        }
        Parts::Series { names } => names.clone(),
        Parts::Messages { contents, spans } => {
            let part = |(message, span): &(usize, std::ops::Range<usize>)| {
                contents[*message].chars().skip(span.start).take(span.len()).collect()
            };
            spans.iter().map(part).collect()
        }
    }
}
