//! Words of the caller to features of the mathematics, and back: spans of a text in characters, columns of a
//! table (all inputs of one column are one feature), patches of a picture, steps and channels of a series.

use super::{Granularity, Options, What};
use crate::resident::Resident;
use crate::{Content, ServiceError, predict};
use lyceum_explain::Groups;
use lyceum_models::batch::{Input, Tokens};
use lyceum_models::prepare::series::Fields;
use lyceum_models::prepare::{InputPreparation, OutputPreparation};
use lyceum_models::{InputShape, OutputShape};
use serde_json::Value;
use std::ops::Range;

/// Patches of a picture that are made unasked.
const PATCHES_MAX: usize = 256;

/// What the attributions are of, in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Parts {
    /// Spans in unicode characters.
    Text { text: String, spans: Vec<Range<usize>> },
    /// Columns with the values that the caller gave.
    Table { rows: Vec<(String, Value)> },
    /// Squares of `patch` pixels, row by row.
    Image { channels: usize, height: usize, width: usize, patch: usize },
    /// Steps or channels.
    Series { names: Vec<String> },
    /// The message that each part is of and its span there, in unicode characters; and every message's text.
    Messages { contents: Vec<String>, spans: Vec<(usize, Range<usize>)> },
}

/// An input that has been read.
pub(super) struct Read {
    pub(super) input: Input,
    pub(super) groups: Groups,
    pub(super) parts: Parts,
    /// The text that was read and where each token of it stands; empty where there are none.
    pub(super) tokens: (String, Vec<Range<usize>>),
    /// The tokens of a continuation with their spans, and the row whose answer is the first of them.
    pub(super) completion: Option<Completion>,
}

pub(super) struct Completion {
    pub(super) text: String,
    pub(super) tokens: Vec<(u32, Range<usize>)>,
    pub(super) first_row: usize,
}

pub(super) fn read(
    resident: &Resident,
    what: &What,
    options: &Options,
    path: &str,
) -> Result<Read, ServiceError> {
    let preparation = &resident.preparation;
    if options.sources.is_some() {
        let message = "sources are messages of a conversation with an imported language model: leave it out";
        return Err(ServiceError::invalid("sources", "unsupported_parameter", message));
    }
    match (what, &preparation.output) {
        (What::Conversation { .. }, _) => {
            let message =
                format!("{} has no chat template: send prompt and completion", resident.version.id());
            Err(ServiceError::invalid("messages", "unsupported_model", message))
        }
        (What::Continuation { prompt, completion }, OutputPreparation::Tokens) => {
            continuation(resident, prompt, completion, options.granularity)
        }
        (What::Continuation { .. }, _) => {
            let message = format!("{} continues no text: send input", resident.version.id());
            Err(ServiceError::invalid("completion", "unsupported_model", message))
        }
        (What::Input(_), OutputPreparation::Tokens) => {
            let message = format!("{} generates text: send prompt and completion", resident.version.id());
            Err(ServiceError::invalid(path, "unsupported_model", message))
        }
        (What::Input(content), _) => {
            let prepared = predict::prepare(resident, content, path)?;
            let (groups, parts) = features(resident, content, options.granularity, path)?;
            let input = preparation.collate(&[prepared]);
            let tokens = match (&parts, preparation.tokenizer()) {
                (Parts::Text { text, .. }, Some(tokenizer)) => {
                    let spans = tokenizer.encode_spans(text).map_err(|e| ServiceError::prepare(path, e))?;
                    (text.clone(), spans.into_iter().map(|(_, span)| span).collect())
                }
                _ => Default::default(),
            };
            Ok(Read { input, groups, parts, tokens, completion: None })
        }
    }
}

