//! `run`, `predict`, `explain` and `embed` through a server.

use super::explained;
use crate::commands::embed::{self, Embed};
use crate::commands::explain::Explain;
use crate::commands::predict::{self, Predict};
use crate::commands::run::{self, Run, Typed};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::{Client, path_of};
use crate::{files, output};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Rows that are asked for together.
const ROWS_AT_ONCE: usize = 256;
const SCHEMA_BYTES_MAX: u64 = 1 << 20;

/// How a model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Chat,
    Completions,
    Predict,
}

/// The model's description says where it answers.
fn door(client: &Client, model: &str) -> Result<(Door, Value), Failure> {
    let _: ModelRef = model.parse()?;
    let found = client.get(&format!("/v1/models/{}", path_of(model)))?;
    let family = found["family"].as_str().unwrap_or_default();
    let is_trained = lyceum_types::spec::ModelSpec::FAMILIES.contains(&family);
    let door = match found["task"].as_str().unwrap_or_default() {
        "adapter" => Door::Chat,
        "language_modeling" if !is_trained => Door::Chat,
        "language_modeling" | "sequence_to_sequence" => Door::Completions,
        "embedding" | "scoring" => {
            return Err(run::no_conversation(model));
        }
        _ => Door::Predict,
    };
    Ok((door, found))
}

impl Run {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let (door, _) = door(client, &self.model)?;
        if door != Door::Chat && (self.system.is_some() || self.json_schema.is_some()) {
            let why = "a model that Lyceum trained has no chat template";
            let message = "--system and --json-schema do not go with it";
            return Err(Failure::usage(message, why, "leave them out"));
        }
        let mut messages = Vec::new();
        messages.extend(self.system.iter().map(|text| json!({ "role": "system", "content": text })));
        if let Some(prompt) = run::prompt(context, self.prompt.as_deref())? {
            return self.say(context, client, door, &mut messages, &prompt);
        }
        run::greet(&self.model);
        loop {
            match run::next_typed(context)? {
                Typed::End => return Ok(()),
                Typed::Clear => messages.retain(|message| message["role"] == "system"),
                Typed::Text(line) => {
                    run::told(context, self.say(context, client, door, &mut messages, &line))?;
                }
            }
        }
    }

    fn say(
        &self,
        context: &Context,
        client: &Client,
        door: Door,
        messages: &mut Vec<Value>,
        prompt: &str,
    ) -> Result<(), Failure> {
        if door == Door::Predict {
            let body = json!({ "instances": [row_or_text(prompt)] });
            let found = client.post(&format!("/v1/models/{}:predict", path_of(&self.model)), &body)?;
            let answer = of_prediction(&found["predictions"][0]);
            match context.is_json() {
                true => output::json_line(&answer),
                false => run::predict_for_people(&answer),
            }
            return Ok(());
        }
        if prompt.trim().is_empty() && door == Door::Chat {
            return Err(run::empty_prompt());
        }
        let mut asked = messages.clone();
        asked.push(json!({ "role": "user", "content": prompt }));
        let body = self.body(door, &asked, prompt)?;
        let path = if door == Door::Chat { "/v1/chat/completions" } else { "/v1/completions" };
        let mut written = Written::default();
        client.events(path, &body, |event| {
            if context.control.check().is_err() {
                return Err(Failure::interrupted("what was written so far stands above"));
            }
            written.take(event, context);
            Ok(())
        })?;
        asked.push(json!({ "role": "assistant", "content": written.text }));
        *messages = asked;
        if context.is_json() {
            output::json_line(&written.line(self.logprobs.is_some()));
        } else {
            output::write_stdout("\n");
            run::show_logprobs(self.logprobs.map(|_| &written.logprobs));
        }
        Ok(())
    }

    fn body(&self, door: Door, messages: &[Value], prompt: &str) -> Result<Value, Failure> {
        let mut body = json!({
            "model": self.model, "stream": true, "stream_options": { "include_usage": true }, "seed": self.seed,
        });
        if door == Door::Chat {
            body["messages"] = Value::from(messages.to_vec());
            if let Some(temperature) = self.temperature {
                body["temperature"] = json!(temperature);
            }
            if let Some(n) = self.max_tokens {
                body["max_completion_tokens"] = json!(n);
            }
            if let Some(n) = self.logprobs {
                body["logprobs"] = json!(true);
                body["top_logprobs"] = json!(n);
            }
            if let Some(path) = &self.json_schema {
                let text = files::read_text(path, SCHEMA_BYTES_MAX)?;
                let schema: Value = serde_json::from_str(&text).map_err(|error| {
                    Failure::usage(error.to_string(), "the schema is no JSON", "write a JSON schema")
                })?;
                body["response_format"] =
                    json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } });
            }
            return Ok(body);
        }
        body["prompt"] = json!(prompt);
        body["temperature"] = json!(self.temperature.unwrap_or(0.0));
        body["max_tokens"] = json!(self.max_tokens.unwrap_or(run::MAX_TOKENS));
        if let Some(n) = self.logprobs {
            body["logprobs"] = json!(n);
        }
        Ok(body)
    }
}

