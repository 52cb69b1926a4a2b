//! Texts that are to be continued or translated: one long text, documents, prompts with completions, sources
//! with targets. Vocabularies come from the training part alone.

use super::dataset::{Dataset, Examples, Ragged, Targets};
use super::report::{DataError, Issue, Place, Report, Warning, one};
use super::source::Source;
use super::split::{self, Parts, Rule};
use super::table::Table;
use super::{Loaded, Sources, columns, sketch};
use lyceum_models::prepare::text::{Specials, Tokenizer};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation, PrepareError};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::spec::{DataSpec, ModelSpec, Spec, Task, TokenizerSpec, Unseen};
use std::collections::{BTreeMap, HashSet};

/// Windows of a recurrent model on one long text, when `bptt` is not given.
const RECURRENT_CONTEXT: usize = 128;

/// A file's texts, in order.
enum Texts {
    /// One long text.
    Stream { file: String, first_line: u64, text: String },
    /// Documents, joined by `<eos>` into one long text.
    Documents { file: String, rows: Vec<Row<1>> },
    /// Prompt and completion.
    Prompts { file: String, rows: Vec<Row<2>> },
    /// Source and target.
    Pairs { file: String, rows: Vec<Row<2>> },
}

struct Row<const N: usize> {
    place: Place,
    id: u64,
    texts: [String; N],
}

pub(super) fn load(
    spec: &Spec,
    sources: &Sources,
    rule: Rule,
    control: &Control,
    mut report: Report,
) -> Result<Loaded, DataError> {
    let mut look = |source: &Source| look(spec, source, &mut report);
    let train = look(&sources.train);
    let valid = sources.valid.as_ref().map(&mut look);
    let test = sources.test.as_ref().map(&mut look);
    let (Some(train), false, false) = (train, matches!(valid, Some(None)), matches!(test, Some(None))) else {
        return Err(DataError::Report(report));
    };
    let (train, held_out, cut) = match rule {
        Rule::Fraction(fraction) => {
            let (train, valid, cut) = train.part(fraction);
            (train, Some(valid), cut)
        }
        Rule::Fold { .. } => {
            let groups = groups(spec, &sources.train, &mut report);
            let parts = split::part(rule, train.len(), None, groups.as_deref(), spec.seed);
            let (train, valid) = train.folded(&parts)?;
            (train, Some(valid), 0)
        }
        Rule::Whole => {
            let n = train.len();
            (train, None, n)
        }
    };
    let valid = valid.flatten().or(held_out);
    let test = test.flatten();
    if train.len() == 0 {
        report.push(Issue::new(train.file(), "no_rows", "no text is left to train on", "give more text"));
        return Err(DataError::Report(report));
    }

    let specials = train.specials(&spec.data);
    let fitted = fit_tokenizer(&spec.data, &sources.base, &train.all(), specials, TokenizerSpec::Char);
    let tokenizer = match fitted {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            report.push(Issue::prepare(train.file(), Place::File, error));
            return Err(DataError::Report(report));
        }
    };
    let mut warnings = Vec::new();
    let limits = Limits::of(spec, &tokenizer, &train);
    let mut build = |texts: &Texts| dataset(texts, &tokenizer, limits, control, (&mut report, &mut warnings));
    let train_set = build(&train)?;
    let valid_set = valid.as_ref().map(&mut build).transpose()?;
    let test_set = test.as_ref().map(&mut build).transpose()?;
    report.into_result()?;

    let preparation = Preparation { input: limits.input(tokenizer), output: OutputPreparation::Tokens };
    let features = sketch::examples(&preparation, &train_set);
    let split = match &train {
        Texts::Stream { .. } => {
            let mut split = BTreeMap::from([("train".to_owned(), vec![0, cut as u64])]);
            if let (Some(valid), Rule::Fraction(_)) = (&valid, rule) {
                split.insert("valid".to_owned(), vec![cut as u64, (cut + valid.len()) as u64]);
            }
            split
        }
        _ => super::labelled::split_record(&train_set, valid_set.as_ref(), test_set.as_ref()),
    };
    Ok(Loaded {
        preparation,
        train: train_set,
        valid: valid_set,
        test: test_set,
        features,
        files: vec![],
        split,
        warnings,
    })
}