fn features(
    resident: &Resident,
    content: &Content,
    granularity: Option<Granularity>,
    path: &str,
) -> Result<(Groups, Parts), ServiceError> {
    let wrong = |fits: &str| {
        let given = granularity.map(Granularity::name).unwrap_or_default();
        let message = format!("{given} is no part of this input: use {fits}");
        Err(ServiceError::invalid("granularity", "unsupported_granularity", message))
    };
    match (&resident.preparation.input, resident.model.shape.input.clone()) {
        (InputPreparation::Text { tokenizer, .. } | InputPreparation::Pair { tokenizer, .. }, _) => {
            let text = text_of(content, path)?;
            let tokens = tokenizer.encode_spans(text).map_err(|e| ServiceError::prepare(path, e))?;
            let spans = spans(text, &tokens, granularity)?;
            let characters: Vec<char> = text.chars().collect();
            let groups =
                groups(tokens.iter().map(|(_, span)| place(&spans, anchor(&characters, span))).collect())?;
            Ok((groups, Parts::Text { text: text.to_owned(), spans }))
        }
        (InputPreparation::Tabular(encoder), _) => {
            if !matches!(granularity, None | Some(Granularity::Feature)) {
                return wrong("feature");
            }
            let (mut of_unit, mut rows) = (Vec::new(), Vec::new());
            for (i, column) in encoder.columns.iter().enumerate() {
                of_unit.extend(std::iter::repeat_n(Some(i as u32), column.width()));
                rows.push((column.name.clone(), cell(content, &column.name, i)));
            }
            Ok((groups(of_unit)?, Parts::Table { rows }))
        }
        (_, InputShape::Image { shape: [channels, height, width] }) => {
            let fewest = |patch: &usize| height.div_ceil(*patch) * width.div_ceil(*patch) <= PATCHES_MAX;
            let patch = match granularity {
                Some(Granularity::Patch(n)) => n,
                None => (1..=height.max(width)).find(fewest).unwrap_or(1),
                Some(_) => return wrong("patch:N"),
            };
            let across = width.div_ceil(patch);
            let of = |i: usize| {
                let (y, x) = (i % (height * width) / width, i % width);
                Some((y / patch * across + x / patch) as u32)
            };
            let groups = groups((0..channels * height * width).map(of).collect())?;
            Ok((groups, Parts::Image { channels, height, width, patch }))
        }
        (InputPreparation::Series(series), InputShape::Series { steps, channels }) => {
            let names = match &series.fields {
                Fields::Channels(names) => names.clone(),
                Fields::Steps(_) => (0..channels).map(|c| format!("channel {c}")).collect(),
            };
            let (of_unit, names): (Vec<Option<u32>>, Vec<String>) = match granularity {
                None | Some(Granularity::Step) => (
                    (0..steps * channels).map(|i| Some((i / channels) as u32)).collect(),
                    match &series.fields {
                        Fields::Steps(names) if channels == 1 => names.clone(),
                        _ => (0..steps).map(|t| format!("step {t}")).collect(),
                    },
                ),
                Some(Granularity::Channel) => {
                    ((0..steps * channels).map(|i| Some((i % channels) as u32)).collect(), names)
                }
                Some(Granularity::Feature) => (
                    (0..(steps * channels) as u32).map(Some).collect(),
                    (0..steps * channels)
                        .map(|i| format!("{} at step {}", names[i % channels], i / channels))
                        .collect(),
                ),
                Some(_) => return wrong("step, channel or feature"),
            };
            Ok((groups(of_unit)?, Parts::Series { names }))
        }
        _ => Err(ServiceError::internal("an input without features", "bug")),
    }
}

/// The prompt's features, with the continuation read but never absent.
fn continuation(
    resident: &Resident,
    prompt: &str,
    completion: &str,
    granularity: Option<Granularity>,
) -> Result<Read, ServiceError> {
    let Some(tokenizer) = resident.preparation.tokenizer() else {
        return Err(ServiceError::internal("a generator has no tokenizer", "bug"));
    };
    let encode = |param: &'static str, text: &str| {
        let tokens = tokenizer.encode_spans(text).map_err(|e| ServiceError::prepare(param, e))?;
        if tokens.is_empty() {
            let message = format!("{param}: the text is empty: there is nothing to explain");
            return Err(ServiceError::invalid(param, "empty_text", message));
        }
        Ok(tokens)
    };
    let (source, said) = (encode("prompt", prompt)?, encode("completion", completion)?);
    let spans = spans(prompt, &source, granularity)?;
    let characters: Vec<char> = prompt.chars().collect();
    let own = |(_, span): &(u32, Range<usize>)| place(&spans, anchor(&characters, span));
    let ids = |tokens: &[(u32, Range<usize>)]| tokens.iter().map(|(id, _)| *id).collect::<Vec<u32>>();
    // The last token is answered, not read.
    let read_back = &said[..said.len() - 1];
    let too_long = |n: usize, room: usize| {
        let message = format!("{n} tokens are more than the {room} that the model reads");
        Err(ServiceError::invalid("prompt", "context_length_exceeded", message))
    };
    let parts = Parts::Text { text: prompt.to_owned(), spans: spans.clone() };
    let text = completion.to_owned();
    let mut tokens = (prompt.to_owned(), source.iter().map(|(_, span)| span.clone()).collect::<Vec<_>>());
    if let InputShape::Pair { source_time, .. } = resident.model.shape.input {
        if source.len() > source_time {
            return too_long(source.len(), source_time);
        }
        let begin = tokenizer.bos().ok_or_else(|| ServiceError::internal("no begin token", "bug"))?;
        let mut target = vec![begin];
        target.extend(ids(read_back));
        if let Some(context) = resident.model.context()
            && target.len() > context
        {
            return too_long(target.len(), context);
        }
        let input = Input::Pair { source: Tokens::single(&ids(&source)), target: Tokens::single(&target) };
        let groups = groups(source.iter().map(own).collect())?;
        let completion = Some(Completion { text, tokens: said, first_row: 0 });
        return Ok(Read { input, groups, parts, tokens, completion });
    }
    let mut all = ids(&source);
    all.extend(ids(read_back));
    if let Some(context) = resident.model.context()
        && all.len() > context
    {
        return too_long(all.len(), context);
    }
    let of_unit = source.iter().map(own).chain(read_back.iter().map(|_| None)).collect();
    let n = prompt.chars().count();
    tokens.0.push_str(completion);
    tokens.1.extend(read_back.iter().map(|(_, span)| span.start + n..span.end + n));
    let completion = Some(Completion { text, tokens: said, first_row: source.len() - 1 });
    let input = Input::Tokens(Tokens::single(&all));
    Ok(Read { input, groups: groups(of_unit)?, parts, tokens, completion })
}

