//! How raw inputs become numbers and outputs become words: one [`Preparation`] a model, fixed when training
//! began, stored in its manifest, and used by training and serving alike, so that both see the same numbers.
//!
//! The statistics inside (means, categories, vocabularies) are fitted by `lyceum-train` from training rows.
//! This module knows no files, no HTTP and no batching across requests.

mod error;

pub mod audio;
pub mod series;
pub mod tabular;
pub mod text;
pub mod vision;

pub use error::PrepareError;

use crate::batch::{Input, Tokens};
use crate::model::{InputShape, ModelShape, OutputShape};
use audio::LogMel;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use series::Series;
use tabular::{Cell, Encoder};
use text::Tokenizer;
use vision::Pixels;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preparation {
    pub input: InputPreparation,
    pub output: OutputPreparation,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputPreparation {
    Tabular(Encoder),
    Image(Pixels),
    Series(Series),
    /// Log-mel frames `[1, frames, n_mels]`.
    Audio(LogMel),
    /// Tokens of one text, at most `max_tokens`. Of a longer one a classifier reads the beginning and a
    /// language model the end; [`Prepared::n_truncated`] says how much was left out.
    Text {
        tokenizer: Tokenizer,
        max_tokens: usize,
    },
    /// Source and target of an encoder–decoder, in one vocabulary. A longer source is refused. `max_target`
    /// counts what the decoder reads: `<bos>` and the target's tokens.
    Pair {
        tokenizer: Tokenizer,
        max_source: usize,
        max_target: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputPreparation {
    /// One of these classes.
    Labels { names: Vec<String> },
    /// One of these classes at every step.
    StepLabels { names: Vec<String> },
    /// Numbers: the model's output times `std` plus `mean`.
    Values { names: Vec<String>, mean: Vec<f64>, std: Vec<f64> },
    /// The input's vocabulary.
    Tokens,
}

/// A raw input, as a file or a request holds it.
#[derive(Clone, Copy, Debug)]
pub enum Raw<'a> {
    /// Cells in the order of the encoder's columns.
    Cells(&'a [Cell<'a>]),
    /// A JSON object: column → value.
    Named(&'a Map<String, Value>),
    /// A JSON array: values in the model's order (nested arrays for pictures and series).
    Ordered(&'a [Value]),
    /// Numbers in the model's order.
    Numbers(&'a [f32]),
    Text(&'a str),
    /// A png, jpeg, webp or gif file.
    ImageFile(&'a [u8]),
    /// A wav file.
    Wav(&'a [u8]),
}

/// One example, ready to be collated.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub value: PreparedValue,
    /// Tokens left out because the text is longer than the model reads.
    pub n_truncated: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PreparedValue {
    Dense(Vec<f32>),
    Tokens(Vec<u32>),
    Pair { source: Vec<u32>, target: Vec<u32> },
}

impl Preparation {
    /// One raw input to numbers. The error names the field and the fix.
    pub fn example(&self, raw: Raw<'_>) -> Result<Prepared, PrepareError> {
        if let (InputPreparation::Text { tokenizer, max_tokens }, OutputPreparation::Tokens) =
            (&self.input, &self.output)
        {
            let ids = tokenizer.encode(self.input.text_of(raw)?)?;
            if ids.is_empty() {
                return Err(empty_text());
            }
            let n_truncated = ids.len().saturating_sub(*max_tokens);
            return Ok(Prepared { value: PreparedValue::Tokens(ids[n_truncated..].to_vec()), n_truncated });
        }
        self.input.example(raw)
    }

    /// The sizes from which the model is built.
    pub fn shape(&self) -> ModelShape {
        let output = match &self.output {
            OutputPreparation::Labels { names } => OutputShape::Classes { n: names.len() },
            OutputPreparation::StepLabels { names } => OutputShape::StepClasses { n: names.len() },
            OutputPreparation::Values { names, .. } => OutputShape::Values { n: names.len() },
            OutputPreparation::Tokens => {
                OutputShape::Tokens { vocabulary: self.tokenizer().map_or(0, Tokenizer::vocab_size) }
            }
        };
        ModelShape { input: self.input.shape(), output }
    }

    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        match &self.input {
            InputPreparation::Text { tokenizer, .. } | InputPreparation::Pair { tokenizer, .. } => {
                Some(tokenizer)
            }
            _ => None,
        }
    }

    /// Examples of this preparation as one batch input, in their order.
    pub fn collate(&self, examples: &[Prepared]) -> Input {
        self.input.collate(examples)
    }
}

impl OutputPreparation {
    /// The class names; empty where the model answers with numbers or tokens.
    pub fn labels(&self) -> &[String] {
        match self {
            OutputPreparation::Labels { names } | OutputPreparation::StepLabels { names } => names,
            OutputPreparation::Values { .. } | OutputPreparation::Tokens => &[],
        }
    }

    /// Model outputs `[…, width]` in the units of the data; unchanged unless these are [`Self::Values`].
    pub fn restore(&self, outputs: &[f32]) -> Vec<f64> {
        match self {
            OutputPreparation::Values { mean, std, .. } => outputs
                .iter()
                .enumerate()
                .map(|(i, &y)| f64::from(y) * std[i % std.len()] + mean[i % mean.len()])
                .collect(),
            _ => outputs.iter().map(|&y| f64::from(y)).collect(),
        }
    }
}

impl InputPreparation {
    pub fn shape(&self) -> InputShape {
        match self {
            InputPreparation::Tabular(encoder) => InputShape::Features { n: encoder.width() },
            InputPreparation::Image(pixels) => InputShape::Image { shape: pixels.shape },
            InputPreparation::Series(series) => {
                InputShape::Series { steps: series.steps, channels: series.channels() }
            }
            InputPreparation::Audio(mel) => InputShape::Image { shape: [1, mel.frames(), mel.n_mels] },
            InputPreparation::Text { tokenizer, max_tokens } => {
                InputShape::Tokens { vocabulary: tokenizer.vocab_size(), time: *max_tokens }
            }
            InputPreparation::Pair { tokenizer, max_source, max_target } => InputShape::Pair {
                vocabulary: tokenizer.vocab_size(),
                source_time: *max_source,
                target_time: *max_target,
            },
        }
    }

    /// The shape of one example of numbers; None for texts.
    pub fn dense_shape(&self) -> Option<Vec<usize>> {
        match self.shape() {
            InputShape::Features { n } => Some(vec![n]),
            InputShape::Image { shape } => Some(shape.to_vec()),
            InputShape::Series { steps, channels } => Some(vec![steps, channels]),
            InputShape::Tokens { .. } | InputShape::Pair { .. } => None,
        }
    }

    pub fn example(&self, raw: Raw<'_>) -> Result<Prepared, PrepareError> {
        let mut out = Vec::new();
        match self {
            InputPreparation::Text { tokenizer, max_tokens } => {
                let mut ids = tokenizer.encode(self.text_of(raw)?)?;
                if ids.is_empty() {
                    return Err(empty_text());
                }
                let kept = ids.len().min(*max_tokens);
                let n_truncated = ids.len() - kept;
                ids.truncate(kept);
                return Ok(Prepared { value: PreparedValue::Tokens(ids), n_truncated });
            }
            InputPreparation::Pair { tokenizer, max_source, .. } => {
                let source = tokenizer.encode(self.text_of(raw)?)?;
                if source.is_empty() {
                    return Err(empty_text());
                }
                if source.len() > *max_source {
                    return Err(PrepareError::new(
                        "too_long",
                        "source",
                        format!("{} tokens, but the model reads at most {max_source}", source.len()),
                        "shorten it",
                    ));
                }
                let target = tokenizer.bos().into_iter().collect();
                return Ok(Prepared { value: PreparedValue::Pair { source, target }, n_truncated: 0 });
            }
            _ => self.encode_dense(raw, &mut out)?,
        }
        Ok(Prepared { value: PreparedValue::Dense(out), n_truncated: 0 })
    }

    /// Appends the numbers of one raw input; for inputs that become numbers (not text).
    pub fn encode_dense(&self, raw: Raw<'_>, out: &mut Vec<f32>) -> Result<(), PrepareError> {
        match (self, raw) {
            (InputPreparation::Tabular(encoder), Raw::Cells(cells)) => encoder.encode(cells, out),
            (InputPreparation::Tabular(encoder), Raw::Named(row)) => encoder.encode_named(row, out),
            (InputPreparation::Tabular(encoder), Raw::Ordered(row)) => encoder.encode_ordered(row, out),
            (InputPreparation::Tabular(encoder), Raw::Numbers(row)) => {
                let cells: Vec<Cell<'_>> = row.iter().map(|&x| Cell::Number(f64::from(x))).collect();
                encoder.encode(&cells, out)
            }
            (InputPreparation::Image(pixels), Raw::ImageFile(bytes)) => pixels.encode_file(bytes, out),
            (InputPreparation::Image(pixels), Raw::Numbers(row)) => {
                pixels.encode_numbers(row.iter().copied(), out)
            }
            (InputPreparation::Image(pixels), Raw::Ordered(values)) => {
                pixels.encode_numbers(flatten("image", values)?.into_iter(), out)
            }
            (InputPreparation::Series(series), Raw::Named(row)) => series.encode_named(row, out),
            (InputPreparation::Series(series), Raw::Ordered(values)) => series.encode_ordered(values, out),
            (InputPreparation::Series(series), Raw::Numbers(row)) => {
                series.encode(row.iter().map(|&x| f64::from(x)), out)
            }
            (InputPreparation::Audio(mel), Raw::Wav(bytes)) => mel.encode_wav(bytes, out),
            _ => Err(self.wrong_input()),
        }
    }

    fn text_of<'a>(&self, raw: Raw<'a>) -> Result<&'a str, PrepareError> {
        match raw {
            Raw::Text(text) => Ok(text),
            Raw::Cells([Cell::Text(text)]) => Ok(text),
            // A table's one text column: `{"text": "…"}` under whatever name, or `["…"]`.
            Raw::Ordered([Value::String(text)]) => Ok(text),
            Raw::Named(row) if row.len() == 1 => match row.values().next() {
                Some(Value::String(text)) => Ok(text),
                _ => Err(self.wrong_input()),
            },
            _ => Err(self.wrong_input()),
        }
    }

    fn wrong_input(&self) -> PrepareError {
        let wanted = match self {
            InputPreparation::Tabular(_) => "a row: an object of features, or an array of values",
            InputPreparation::Image(_) => "a picture file, or its pixels as numbers",
            InputPreparation::Series(_) => "a series of numbers",
            InputPreparation::Audio(_) => "a wav file",
            InputPreparation::Text { .. } | InputPreparation::Pair { .. } => "a text",
        };
        PrepareError::new(
            "wrong_input",
            "input",
            "this kind of input does not fit the model",
            format!("send {wanted}"),
        )
    }

    fn collate(&self, examples: &[Prepared]) -> Input {
        let tokens = |pick: &dyn Fn(&PreparedValue) -> Vec<u32>| {
            let rows: Vec<Vec<u32>> = examples.iter().map(|e| pick(&e.value)).collect();
            pad(&rows)
        };
        match self.shape() {
            InputShape::Features { .. } | InputShape::Image { .. } | InputShape::Series { .. } => {
                let shape = self.dense_shape().expect("numbers have a shape: bug");
                let data = examples.iter().flat_map(|e| match &e.value {
                    PreparedValue::Dense(row) => row.iter().copied(),
                    _ => unreachable!("a dense preparation prepares dense rows: bug"),
                });
                Input::Dense { shape, data: data.collect() }
            }
            InputShape::Tokens { .. } => Input::Tokens(tokens(&|value| match value {
                PreparedValue::Tokens(ids) => ids.clone(),
                _ => unreachable!("a text preparation prepares tokens: bug"),
            })),
            InputShape::Pair { .. } => {
                let side = |first: bool| {
                    tokens(&|value| match value {
                        PreparedValue::Pair { source, target } => if first { source } else { target }.clone(),
                        _ => unreachable!("a pair preparation prepares pairs: bug"),
                    })
                };
                Input::Pair { source: side(true), target: side(false) }
            }
        }
    }
}

/// Rows of ids as one rectangle, padded on the right with 0.
pub fn pad(rows: &[Vec<u32>]) -> Tokens {
    let time = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut ids = vec![0; rows.len() * time];
    for (row, out) in rows.iter().zip(ids.chunks_mut(time.max(1))) {
        out[..row.len()].copy_from_slice(row);
    }
    Tokens {
        n: rows.len(),
        time,
        ids,
        lengths: rows.iter().map(|row| row.len() as u32).collect(),
        ..Tokens::default()
    }
}

fn empty_text() -> PrepareError {
    PrepareError::new("empty_text", "text", "the text is empty", "write at least one character")
}

/// The numbers of nested JSON arrays, in order.
fn flatten(field: &str, values: &[Value]) -> Result<Vec<f32>, PrepareError> {
    fn walk(place: &mut String, values: &[Value], out: &mut Vec<f32>) -> Result<(), PrepareError> {
        for (i, value) in values.iter().enumerate() {
            let kept = place.len();
            place.push_str(&format!("[{i}]"));
            match value {
                Value::Array(inner) => walk(place, inner, out)?,
                Value::Number(n) => match n.as_f64() {
                    Some(x) if x.abs() <= f64::from(f32::MAX) => out.push(x as f32),
                    _ => {
                        return Err(PrepareError::new(
                            "not_finite",
                            place.as_str(),
                            format!("{n} does not fit a 32-bit float"),
                            "send finite numbers",
                        ));
                    }
                },
                _ => {
                    return Err(PrepareError::new(
                        "not_a_number",
                        place.as_str(),
                        "not a number",
                        "send numbers, or arrays of numbers",
                    ));
                }
            }
            place.truncate(kept);
        }
        Ok(())
    }
    let mut out = Vec::new();
    walk(&mut field.to_owned(), values, &mut out)?;
    Ok(out)
}