pub(super) fn evaluate(
    preparation: &Preparation,
    spec: &Spec,
    source: &Source,
    control: &Control,
) -> Result<Dataset, DataError> {
    let mut report = Report::default();
    let Some(texts) = look(spec, source, &mut report) else { return Err(DataError::Report(report)) };
    let (tokenizer, limits) = match &preparation.input {
        InputPreparation::Text { tokenizer, max_tokens } => {
            (tokenizer, Limits { context: *max_tokens, max_source: 0, max_target: 0 })
        }
        InputPreparation::Pair { tokenizer, max_source, max_target } => {
            (tokenizer, Limits { context: 0, max_source: *max_source, max_target: *max_target })
        }
        _ => {
            return Err(one(Issue::new(
                source.file(),
                "wrong_format",
                "the model reads no text",
                "check it",
            )));
        }
    };
    let set = dataset(&texts, tokenizer, limits, control, (&mut report, &mut Vec::new()))?;
    report.into_result()?;
    Ok(set)
}

/// The tokenizer that the spec declares, else `default`; what it learns, it learns from these texts.
pub(super) fn fit_tokenizer(
    data: &DataSpec,
    base: &KeyedPath,
    texts: &[&str],
    specials: Specials,
    default: TokenizerSpec,
) -> Result<Tokenizer, PrepareError> {
    match data.tokenizer.as_ref().unwrap_or(&default) {
        TokenizerSpec::Byte => Ok(Tokenizer::bytes(specials)),
        TokenizerSpec::Bpe(size) => {
            // Pieces, so that no single sequence is too long for the trainer; none is cut within a word.
            let pieces: Vec<&str> = texts.iter().flat_map(|text| pieces(text)).collect();
            Tokenizer::train_bpe(pieces.into_iter(), *size, specials)
        }
        TokenizerSpec::File(path) => {
            let bytes = base.join(path).read().map_err(|error| {
                PrepareError::new(
                    "file_not_found",
                    "data.tokenizer",
                    format!("{path}: {error}"),
                    "give char, byte, bpe:N or the path of a tokenizer.json",
                )
            })?;
            Tokenizer::from_json(&bytes, specials)
        }
        TokenizerSpec::Char => Ok(Tokenizer::chars(texts.iter().copied(), specials)),
    }
}

/// Parts of a text that every tokenizer here encodes as it encodes the whole: they end before the first word
/// of a line.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    const PIECE_BYTES: usize = 1 << 16;
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        let end = (PIECE_BYTES.min(bytes.len())..bytes.len())
            .find(|&i| bytes[i - 1] == b'\n' && bytes[i].is_ascii_alphanumeric())
            .unwrap_or(bytes.len());
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        Some(piece)
    })
}

/// How much the model reads.
#[derive(Clone, Copy, Debug)]
struct Limits {
    context: usize,
    max_source: usize,
    max_target: usize,
}

impl Limits {
    fn of(spec: &Spec, tokenizer: &Tokenizer, train: &Texts) -> Self {
        // A text that cannot be encoded is reported when the data set is built.
        let len = |text: &str| tokenizer.encode(text).map_or(0, |ids| ids.len());
        let longest = |rows: &[Row<2>], of: &dyn Fn(&Row<2>) -> usize| rows.iter().map(of).max().unwrap_or(0);
        let declared = match &spec.model {
            ModelSpec::Transformer(transformer) => Some(transformer.context),
            _ => None,
        };
        match train {
            Texts::Stream { .. } | Texts::Documents { .. } => {
                let bptt = match &spec.model {
                    ModelSpec::Rnn(spec) | ModelSpec::Lstm(spec) | ModelSpec::Gru(spec) => spec.bptt,
                    _ => None,
                };
                let context = declared.or(bptt).unwrap_or(RECURRENT_CONTEXT);
                Limits { context, max_source: 0, max_target: 0 }
            }
            Texts::Prompts { rows, .. } => {
                let whole = || longest(rows, &|row| len(&row.texts[0]) + len(&row.texts[1]));
                Limits { context: declared.unwrap_or_else(whole), max_source: 0, max_target: 0 }
            }
            Texts::Pairs { rows, .. } => Limits {
                context: 0,
                max_source: declared.unwrap_or_else(|| longest(rows, &|row| len(&row.texts[0]))),
                max_target: declared.unwrap_or_else(|| longest(rows, &|row| len(&row.texts[1]) + 1)),
            },
        }
    }

    fn input(self, tokenizer: Tokenizer) -> InputPreparation {
        if self.context > 0 {
            return InputPreparation::Text { tokenizer, max_tokens: self.context };
        }
        InputPreparation::Pair { tokenizer, max_source: self.max_source, max_target: self.max_target }
    }
}