/// The parts of a text: each begins where the one before it ends.
pub(super) fn spans(
    text: &str,
    tokens: &[(u32, Range<usize>)],
    granularity: Option<Granularity>,
) -> Result<Vec<Range<usize>>, ServiceError> {
    let characters: Vec<char> = text.chars().collect();
    let starts: Vec<usize> = match granularity {
        Some(Granularity::Token) => {
            // Bytes of one character are one part: they have one span.
            let mut starts: Vec<usize> = tokens.iter().map(|(_, span)| anchor(&characters, span)).collect();
            starts.dedup();
            starts
        }
        None | Some(Granularity::Word) => {
            let begins = |i: usize| !characters[i].is_whitespace() && characters[i - 1].is_whitespace();
            (1..characters.len()).filter(|&i| begins(i)).collect()
        }
        Some(Granularity::Sentence) => {
            let ends = |c: char| matches!(c, '.' | '!' | '?' | '…' | '。' | '！' | '？');
            let begins = |i: usize| {
                let before = characters[..i].iter().rposition(|c| !c.is_whitespace());
                let broken = characters[i - 1] == '\n';
                !characters[i].is_whitespace()
                    && characters[i - 1].is_whitespace()
                    && (broken || before.is_some_and(|b| ends(characters[b])))
            };
            (1..characters.len()).filter(|&i| begins(i)).collect()
        }
        Some(Granularity::Paragraph) => {
            let begins = |i: usize| {
                let space = characters[..i].iter().rev().take_while(|c| c.is_whitespace());
                !characters[i].is_whitespace() && space.filter(|&&c| c == '\n').count() >= 2
            };
            (1..characters.len()).filter(|&i| begins(i)).collect()
        }
        Some(other) => {
            let message =
                format!("{} is no part of a text: use token, word, sentence or paragraph", other.name());
            return Err(ServiceError::invalid("granularity", "unsupported_granularity", message));
        }
    };
    let mut all: Vec<usize> = starts.into_iter().filter(|&s| s > 0).collect();
    all.insert(0, 0);
    all.push(characters.len());
    let spans: Vec<Range<usize>> = all.windows(2).map(|w| w[0]..w[1]).collect();
    // A token belongs where its first letter is; a part that has no token is of the part before it.
    let owned =
        |span: &Range<usize>| tokens.iter().any(|(_, token)| span.contains(&anchor(&characters, token)));
    let mut merged: Vec<Range<usize>> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(last) if !owned(&span) => last.end = span.end,
            _ => merged.push(span),
        }
    }
    Ok(merged)
}

fn place(spans: &[Range<usize>], anchor: usize) -> Option<u32> {
    let found = spans.iter().rposition(|span| span.start <= anchor).unwrap_or(0);
    Some(found as u32)
}

/// The first character of a token that is no space (byte-level tokens carry the space before their word).
fn anchor(characters: &[char], token: &Range<usize>) -> usize {
    let letter = |&i: &usize| !characters[i].is_whitespace();
    token.clone().find(letter).unwrap_or(token.start)
}