/// What a stream has said so far.
#[derive(Default)]
struct Written {
    text: String,
    thought: String,
    logprobs: Vec<Value>,
    finish: Value,
    usage: Value,
}

impl Written {
    fn take(&mut self, event: &Value, context: &Context) {
        if event["usage"].is_object() {
            self.usage = event["usage"].clone();
        }
        let choice = &event["choices"][0];
        let delta = &choice["delta"];
        for field in ["reasoning_content", "reasoning"] {
            if let Some(piece) = delta[field].as_str() {
                self.thought.push_str(piece);
                if !context.is_json() {
                    output::write_stderr(piece);
                }
                break;
            }
        }
        if let Some(piece) = delta["content"].as_str().or_else(|| choice["text"].as_str()) {
            self.text.push_str(piece);
            if !context.is_json() {
                output::write_stdout(piece);
            }
        }
        match &choice["logprobs"] {
            Value::Object(of_chat) if of_chat.contains_key("content") => {
                self.logprobs.extend(of_chat["content"].as_array().into_iter().flatten().cloned());
            }
            older => self.logprobs.extend(of_completion(older)),
        }
        if !choice["finish_reason"].is_null() {
            self.finish = choice["finish_reason"].clone();
        }
    }

    fn line(&self, with_logprobs: bool) -> Value {
        let mut line = json!({ "text": self.text, "finish_reason": self.finish, "usage": self.usage });
        if !self.thought.is_empty() {
            line["reasoning"] = json!(self.thought);
        }
        if with_logprobs {
            line["logprobs"] = Value::from(self.logprobs.clone());
        }
        line
    }
}

/// Lists side by side, `{tokens, token_logprobs, top_logprobs}`, as the chat route gives them: an object a token.
fn of_completion(lists: &Value) -> Vec<Value> {
    let tokens = lists["tokens"].as_array().into_iter().flatten().enumerate();
    let one = |(i, token): (usize, &Value)| {
        let likeliest = lists["top_logprobs"][i].as_object().into_iter().flatten();
        let mut top: Vec<(&String, &Value)> = likeliest.collect();
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NEG_INFINITY);
        top.sort_by(|a, b| number(b.1).total_cmp(&number(a.1)));
        let top: Vec<Value> =
            top.into_iter().map(|(token, logprob)| json!({ "token": token, "logprob": logprob })).collect();
        json!({ "token": token, "logprob": lists["token_logprobs"][i], "top_logprobs": top })
    };
    tokens.map(one).collect()
}