impl Texts {
    fn file(&self) -> &str {
        let (Texts::Stream { file, .. }
        | Texts::Documents { file, .. }
        | Texts::Prompts { file, .. }
        | Texts::Pairs { file, .. }) = self;
        file
    }

    /// Characters of a long text, else rows.
    fn len(&self) -> usize {
        match self {
            Texts::Stream { text, .. } => text.chars().count(),
            Texts::Documents { rows, .. } => rows.len(),
            Texts::Prompts { rows, .. } | Texts::Pairs { rows, .. } => rows.len(),
        }
    }

    fn all(&self) -> Vec<&str> {
        match self {
            Texts::Stream { text, .. } => vec![text],
            Texts::Documents { rows, .. } => rows.iter().map(|row| row.texts[0].as_str()).collect(),
            Texts::Prompts { rows, .. } | Texts::Pairs { rows, .. } => {
                rows.iter().flat_map(|row| row.texts.iter().map(String::as_str)).collect()
            }
        }
    }

    fn specials(&self, data: &DataSpec) -> Specials {
        let unk = data.unseen == Unseen::Other;
        match self {
            Texts::Stream { .. } => Specials { unk, bos: false, eos: false },
            Texts::Documents { .. } | Texts::Prompts { .. } => Specials { unk, bos: false, eos: true },
            Texts::Pairs { .. } => Specials { unk, bos: true, eos: true },
        }
    }

    /// The rows of a fold's two parts.
    fn folded(self, parts: &Parts) -> Result<(Texts, Texts), DataError> {
        fn pick<const N: usize>(rows: Vec<Row<N>>, parts: &Parts) -> (Vec<Row<N>>, Vec<Row<N>>) {
            let valid: HashSet<usize> = parts.valid.iter().copied().collect();
            let (valid, train): (Vec<_>, Vec<_>) =
                rows.into_iter().enumerate().partition(|(i, _)| valid.contains(i));
            let plain = |rows: Vec<(usize, Row<N>)>| rows.into_iter().map(|(_, row)| row).collect();
            (plain(train), plain(valid))
        }
        let n = self.len();
        let too_few = |file: &str| {
            let message = format!("{n} rows cannot be parted into folds that all have one");
            one(Issue::new(file, "too_few_rows", message, "give more rows, or fewer data.folds"))
        };
        if parts.train.is_empty() || parts.valid.is_empty() {
            return Err(too_few(self.file()));
        }
        Ok(match self {
            Texts::Stream { file, .. } => {
                return Err(one(Issue::new(
                    &file,
                    "no_folds",
                    "one long text has no rows to part: without a piece of its middle, what stands before the \
                     gap would be followed by what stands after it",
                    "use valid_fraction, which takes the text's end; or give rows {\"text\"}, which folds can part",
                )));
            }
            Texts::Documents { file, rows } => {
                let (train, valid) = pick(rows, parts);
                (Texts::Documents { file: file.clone(), rows: train }, Texts::Documents { file, rows: valid })
            }
            Texts::Prompts { file, rows } => {
                let (train, valid) = pick(rows, parts);
                (Texts::Prompts { file: file.clone(), rows: train }, Texts::Prompts { file, rows: valid })
            }
            Texts::Pairs { file, rows } => {
                let (train, valid) = pick(rows, parts);
                (Texts::Pairs { file: file.clone(), rows: train }, Texts::Pairs { file, rows: valid })
            }
        })
    }

    /// The first part, the last `fraction`, and where it was cut.
    fn part(self, fraction: f64) -> (Texts, Texts, usize) {
        let cut = split::last_part(self.len(), fraction);
        let (head, tail) = match self {
            Texts::Stream { file, first_line, mut text } => {
                let at = text.char_indices().nth(cut).map_or(text.len(), |(at, _)| at);
                let tail = text.split_off(at);
                let next_line = first_line + n_lines(&text);
                let head = Texts::Stream { file: file.clone(), first_line, text };
                (head, Texts::Stream { file, first_line: next_line, text: tail })
            }
            Texts::Documents { file, mut rows } => {
                let tail = rows.split_off(cut);
                (Texts::Documents { file: file.clone(), rows }, Texts::Documents { file, rows: tail })
            }
            Texts::Prompts { file, mut rows } => {
                let tail = rows.split_off(cut);
                (Texts::Prompts { file: file.clone(), rows }, Texts::Prompts { file, rows: tail })
            }
            Texts::Pairs { file, mut rows } => {
                let tail = rows.split_off(cut);
                (Texts::Pairs { file: file.clone(), rows }, Texts::Pairs { file, rows: tail })
            }
        };
        (head, tail, cut)
    }
}

