//! Classification and regression: rows of any format, each with its answer.

use super::answers::{self, Answers};
use super::assemble;
use super::columns::{self, Feature, Purpose, Schema};
use super::dataset::{Dataset, Examples, Ragged};
use super::fit::{self, Kind};
use super::report::{DataError, Issue, Place, Report, Warning};
use super::source::{Entry, Media, SoundFile, Source};
use super::split::{self, Parts, Rule};
use super::table::Table;
use super::{Loaded, Sources, corpus, series, sketch};
use lyceum_models::prepare::series::{Fields, Series};
use lyceum_models::prepare::tabular::Cell;
use lyceum_models::prepare::text::Specials;
use lyceum_models::prepare::{InputPreparation, Preparation, Prepared, PreparedValue, Raw};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::spec::{ModelSpec, Spec, Task, TokenizerSpec, Unseen};
use std::collections::BTreeMap;

pub(super) fn load(
    spec: &Spec,
    mut sources: Sources,
    rule: Rule,
    control: &Control,
    mut report: Report,
) -> Result<Loaded, DataError> {
    let mut warnings = Vec::new();
    sources.train = gathered(spec, sources.train, Asked::Training, control, &mut report)?;
    for source in [&mut sources.valid, &mut sources.test] {
        if let Some(table) = source.take() {
            *source = Some(gathered(spec, table, Asked::Answers, control, &mut report)?);
        }
    }
    let sources = &sources;
    let train = look(spec, &sources.train, Asked::Training, control, &mut report)?;
    let others = [("valid", &sources.valid), ("test", &sources.test)];
    let mut looked = Vec::new();
    for (role, source) in others {
        if let Some(source) = source {
            looked.push((role, source, look(spec, source, Asked::Answers, control, &mut report)?));
        }
    }
    // Without its columns or answers a file cannot be judged further.
    let (Some(train), false) = (train, looked.iter().any(|(_, _, look)| look.is_none())) else {
        return Err(DataError::Report(report));
    };
    let answers = train.answers.as_ref().expect("training rows have answers: bug");

    let parts = part(spec, &sources.train, &train, answers, rule, &mut report);
    if parts.train.is_empty() {
        report.into_result()?;
        return Err(super::report::one(Issue::new(
            sources.train.file(),
            "no_rows",
            "no row is left to train on",
            "give more rows, or a smaller valid_fraction",
        )));
    }
    let kind = match fit::kind(spec, &sources.train, train.schema.as_ref()) {
        Ok(kind) => kind,
        Err(error) => {
            report.push(Issue::prepare(sources.train.file(), Place::File, error));
            return Err(DataError::Report(report));
        }
    };
    let scaled_targets = fit::standardizes(&spec.data, &kind);
    let output = answers.fit(&parts.train, scaled_targets, sources.train.file(), &mut report);
    let features = train.features();
    let on = Fit { spec, base: &sources.base, kind: &kind, source: &sources.train, features: &features };
    let input = fit_input(&on, &parts.train, control, (&mut report, &mut warnings))?;
    let Some(input) = input else { return Err(DataError::Report(report)) };
    let preparation = Preparation { input, output };

    let names: Vec<String> = train.features().into_iter().map(|feature| feature.name).collect();
    for (_, source, _) in &looked {
        missing_features(&names, source, &mut report);
    }
    if report.counts.contains_key("missing_column") {
        return Err(DataError::Report(report));
    }
    let mut build = |source: &Source, look: &Look, rows: &[usize]| {
        let at = where_columns(&names, source, look);
        let set = assemble(
            (&preparation, control),
            source,
            &at,
            look.answers.as_ref(),
            rows,
            (&mut report, &mut warnings),
        );
        name_target(source, look, &mut report);
        set
    };
    let train_set = build(&sources.train, &train, &parts.train)?;
    let mut valid = match rule {
        Rule::Whole => None,
        _ if parts.valid.is_empty() => None,
        _ => Some(build(&sources.train, &train, &parts.valid)?),
    };
    let mut test = None;
    for (role, source, look) in &looked {
        let look = look.as_ref().expect("checked above: bug");
        let rows: Vec<usize> = (0..source.rows()).collect();
        let set = Some(build(source, look, &rows)?);
        if *role == "valid" { valid = set } else { test = set }
    }
    report.into_result()?;

    answers::warn_imbalance(&train_set.targets, preparation.output.labels(), &mut warnings);
    let features =
        sketch::features(&preparation, &sources.train, &train.features(), &parts.train, &train_set);
    Ok(Loaded {
        split: split_record(&train_set, valid.as_ref(), test.as_ref()),
        preparation,
        train: train_set,
        valid,
        test,
        features,
        files: vec![],
        warnings,
    })
}