impl Predict {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let (door, _) = door(client, &self.model)?;
        if door != Door::Predict {
            let why = "it writes text, and rows of text have no route of their own";
            return Err(Failure::usage("predict does not go with it here", why, "lyceum run MODEL PROMPT"));
        }
        let path = format!("/v1/models/{}:predict", path_of(&self.model));
        let rows = instances(&self.file, &self.without)?;
        for (i, rows) in rows.chunks(ROWS_AT_ONCE).enumerate() {
            if context.control.check().is_err() {
                return Err(Failure::interrupted("the rows before were answered"));
            }
            let first = i * ROWS_AT_ONCE;
            let found = client.post(&path, &json!({ "instances": rows })).map_err(|failure| {
                let mut failure = without_columns(failure);
                failure.why = format!("{} (rows {first} to {})", failure.why, first + rows.len() - 1);
                failure
            })?;
            let answers = found["predictions"].as_array().into_iter().flatten();
            answers
                .enumerate()
                .for_each(|(row, answer)| predict::say(context, first + row, &of_prediction(answer)));
        }
        Ok(())
    }
}

/// A column that the model does not read has its flag.
fn without_columns(mut failure: Failure) -> Failure {
    if failure.code == "unknown_field" {
        failure.fix = "leave columns out that the model does not read: --without COLUMN".into();
    }
    failure
}

/// A prediction of the wire in the words of `lyceum predict --json`.
fn of_prediction(prediction: &Value) -> Value {
    match prediction {
        Value::Object(fields) if fields.contains_key("label") => {
            json!({ "output": fields["label"], "probabilities": fields.get("probabilities") })
        }
        Value::Array(steps) if steps.iter().any(Value::is_object) => {
            json!({ "output": steps.iter().map(|step| step["label"].clone()).collect::<Vec<_>>() })
        }
        other => json!({ "output": other }),
    }
}

/// The rows of a file as requests carry them: cells as they are written, which the model's own columns read.
fn instances(path: &Path, without: &[String]) -> Result<Vec<Value>, Failure> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    let bytes_max = limits::WEIGHT_FILE_BYTES_MAX;
    let wrong = |why: String| {
        let message = format!("{} cannot be read as rows", path.display());
        Failure::new(
            Exit::Failed,
            "invalid_input",
            message,
            why,
            "give .csv, .tsv, .jsonl, .txt or a picture",
        )
    };
    if predict::SINGLE.contains(&extension.as_str()) {
        let bytes = files::read_bytes(path, limits::BODY_BYTES_MAX as u64)?;
        return Ok(vec![json!({ "b64": STANDARD.encode(bytes) })]);
    }
    let text = files::read_text(path, bytes_max)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    match extension.as_str() {
        "csv" | "tsv" => {
            let delimiter = if extension == "csv" { b',' } else { b'\t' };
            let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
            let names = reader.headers().map_err(|error| wrong(error.to_string()))?.clone();
            let row = |record: Result<csv::StringRecord, csv::Error>| {
                let record = record.map_err(|error| wrong(error.to_string()))?;
                let kept = names.iter().zip(&record).filter(|(name, _)| !without.iter().any(|w| w == name));
                let cell = |(name, cell): (&str, &str)| {
                    let cell = cell.trim();
                    (name.to_owned(), if cell.is_empty() { Value::Null } else { Value::from(cell) })
                };
                Ok(Value::from(kept.map(cell).collect::<Map<_, _>>()))
            };
            reader.records().map(row).collect()
        }
        "jsonl" | "ndjson" => lines()
            .map(|line| {
                let mut row: Value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
                if let Value::Object(fields) = &mut row {
                    without.iter().for_each(|name| drop(fields.remove(name)));
                }
                Ok(row)
            })
            .collect(),
        "txt" => Ok(lines().map(Value::from).collect()),
        _ => Err(wrong(format!("{extension:?} is no kind of file that is read here"))),
    }
}

/// A row written as JSON, or a text.
fn row_or_text(prompt: &str) -> Value {
    match serde_json::from_str(prompt) {
        Ok(row @ (Value::Object(_) | Value::Array(_))) => row,
        _ => Value::from(prompt),
    }
}