/// The key of each row that says which rows stay in one fold.
fn groups(spec: &Spec, source: &Source, report: &mut Report) -> Option<Vec<String>> {
    let (Some(name), Source::Table(table)) = (&spec.data.group, source) else { return None };
    match table.column_index(name) {
        Some(column) => Some(columns::texts(table, column, report)),
        None => {
            report.push(columns::missing_column(table, "data.group", name));
            None
        }
    }
}

/// A file's texts as the task reads them; None with the reason reported.
fn look(spec: &Spec, source: &Source, report: &mut Report) -> Option<Texts> {
    let pairs = spec.task == Task::SequenceToSequence;
    let (fields, hint): (&[&str], _) = if pairs {
        (&["source", "target"], "give .jsonl rows {\"source\", \"target\"} or a table with these columns")
    } else {
        (&["prompt", "completion"], "give a .txt file, or rows {\"text\"} or {\"prompt\", \"completion\"}")
    };
    let table = match source {
        Source::Text { file, text } if !pairs => {
            return Some(Texts::Stream { file: file.clone(), first_line: 1, text: text.clone() });
        }
        Source::Table(table) => table,
        _ => {
            report.push(Issue::new(
                source.file(),
                "wrong_format",
                "the file holds no texts of this task",
                hint,
            ));
            return None;
        }
    };
    let file = table.file.clone();
    let found: Vec<usize> = fields.iter().filter_map(|name| table.column_index(name)).collect();
    if let &[first, second] = &found[..] {
        let rows = two(table, [first, second], report);
        return Some(if pairs { Texts::Pairs { file, rows } } else { Texts::Prompts { file, rows } });
    }
    if let (false, true, Some(column)) = (pairs, found.is_empty(), table.column_index("text")) {
        let rows = columns::texts(table, column, report).into_iter().enumerate();
        let rows = rows.map(|(i, text)| Row { place: table.place(i), id: i as u64, texts: [text] });
        return Some(Texts::Documents { file, rows: rows.collect() });
    }
    let missing = fields.iter().find(|name| table.column_index(name).is_none());
    let mut issue = columns::missing_column(table, "the task", missing.unwrap_or(&"text"));
    issue.hint = format!("{}; {hint}", issue.hint);
    report.push(issue);
    None
}

fn two(table: &Table, [first, second]: [usize; 2], report: &mut Report) -> Vec<Row<2>> {
    let firsts = columns::texts(table, first, report);
    let seconds = columns::texts(table, second, report);
    let rows = firsts.into_iter().zip(seconds).enumerate();
    rows.map(|(i, (a, b))| Row { place: table.place(i), id: i as u64, texts: [a, b] }).collect()
}

fn dataset(
    texts: &Texts,
    tokenizer: &Tokenizer,
    limits: Limits,
    control: &Control,
    (report, warnings): (&mut Report, &mut Vec<Warning>),
) -> Result<Dataset, DataError> {
    let file = texts.file();
    let (mut row_ids, mut n_truncated) = (Vec::new(), Vec::new());
    let examples = match texts {
        Texts::Stream { text, first_line, .. } => {
            let tokens = encode_stream((file, *first_line), text, tokenizer, control, report)?;
            stream(tokens, limits.context, file, report)
        }
        Texts::Documents { rows, .. } => {
            let mut tokens = Vec::new();
            for row in rows {
                control.check()?;
                encode(file, row.place, "text", &row.texts[0], tokenizer, &mut tokens, report);
                tokens.extend(tokenizer.eos());
                row_ids.push(row.id);
            }
            stream(tokens, limits.context, file, report)
        }
        Texts::Prompts { rows, .. } => {
            row_ids = rows.iter().map(|row| row.id).collect();
            let (examples, cut) =
                prompts(file, rows, tokenizer, limits.context, control, (report, warnings))?;
            n_truncated = cut;
            examples
        }
        Texts::Pairs { rows, .. } => {
            row_ids = rows.iter().map(|row| row.id).collect();
            pairs(file, rows, tokenizer, limits, control, report)?
        }
    };
    Ok(Dataset { examples, targets: Targets::None, row_ids, texts: None, n_truncated })
}