pub(super) fn evaluate(
    preparation: &Preparation,
    spec: &Spec,
    source: Source,
    control: &Control,
) -> Result<Dataset, DataError> {
    let mut report = Report::default();
    let source = &gathered(spec, source, Asked::Inputs, control, &mut report)?;
    let look = look(spec, source, Asked::Inputs, control, &mut report)?;
    let Some(look) = look else { return Err(DataError::Report(report)) };
    let names: Vec<String> = match &preparation.input {
        InputPreparation::Tabular(encoder) => encoder.columns.iter().map(|c| c.name.clone()).collect(),
        InputPreparation::Series(Series { fields: Fields::Steps(names), .. }) => names.clone(),
        _ => look.features().into_iter().map(|feature| feature.name).collect(),
    };
    if let (InputPreparation::Text { .. }, Source::Table(table)) = (&preparation.input, source)
        && names.len() != 1
    {
        report.push(many_texts(table, names.len()));
    }
    missing_features(&names, source, &mut report);
    if !report.is_empty() {
        return Err(DataError::Report(report));
    }
    let rows: Vec<usize> = (0..source.rows()).collect();
    let at = where_columns(&names, source, &look);
    let set = assemble(
        (preparation, control),
        source,
        &at,
        look.answers.as_ref(),
        &rows,
        (&mut report, &mut Vec::new()),
    )?;
    name_target(source, &look, &mut report);
    report.into_result()?;
    Ok(set)
}

/// The one column of texts, a row each.
pub(super) fn texts(spec: &Spec, source: &Source, control: &Control) -> Result<Vec<String>, DataError> {
    let mut report = Report::default();
    let Source::Table(table) = source else {
        let hint = "give .jsonl rows {\"text\", \"label\"} or a table";
        return Err(super::report::one(Issue::new(
            source.file(),
            "wrong_format",
            "it has no rows of texts",
            hint,
        )));
    };
    let features = look(spec, source, Asked::Inputs, control, &mut report)?
        .map_or_else(Vec::new, |look| look.features());
    let [one] = &features[..] else {
        if report.is_empty() {
            report.push(many_texts(table, features.len()));
        }
        return Err(DataError::Report(report));
    };
    let texts = columns::texts(table, one.index, &mut report);
    report.into_result()?;
    Ok(texts)
}

/// The files of a source of sounds, a row each.
pub(super) fn sound_files(
    spec: &Spec,
    source: Source,
    control: &Control,
) -> Result<Option<Vec<SoundFile>>, DataError> {
    let mut report = Report::default();
    let source = gathered(spec, source, Asked::Inputs, control, &mut report)?;
    report.into_result()?;
    Ok(match source {
        Source::Files(files) if files.media == Media::Sounds => {
            Some(files.entries.into_iter().map(SoundFile).collect())
        }
        _ => None,
    })
}

/// A label that is refused stands in the target's column.
fn name_target(source: &Source, look: &Look, report: &mut Report) {
    let (Source::Table(table), Some(schema)) = (source, &look.schema) else { return };
    let Some(target) = schema.targets.first().map(|&target| table.columns[target].clone()) else { return };
    let labels = report.errors.iter_mut().filter(|issue| issue.code == "unseen_label");
    labels.filter(|issue| issue.file == table.file).for_each(|issue| issue.column = Some(target.clone()));
}