impl Explain {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        if self.svg.is_some() || self.png.is_some() || self.html.is_some() {
            let why = "drawings are made beside the model";
            return Err(Failure::usage("--svg, --png and --html do not go with --url", why, "use --json"));
        }
        let (door, model) = door(client, &self.model)?;
        let field = match model["task"].as_str() {
            Some("classification") => "label",
            Some("language_modeling" | "sequence_to_sequence" | "adapter") => "text",
            _ => "output",
        };
        let mut body = self.option_values(field);
        body.insert("model".into(), self.model.clone().into());
        let path = Path::new(&self.input);
        let is_file = path.is_file();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
        let input = match extension.as_str() {
            "csv" | "tsv" if is_file => {
                let rows = instances(path, &self.without)?;
                let missing = || {
                    let message = format!("{} has no row {}", path.display(), self.row);
                    Failure::usage(message, "rows are counted from 0", "give another --row")
                };
                rows.into_iter().nth(self.row).ok_or_else(missing)?
            }
            "png" | "jpg" | "jpeg" | "webp" | "gif" if is_file => {
                let bytes = files::read_bytes(path, limits::BODY_BYTES_MAX as u64)?;
                body.insert("image".into(), STANDARD.encode(bytes).into());
                Value::Null
            }
            "wav" if is_file => {
                let why = "the route takes texts, rows and pictures";
                return Err(Failure::usage("a sound is not explained with --url", why, "run it there"));
            }
            "json" | "txt" if is_file => {
                row_or_text(files::read_text(path, limits::BODY_BYTES_MAX as u64)?.trim_end_matches('\n'))
            }
            _ => row_or_text(&self.input),
        };
        let text = input.as_str().map(str::to_owned);
        match (input, door) {
            (Value::Null, _) => {}
            (Value::String(text), Door::Predict) => drop(body.insert("input".into(), text.into())),
            (Value::String(text), _) => {
                let Some(completion) = &self.completion else {
                    let why = "the route explains what was said, and nothing was";
                    return Err(Failure::usage("--completion is missing", why, "add --completion TEXT"));
                };
                body.insert("prompt".into(), text.into());
                body.insert("completion".into(), completion.clone().into());
            }
            (row, _) => drop(body.insert("features".into(), row)),
        }
        let found = client.post("/v1/explanations", &Value::from(body)).map_err(without_columns)?;
        if context.is_json() {
            output::json_line(&found);
        } else if explained::show(&found, text.as_deref()).is_none() {
            output::text(serde_json::to_string_pretty(&found).expect("JSON can be written: bug"));
        }
        Ok(())
    }
}

impl Embed {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let _: ModelRef = self.model.parse()?;
        let ask = |first: usize, texts: &[String]| -> Result<(), Failure> {
            if context.control.check().is_err() {
                return Err(Failure::interrupted("the texts before were answered"));
            }
            let mut body = json!({ "model": self.model, "input": texts });
            if let Some(dimensions) = self.dimensions {
                body["dimensions"] = json!(dimensions);
            }
            let made =
                client.post("/v1/embeddings", &body).map_err(|failure| embed::numbered(failure, first))?;
            for (i, one) in made["data"].as_array().into_iter().flatten().enumerate() {
                output::json_line(&json!({ "index": first + i, "embedding": one["embedding"] }));
            }
            Ok(())
        };
        let mut first = 0;
        for texts in self.texts.chunks(embed::TEXTS_AT_ONCE) {
            ask(first, texts)?;
            first += texts.len();
        }
        while self.texts.is_empty() {
            let texts = tokio::task::spawn_blocking(move || embed::lines(first)).await;
            let texts = texts.map_err(|error| Failure::internal("stdin cannot be read", &error))??;
            if texts.is_empty() {
                break;
            }
            ask(first, &texts)?;
            first += texts.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_completions_become_an_object_a_token() {
        let lists = json!({
            "tokens": ["a", " b"], "token_logprobs": [-0.5, -1.5], "text_offset": [0, 1],
            "top_logprobs": [{ "z": -2.0, "a": -0.5 }, {}],
        });
        let expected = json!([
            { "token": "a", "logprob": -0.5,
              "top_logprobs": [{ "token": "a", "logprob": -0.5 }, { "token": "z", "logprob": -2.0 }] },
            { "token": " b", "logprob": -1.5, "top_logprobs": [] },
        ]);
        assert_eq!(Value::from(of_completion(&lists)), expected);
        assert!(of_completion(&Value::Null).is_empty());
    }
}
