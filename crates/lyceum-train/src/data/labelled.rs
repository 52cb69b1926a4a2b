//! Classification and regression: rows of any format, each with its answer.

use super::answers::{self, Answers};
use super::assemble;
use super::columns::{self, Feature, Schema};
use super::dataset::{Dataset, Examples, Targets};
use super::fit::{self, Kind};
use super::report::{DataError, Issue, Place, Report};
use super::source::{Entry, Source};
use super::split::{self, Parts, Rule};
use super::{Loaded, Sources, sketch};
use lyceum_models::prepare::{InputPreparation, Preparation};
use lyceum_types::control::Control;
use lyceum_types::spec::{Spec, Task};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

pub(super) fn load(
    spec: &Spec,
    sources: &Sources,
    rule: Rule,
    control: &Control,
    mut report: Report,
) -> Result<Loaded, DataError> {
    let mut warnings = Vec::new();
    let train = look(spec, &sources.train, Asked::Answers, control, &mut report)?;
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
    let input = fit_input(
        spec,
        &kind,
        &sources.train,
        &train.features(),
        &parts.train,
        control,
        (&mut report, &mut warnings),
    )?;
    let Some(input) = input else { return Err(DataError::Report(report)) };
    let preparation = Preparation { input, output };

    let names: Vec<String> = train.features().into_iter().map(|feature| feature.name).collect();
    let mut build = |source: &Source, look: &Look, rows: &[usize]| {
        let at = where_columns(&names, source, look);
        assemble(&preparation, source, &at, look.answers.as_ref(), rows, control, &mut report)
    };
    let mut train_set = build(&sources.train, &train, &parts.train)?;
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
    if spec.data.shuffle_labels {
        shuffle(&mut train_set.targets, spec.seed);
    }
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
    source: &Source,
    control: &Control,
) -> Result<Dataset, DataError> {
    let mut report = Report::default();
    let look = look(spec, source, Asked::Inputs, control, &mut report)?;
    let Some(look) = look else { return Err(DataError::Report(report)) };
    let names: Vec<String> = match &preparation.input {
        InputPreparation::Tabular(encoder) => encoder.columns.iter().map(|c| c.name.clone()).collect(),
        _ => look.features().into_iter().map(|feature| feature.name).collect(),
    };
    if let Source::Table(table) = source {
        for name in names.iter().filter(|name| table.column_index(name).is_none()) {
            report.push(columns::missing_column(table, "the model", name));
        }
        if !report.is_empty() {
            return Err(DataError::Report(report));
        }
    }
    let rows: Vec<usize> = (0..source.rows()).collect();
    let at = where_columns(&names, source, &look);
    let set = assemble(preparation, source, &at, look.answers.as_ref(), &rows, control, &mut report)?;
    report.into_result()?;
    Ok(set)
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

/// Whether a file must hold answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Answers,
    /// Answers are read where they are (prediction on new rows).
    Inputs,
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
            let mut targets = spec.data.target.clone();
            if targets.is_empty() && table.column_index("label").is_some() {
                targets.push("label".to_owned());
            }
            let present = targets.iter().all(|name| table.column_index(name).is_some());
            if asked == Asked::Inputs && !present {
                targets.retain(|name| table.column_index(name).is_some());
            }
            let mut data = spec.data.clone();
            if asked == Asked::Inputs {
                // What only training needs may be absent from rows to predict.
                data.group = data.group.filter(|name| table.column_index(name).is_some());
                data.columns.retain(|name, _| table.column_index(name).is_some());
            }
            let schema = columns::resolve(&data, &targets, table, control, report)?;
            if targets.is_empty() && asked == Asked::Answers {
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
                || targets.is_empty() && asked == Asked::Answers
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
    if answers.is_none() && asked == Asked::Answers {
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

/// Where the training file's feature columns are in this one.
fn where_columns(names: &[String], source: &Source, look: &Look) -> Vec<usize> {
    match source {
        Source::Table(table) => names.iter().filter_map(|name| table.column_index(name)).collect(),
        _ => look.features().iter().map(|feature| feature.index).collect(),
    }
}

fn fit_input(
    spec: &Spec,
    kind: &Kind,
    source: &Source,
    features: &[Feature],
    rows: &[usize],
    control: &Control,
    (report, warnings): (&mut Report, &mut Vec<super::Warning>),
) -> Result<Option<InputPreparation>, DataError> {
    match (kind, source) {
        (Kind::Tabular, Source::Table(table)) => {
            let encoder = fit::encoder(&spec.data, table, features, rows, report, warnings);
            return Ok((!encoder.columns.is_empty()).then_some(InputPreparation::Tabular(encoder)));
        }
        (Kind::Tabular, _) => unreachable!(),
        (Kind::Text { .. }, _) => unreachable!(),
        _ => {}
    }
    let Some(mut input) = fit::dense(kind, source, features, report)? else { return Ok(None) };
    if fit::standardizes(&spec.data, kind) {
        let columns: Vec<usize> = features.iter().map(|feature| feature.index).collect();
        // Errors are reported when the rows are encoded for good.
        let mut unreported = Report::default();
        let data = assemble::dense(&input, source, &columns, rows, control, &mut unreported)?;
        fit::set_scales(&mut input, &data);
    }
    Ok(Some(input))
}

fn assemble(
    preparation: &Preparation,
    source: &Source,
    columns: &[usize],
    answers: Option<&Answers>,
    rows: &[usize],
    control: &Control,
    report: &mut Report,
) -> Result<Dataset, DataError> {
    let data = assemble::dense(&preparation.input, source, columns, rows, control, report)?;
    Ok(assemble::with_targets(preparation, data, source, answers, rows, report))
}

/// Gives the training rows each other's answers.
fn shuffle(targets: &mut Targets, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5AFF_1E00);
    match targets {
        Targets::Classes(classes) => classes.shuffle(&mut rng),
        Targets::Values { width, data } => {
            let mut rows: Vec<Vec<f32>> = data.chunks(*width).map(<[f32]>::to_vec).collect();
            rows.shuffle(&mut rng);
            *data = rows.concat();
        }
        Targets::Steps { steps, data } => {
            let mut rows: Vec<Vec<u32>> = data.chunks(*steps).map(<[u32]>::to_vec).collect();
            rows.shuffle(&mut rng);
            *data = rows.concat();
        }
        Targets::None => {}
    }
}