/// Row numbers of each part, for the manifest.
pub(super) fn split_record(
    train: &Dataset,
    valid: Option<&Dataset>,
    test: Option<&Dataset>,
) -> BTreeMap<String, Vec<u64>> {
    let parts = [("train", Some(train)), ("valid", valid), ("test", test)];
    let rows = |(role, set): (&str, Option<&Dataset>)| set.map(|set| (role.to_owned(), set.row_ids.clone()));
    parts.into_iter().filter_map(rows).collect()
}

/// A table of series in long form becomes one row a series.
fn gathered(
    spec: &Spec,
    source: Source,
    asked: Asked,
    control: &Control,
    report: &mut Report,
) -> Result<Source, DataError> {
    let Source::Table(table) = &source else { return Ok(source) };
    if !series::is_long_form(spec, table) {
        return Ok(source);
    }
    let mut targets = targets(spec, table);
    if asked == Asked::Inputs {
        targets.retain(|name| table.column_index(name).is_some());
    }
    let schema = columns::resolve(&spec.data, &targets, table, asked.purpose(), control, report)?;
    if !report.is_empty() {
        return Err(DataError::Report(std::mem::take(report)));
    }
    let gathered = series::gather(spec, table, &schema, control, report)?;
    if report.is_empty() { Ok(gathered) } else { Err(DataError::Report(std::mem::take(report))) }
}

/// The declared target columns, else `label` where there is one.
fn targets(spec: &Spec, table: &Table) -> Vec<String> {
    let mut targets = spec.data.target.clone();
    if targets.is_empty() && table.column_index("label").is_some() {
        targets.push("label".to_owned());
    }
    targets
}

/// Whether a file must hold answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The file that everything is fitted on.
    Training,
    Answers,
    /// Answers are read where they are (prediction on new rows).
    Inputs,
}

impl Asked {
    fn purpose(self) -> Purpose {
        if self == Asked::Training { Purpose::Fit } else { Purpose::Encode }
    }
}

/// What a file's structure says.
struct Look {
    /// Tables only.
    schema: Option<Schema>,
    answers: Option<Answers>,
}

impl Look {
    fn features(&self) -> Vec<Feature> {
        self.schema.as_ref().map_or_else(Vec::new, |schema| schema.features.clone())
    }
}

/// Finds a file's columns and reads its answers; None where that is not possible, with the reason reported.
fn look(
    spec: &Spec,
    source: &Source,
    asked: Asked,
    control: &Control,
    report: &mut Report,
) -> Result<Option<Look>, DataError> {
    let before = report.n_errors();
    let no_targets = |hint: &str, report: &mut Report| {
        report.push(Issue::new(source.file(), "no_target", "nothing says what is to be learnt", hint));
    };
    let answers = match source {
        Source::Table(table) => {
            let mut targets = targets(spec, table);
            let present = targets.iter().all(|name| table.column_index(name).is_some());
            if asked == Asked::Inputs && !present {
                targets.retain(|name| table.column_index(name).is_some());
            }
            let schema = columns::resolve(&spec.data, &targets, table, asked.purpose(), control, report)?;
            if targets.is_empty() && asked != Asked::Inputs {
                no_targets("name the column in data.target", report);
            }
            if spec.task == Task::Classification && targets.len() > 1 {
                report.push(Issue::new(
                    source.file(),
                    "many_targets",
                    "a classifier learns one column, data.target names several",
                    "name one column, or use task = \"regression\" for several numbers",
                ));
            }
            if report.n_errors() > before
                && (schema.features.is_empty() || schema.targets.len() != targets.len())
                || report.counts.contains_key("missing_column")
                || targets.is_empty() && asked != Asked::Inputs
            {
                return Ok(None);
            }
            let answers = (present && !targets.is_empty())
                .then(|| answers::of_table(spec.task, table, &schema.targets, report));
            return Ok(Some(Look { schema: Some(schema), answers }));
        }
        Source::Arrays(arrays) => arrays.answers.clone(),
        Source::Files(files) => files.labelled.then(|| file_answers(spec.task, &files.entries, report)),
        Source::Text { file, .. } => {
            report.push(Issue::new(
                file,
                "wrong_format",
                "one text has no rows to classify",
                "give .jsonl rows {\"text\", \"label\"} or a table, or use task = \"language_modeling\"",
            ));
            return Ok(None);
        }
    };
    if answers.is_none() && asked != Asked::Inputs {
        no_targets("give the array of answers, or a folder per class", report);
        return Ok(None);
    }
    Ok(Some(Look { schema: None, answers }))
}