fn groups(of_unit: Vec<Option<u32>>) -> Result<Groups, ServiceError> {
    Groups::new(of_unit).map_err(super::refused)
}

fn text_of<'a>(content: &'a Content, path: &str) -> Result<&'a str, ServiceError> {
    let found = match content {
        Content::Text(text) => Some(text.as_str()),
        Content::Values(values) => values.first().and_then(Value::as_str),
        Content::Row(row) => row.values().next().and_then(Value::as_str),
        Content::File(_) | Content::Numbers(_) => None,
    };
    found.ok_or_else(|| ServiceError::invalid(path, "invalid_value", "this is no text"))
}

/// The value of a column as the caller gave it.
fn cell(content: &Content, name: &str, i: usize) -> Value {
    match content {
        Content::Row(row) => row.get(name).cloned().unwrap_or(Value::Null),
        Content::Values(values) => values.get(i).cloned().unwrap_or(Value::Null),
        Content::Numbers(numbers) => numbers.get(i).map_or(Value::Null, |&x| Value::from(f64::from(x))),
        Content::Text(_) | Content::File(_) => Value::Null,
    }
}

impl Parts {
    /// Of a picture, the attribution of each pixel (its channels together): the method's own where it has one,
    /// else an equal part of its patch's.
    pub fn heatmap(&self, elements: Option<&[f32]>, values: &[f64]) -> Option<Vec<f64>> {
        let Parts::Image { channels, height, width, patch } = *self else { return None };
        let plane = height * width;
        if let Some(elements) = elements {
            let pixel = |p: usize| (0..channels).map(|c| f64::from(elements[c * plane + p])).sum();
            return Some((0..plane).map(pixel).collect());
        }
        let across = width.div_ceil(patch);
        let pixel = |p: usize| {
            let (row, col) = (p / width / patch, p % width / patch);
            let rows = patch.min(height - row * patch);
            let cols = patch.min(width - col * patch);
            values[row * across + col] / (rows * cols) as f64
        };
        Some((0..plane).map(pixel).collect())
    }
}

/// Whether answers come at each step of the input.
pub(super) fn answers_each_step(output: &OutputShape) -> bool {
    matches!(output, OutputShape::Tokens { .. } | OutputShape::StepClasses { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::prepare::text::{Specials, Tokenizer};

    fn cut(text: &str, tokenizer: &Tokenizer, granularity: Granularity) -> Vec<String> {
        let tokens = tokenizer.encode_spans(text).unwrap();
        let characters: Vec<char> = text.chars().collect();
        let spans = spans(text, &tokens, Some(granularity)).unwrap();
        spans.into_iter().map(|span| characters[span].iter().collect()).collect()
    }

    #[test]
    fn a_text_is_cut_into_tokens_words_sentences_and_paragraphs_without_loss() {
        let tokenizer = Tokenizer::bytes(Specials::default());
        let text = "Héllo there.  Is it? Yes\n\nNew 🐈 one.";
        let cut = |granularity| cut(text, &tokenizer, granularity);
        assert_eq!(
            cut(Granularity::Word),
            ["Héllo ", "there.  ", "Is ", "it? ", "Yes\n\n", "New ", "🐈 ", "one."]
        );
        assert_eq!(cut(Granularity::Sentence), ["Héllo there.  ", "Is it? ", "Yes\n\n", "New 🐈 one."]);
        assert_eq!(cut(Granularity::Paragraph), ["Héllo there.  Is it? Yes\n\n", "New 🐈 one."]);
        let corpus = [text; 3];
        let bpe = Tokenizer::train_bpe(corpus.into_iter(), 400, Specials::default()).unwrap();
        assert!(bpe.encode(text).unwrap().len() < 20, "words became tokens, with the space before them");
        let by_bpe = super::tests::cut(text, &bpe, Granularity::Word);
        assert_eq!(
            by_bpe,
            cut(Granularity::Word),
            "a space before a word is no reason to join it with the word before"
        );
        // Four bytes of one character are one part.
        assert_eq!(cut(Granularity::Token).len(), text.chars().count());
    }

    #[test]
    fn a_heat_map_spreads_patches_and_sums_channels() {
        let parts = Parts::Image { channels: 2, height: 2, width: 3, patch: 2 };
        assert_eq!(parts.heatmap(None, &[4.0, 6.0]), Some(vec![1.0, 1.0, 3.0, 1.0, 1.0, 3.0]));
        let elements: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(parts.heatmap(Some(&elements), &[]), Some(vec![6.0, 8.0, 10.0, 12.0, 14.0, 16.0]));
    }
}
