//! `lyceum predict MODEL FILE`: an answer for every row.

use crate::context::Context;
use crate::failure::Failure;
use crate::{files, output};
use clap::Args;
use lyceum_models::answer::{Bounds, Question};
use lyceum_models::prepare::OutputPreparation;
use lyceum_nn::{Examples, Recording, Tape, Workspace};
use lyceum_service::Payer;
use lyceum_service::predict::{self, Prediction};
use lyceum_service::{Content, Resident, Service};
use lyceum_train::data::{self, Dataset};
use lyceum_train::{TrainError, eval};
use lyceum_types::control::Control;
use lyceum_types::limits;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Rows that are answered together.
const BATCH: usize = 256;
/// Tokens of one written answer.
const ANSWER_TOKENS_MAX: usize = 256;
/// Files that are one row each.
pub const SINGLE: [&str; 7] = ["png", "jpg", "jpeg", "webp", "gif", "wav", "bmp"];

#[derive(Debug, Args)]
pub struct Predict {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// Rows in the format that the model was trained on (targets may be missing), or one picture or wav file
    pub(in crate::commands) file: PathBuf,
    /// With --url: columns of the file that the model does not read, such as the target
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub(in crate::commands) without: Vec<String>,
}

impl Predict {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        without_url(&self.without)?;
        let (service, resident) = context.resident(&self.model).await?;
        let extension = self.file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if SINGLE.contains(&extension.to_lowercase().as_str()) {
            let content = Content::File(files::read_bytes(&self.file, limits::BODY_BYTES_MAX as u64)?);
            say(context, 0, &one(context, &service, &resident, content).await?);
            return Ok(());
        }
        let (asked, path, control) = (resident.clone(), self.file, context.control.clone());
        let work = move || answers(&asked, &path, &control);
        let done = tokio::task::spawn_blocking(work).await;
        let answers = done.map_err(|error| Failure::internal("the prediction broke off", &error))??;
        answers.iter().enumerate().for_each(|(row, answer)| say(context, row, answer));
        Ok(())
    }
}

/// What a model reads is known where it is loaded.
pub fn without_url(without: &[String]) -> Result<(), Failure> {
    if without.is_empty() {
        return Ok(());
    }
    let why = "the model's own columns are taken, and no others";
    Err(Failure::usage("--without has no meaning without --url", why, "leave it out"))
}

/// The answer to one raw input, as `output` and `probabilities`.
pub async fn one(
    context: &Context,
    service: &Service,
    resident: &Resident,
    content: Content,
) -> Result<Value, Failure> {
    let reference = resident.version.id().parse()?;
    let (_, answers) =
        predict::create(service, &Payer::local(&context.project), &reference, &[content]).await?;
    Ok(answers.first().map_or(Value::Null, of_service))
}

fn of_service(prediction: &Prediction) -> Value {
    match prediction {
        Prediction::Label { label, probabilities } => {
            let probabilities: Map<String, Value> =
                probabilities.iter().map(|(name, p)| (name.clone(), Value::from(*p))).collect();
            json!({ "output": label, "probabilities": probabilities })
        }
        Prediction::Number(number) => json!({ "output": number }),
        Prediction::Numbers(numbers) => json!({ "output": numbers }),
        Prediction::Steps(steps) => {
            let steps: Vec<Value> = steps.iter().map(|step| of_service(step)["output"].clone()).collect();
            json!({ "output": steps })
        }
    }
}

pub fn say(context: &Context, row: usize, answer: &Value) {
    if context.is_json() {
        let mut line = Map::from_iter([("row".to_owned(), Value::from(row))]);
        if let Value::Object(fields) = answer {
            line.extend(fields.clone());
        }
        output::json_line(&Value::from(line));
        return;
    }
    let text = match &answer["output"] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match answer["probabilities"].get(&text).and_then(Value::as_f64) {
        Some(probability) => output::text(format!("{row}\t{text}\t{probability:.4}")),
        None => output::text(format!("{row}\t{text}")),
    }
}

fn answers(resident: &Resident, path: &Path, control: &Control) -> Result<Vec<Value>, TrainError> {
    let data = data::load_eval(&resident.preparation, &resident.manifest.spec, path, control)?;
    if resident.preparation.output == OutputPreparation::Tokens {
        return written(resident, &data, control);
    }
    let mut answers = Vec::with_capacity(data.len());
    let (mut ws, mut batch) = (Workspace::new(), data.new_batch());
    let rows: Vec<usize> = (0..data.len()).collect();
    for rows in rows.chunks(BATCH) {
        control.check().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
        data.fill(rows, &mut batch);
        let model = &resident.model;
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(rows.len()));
        let forward = model.forward(&mut tape, &batch.input)?;
        let logits = tape.value(forward.logits);
        let per_row = logits.len() / rows.len();
        answers.extend(logits.chunks_exact(per_row).map(|row| answer(&resident.preparation.output, row)));
    }
    Ok(answers)
}

fn answer(output: &OutputPreparation, row: &[f32]) -> Value {
    match output {
        OutputPreparation::Labels { names } => {
            let probabilities: Vec<f64> =
                eval::log_softmax(row, names.len()).into_iter().map(f64::exp).collect();
            let label = &names[lyceum_models::answer::likeliest(row) as usize];
            let named: Map<String, Value> =
                names.iter().cloned().zip(probabilities.into_iter().map(Value::from)).collect();
            json!({ "output": label, "probabilities": named })
        }
        OutputPreparation::StepLabels { names } => {
            let steps = row.chunks_exact(names.len());
            let labels: Vec<&String> =
                steps.map(|step| &names[lyceum_models::answer::likeliest(step) as usize]).collect();
            json!({ "output": labels })
        }
        OutputPreparation::Values { .. } | OutputPreparation::Tokens => {
            match output.restore(row).as_slice() {
                [number] => json!({ "output": number }),
                numbers => json!({ "output": numbers }),
            }
        }
    }
}

/// The likeliest text after each prompt or source.
fn written(resident: &Resident, data: &Dataset, control: &Control) -> Result<Vec<Value>, TrainError> {
    let tokenizer = resident.preparation.tokenizer();
    let tokenizer = tokenizer.ok_or_else(|| TrainError::Spec("this model has no tokenizer".into()))?;
    if data.tokens().is_some() {
        let message = "one long text has no rows to answer: give rows of prompts, or lyceum run MODEL PROMPT";
        return Err(TrainError::Spec(message.into()));
    }
    let mut answers = Vec::with_capacity(data.len());
    let mut ws = Workspace::new();
    let never = tokenizer.never_said();
    let bounds = Bounds { end: tokenizer.eos(), never: &never, n_tokens_max: ANSWER_TOKENS_MAX };
    let is_pair = matches!(resident.model.shape.input, lyceum_models::InputShape::Pair { .. });
    let rows: Vec<usize> = (0..data.len()).collect();
    for rows in rows.chunks(64) {
        control.check().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
        let questions: Vec<Question<'_>> = rows
            .iter()
            .map(|row| {
                let tokens = data.example_tokens(*row).unwrap_or_default();
                let answer = data.answer_tokens(*row).unwrap_or_default();
                if is_pair {
                    return Question::Source { source: tokens, begin: tokenizer.bos().unwrap_or(0) };
                }
                // What the row already answers is not read.
                Question::Prompt(&tokens[..tokens.len() - answer.len()])
            })
            .collect();
        for ids in resident.model.answers(&mut ws, &questions, bounds)? {
            answers.push(json!({ "output": tokenizer.decode(&ids) }));
        }
    }
    Ok(answers)
}