/// The labels of a folder or manifest: classes, or numbers.
fn file_answers(task: Task, entries: &[Entry], report: &mut Report) -> Answers {
    if task == Task::Classification {
        return Answers::Classes(entries.iter().map(|entry| entry.label.clone()).collect());
    }
    let data = entries.iter().map(|entry| {
        entry.label.parse().unwrap_or_else(|_| {
            report.push(Issue::new(
                &entry.shown,
                "not_a_number",
                format!("the label {:?} is not a number", entry.label),
                "write a number, or use task = \"classification\"",
            ));
            0.0
        })
    });
    Answers::Values { names: vec!["label".to_owned()], data: data.collect() }
}

fn part(
    spec: &Spec,
    source: &Source,
    look: &Look,
    answers: &Answers,
    rule: Rule,
    report: &mut Report,
) -> Parts {
    let groups = match (source, look.schema.as_ref().and_then(|schema| schema.group)) {
        (Source::Table(table), Some(column)) => Some(columns::texts(table, column, report)),
        _ => None,
    };
    let strata = answers.strata();
    split::part(rule, source.rows(), strata.as_deref(), groups.as_deref(), spec.seed)
}

/// Reports the training file's feature columns that another table does not have.
fn missing_features(names: &[String], source: &Source, report: &mut Report) {
    let Source::Table(table) = source else { return };
    for name in names.iter().filter(|name| table.column_index(name).is_none()) {
        report.push(columns::missing_column(table, "the training data", name));
    }
}

fn many_texts(table: &Table, n: usize) -> Issue {
    Issue::new(
        &table.file,
        "many_texts",
        format!("a text classifier reads one column, {n} are left"),
        "name it: features = [\"text\"]",
    )
}

/// Where the training file's feature columns are in this one.
fn where_columns(names: &[String], source: &Source, look: &Look) -> Vec<usize> {
    match source {
        Source::Table(table) => names.iter().filter_map(|name| table.column_index(name)).collect(),
        _ => look.features().iter().map(|feature| feature.index).collect(),
    }
}

/// What the inputs are fitted on.
struct Fit<'a> {
    spec: &'a Spec,
    base: &'a KeyedPath,
    kind: &'a Kind,
    source: &'a Source,
    features: &'a [Feature],
}

fn fit_input(
    on: &Fit<'_>,
    rows: &[usize],
    control: &Control,
    (report, warnings): (&mut Report, &mut Vec<Warning>),
) -> Result<Option<InputPreparation>, DataError> {
    let Fit { spec, source, features, .. } = *on;
    match (on.kind, source) {
        (Kind::Tabular, Source::Table(table)) => {
            let encoder = fit::encoder(&spec.data, table, features, rows, report, warnings);
            return Ok((!encoder.columns.is_empty()).then_some(InputPreparation::Tabular(encoder)));
        }
        (Kind::Text { max_tokens }, Source::Table(table)) => {
            return Ok(fit_text(on, table, *max_tokens, rows, report));
        }
        (Kind::Tabular | Kind::Text { .. }, _) => {
            report.push(Issue::new(
                source.file(),
                "wrong_format",
                "the file holds pictures, sounds or arrays, data.input says otherwise",
                "correct data.input, or leave it out",
            ));
            return Ok(None);
        }
        _ => {}
    }
    let Some(mut input) = fit::dense(on.kind, source, features, report)? else { return Ok(None) };
    if fit::standardizes(&spec.data, on.kind) {
        let columns: Vec<usize> = features.iter().map(|feature| feature.index).collect();
        // Errors are reported when the rows are encoded for good.
        let mut unreported = Report::default();
        let data = assemble::dense(&input, source, &columns, rows, control, &mut unreported)?;
        fit::set_scales(&mut input, &data);
    }
    Ok(Some(input))
}