fn stream(tokens: Vec<u32>, context: usize, file: &str, report: &mut Report) -> Examples {
    if tokens.len() < 2 {
        report.push(Issue::new(
            file,
            "too_short",
            format!("a part of the text has {} tokens", tokens.len()),
            "each part needs at least two: give more text or another valid_fraction",
        ));
    }
    Examples::Stream { tokens, context }
}

fn encode_stream(
    (file, mut line): (&str, u64),
    text: &str,
    tokenizer: &Tokenizer,
    control: &Control,
    report: &mut Report,
) -> Result<Vec<u32>, DataError> {
    let mut tokens = Vec::with_capacity(text.len());
    for piece in pieces(text) {
        control.check()?;
        if tokenizer.encode_into(piece, &mut tokens).is_err() {
            // Again, line by line, to say where.
            for (at, text) in (line..).zip(piece.split_inclusive('\n')) {
                if let Err(error) = tokenizer.encode(text) {
                    report.push(Issue::prepare(file, Place::Line(at), error));
                }
            }
        }
        line += n_lines(piece);
    }
    Ok(tokens)
}

fn n_lines(text: &str) -> u64 {
    text.bytes().filter(|&byte| byte == b'\n').count() as u64
}

fn encode(
    file: &str,
    place: Place,
    column: &str,
    text: &str,
    tokenizer: &Tokenizer,
    out: &mut Vec<u32>,
    report: &mut Report,
) {
    if let Err(error) = tokenizer.encode_into(text, out) {
        report.push(Issue::prepare(file, place, error).column(column));
    }
}

fn prompts(
    file: &str,
    rows: &[Row<2>],
    tokenizer: &Tokenizer,
    context: usize,
    control: &Control,
    (report, warnings): (&mut Report, &mut Vec<Warning>),
) -> Result<(Examples, Vec<u32>), DataError> {
    let (mut ids, mut answers) = (Ragged::new(), Vec::with_capacity(rows.len()));
    let mut n_truncated = Vec::with_capacity(rows.len());
    let mut sequence = Vec::new();
    for row in rows {
        control.check()?;
        sequence.clear();
        encode(file, row.place, "prompt", &row.texts[0], tokenizer, &mut sequence, report);
        let answer = sequence.len();
        encode(file, row.place, "completion", &row.texts[1], tokenizer, &mut sequence, report);
        sequence.extend(tokenizer.eos());
        // The model reads all but the last token.
        n_truncated.push(sequence.len().saturating_sub(context + 1) as u32);
        sequence.truncate(context + 1);
        if answer >= sequence.len() && answer > 0 {
            report.push(
                Issue::new(
                    file,
                    "too_long",
                    format!(
                        "the prompt has {answer} tokens, the model reads {context}: nothing is left to learn"
                    ),
                    "shorten the prompt, or use a larger model.context",
                )
                .at(row.place)
                .column("prompt"),
            );
        }
        ids.push(&sequence);
        answers.push(answer.max(1) as u32);
    }
    let n_cut = n_truncated.iter().filter(|&&n| n > 0).count();
    if n_cut > 0 {
        warnings.push(Warning::new(
            "truncated",
            format!("{n_cut} of {} rows of {file} are longer than {context} tokens and are cut", rows.len()),
            "use a larger model.context",
        ));
    }
    Ok((Examples::Sequences { ids, answers }, n_truncated))
}

fn pairs(
    file: &str,
    rows: &[Row<2>],
    tokenizer: &Tokenizer,
    limits: Limits,
    control: &Control,
    report: &mut Report,
) -> Result<Examples, DataError> {
    let (mut source, mut target) = (Ragged::new(), Ragged::new());
    let mut ids = Vec::new();
    for row in rows {
        control.check()?;
        ids.clear();
        encode(file, row.place, "source", &row.texts[0], tokenizer, &mut ids, report);
        too_long(file, row, "source", ids.len(), limits.max_source, report);
        source.push(&ids);
        ids.clear();
        ids.extend(tokenizer.bos());
        encode(file, row.place, "target", &row.texts[1], tokenizer, &mut ids, report);
        too_long(file, row, "target", ids.len(), limits.max_target, report);
        ids.extend(tokenizer.eos());
        target.push(&ids);
    }
    Ok(Examples::Pairs { source, target })
}

fn too_long(file: &str, row: &Row<2>, column: &str, len: usize, max: usize, report: &mut Report) {
    if len > max {
        report.push(
            Issue::new(
                file,
                "too_long",
                format!("{len} tokens, but the model reads at most {max}"),
                "shorten it, or use a larger model.context",
            )
            .at(row.place)
            .column(column),
        );
    }
}