/// The tokenizer of a text column, and how many tokens are read: as declared, else as many as the longest
/// training text has, as far as the model reads.
fn fit_text(
    on: &Fit<'_>,
    table: &Table,
    max_tokens: Option<usize>,
    rows: &[usize],
    report: &mut Report,
) -> Option<InputPreparation> {
    let [feature] = on.features else {
        report.push(many_texts(table, on.features.len()));
        return None;
    };
    let texts: Vec<&str> = rows
        .iter()
        .filter_map(|&row| match table.cell(row, feature.index) {
            Cell::Text(text) => Some(text),
            Cell::Missing | Cell::Number(_) => None,
        })
        .collect();
    let specials = Specials { unk: on.spec.data.unseen == Unseen::Other, bos: false, eos: false };
    match corpus::fit_tokenizer(&on.spec.data, on.base, &texts, specials, TokenizerSpec::Byte) {
        Ok(tokenizer) => {
            let len = |text: &&str| tokenizer.encode(text).map_or(0, |ids| ids.len());
            let longest = || texts.iter().map(len).max().unwrap_or(1).max(1);
            let context = match &on.spec.model {
                ModelSpec::Transformer(transformer) => transformer.context,
                _ => usize::MAX,
            };
            let max_tokens = max_tokens.unwrap_or_else(longest).min(context);
            Some(InputPreparation::Text { tokenizer, max_tokens })
        }
        Err(error) => {
            report.push(Issue::prepare(&table.file, Place::File, error));
            None
        }
    }
}

fn assemble(
    (preparation, control): (&Preparation, &Control),
    source: &Source,
    columns: &[usize],
    answers: Option<&Answers>,
    rows: &[usize],
    (report, warnings): (&mut Report, &mut Vec<Warning>),
) -> Result<Dataset, DataError> {
    if let (InputPreparation::Text { max_tokens, .. }, Source::Table(table)) = (&preparation.input, source) {
        let (mut ids, mut texts) = (Ragged::new(), Vec::with_capacity(rows.len()));
        let mut n_truncated = Vec::with_capacity(rows.len());
        for &row in rows {
            control.check()?;
            let text = match table.cell(row, columns[0]) {
                Cell::Text(text) => text.to_owned(),
                Cell::Number(x) => format!("{x}"),
                Cell::Missing => String::new(),
            };
            match preparation.example(Raw::Text(&text)) {
                Ok(Prepared { value: PreparedValue::Tokens(tokens), n_truncated: cut }) => {
                    n_truncated.push(cut as u32);
                    ids.push(&tokens);
                }
                Ok(_) => unreachable!("a text becomes tokens: bug"),
                Err(error) => {
                    let name = table.columns[columns[0]].as_str();
                    report.push(Issue::prepare(&table.file, table.place(row), error).column(name));
                    n_truncated.push(0);
                    ids.push(&[0]);
                }
            }
            texts.push(text);
        }
        let n_cut = n_truncated.iter().filter(|&&n| n > 0).count();
        if n_cut > 0 {
            warnings.push(Warning::new(
                "truncated",
                format!("{n_cut} of {} texts of {} are cut to {max_tokens} tokens", rows.len(), table.file),
                "raise input.max_tokens (and model.context), or shorten the texts",
            ));
        }
        return Ok(Dataset {
            examples: Examples::Tokens(ids),
            targets: assemble::encode_targets(preparation, source, answers, rows, report),
            row_ids: assemble::row_ids(source, rows),
            texts: Some(texts),
            n_truncated,
        });
    }
    let data = assemble::dense(&preparation.input, source, columns, rows, control, report)?;
    Ok(assemble::with_targets(preparation, data, source, answers, rows, report))
}
