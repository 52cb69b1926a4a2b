//! Series in tables: windows to forecast from, and series in long form (one row a step).

use super::answers::{Answers, bad_number, mean_and_std};
use super::columns::{self, Purpose, Schema};
use super::dataset::Dataset;
use super::labelled::split_record;
use super::report::{DataError, Issue, Report, one};
use super::source::{Arrays, Numbers, Source};
use super::split::{self, Rule};
use super::table::Table;
use super::{Loaded, Sources, assemble, sketch};
use lyceum_models::prepare::series::{Fields, Series};
use lyceum_models::prepare::tabular::{Cell, category, number};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_types::control::Control;
use lyceum_types::spec::{ColumnKind, Spec, Task};

/// A table's numbers `[rows, channels]`: the targets first, then the other features; and its series, each a
/// range of rows.
struct Numeric {
    file: String,
    names: Vec<String>,
    n_targets: usize,
    data: Vec<f64>,
    series: Vec<std::ops::Range<usize>>,
}

pub(super) fn load(
    spec: &Spec,
    sources: &Sources,
    rule: Rule,
    control: &Control,
    mut report: Report,
) -> Result<Loaded, DataError> {
    let (window, horizon) = sizes(spec, sources.train.file())?;
    let train = numeric(spec, &sources.train, control, &mut report)?;
    let mut others = Vec::new();
    for (role, source) in [("valid", &sources.valid), ("test", &sources.test)] {
        if let Some(source) = source {
            others.push((role, numeric(spec, source, control, &mut report)?));
        }
    }
    let (Some(train), false) = (train, others.iter().any(|(_, numeric)| numeric.is_none())) else {
        return Err(DataError::Report(report));
    };
    // Where each series' training part ends, and its validation part.
    let cut = |rows: &std::ops::Range<usize>| {
        let (train, valid) = origin(rule, rows.len());
        (rows.start + train, rows.start + valid)
    };
    let (cuts, ends): (Vec<usize>, Vec<usize>) = train.series.iter().map(cut).unzip();
    let preparation = fit(spec, &train, &cuts, window, horizon);

    // A training window lies before the cut with its targets; a validation window has its targets after it.
    let before = |series: usize, first_target: usize| first_target + horizon <= cuts[series];
    let after = |series: usize, first_target: usize| {
        first_target >= cuts[series] && first_target + horizon <= ends[series]
    };
    let everywhere = |_: usize, _: usize| true;
    let mut build = |numeric: &Numeric, keep: &dyn Fn(usize, usize) -> bool| {
        windows(&preparation, numeric, (window, horizon), keep, control, &mut report)
    };
    let train_set = build(&train, &before)?;
    let mut valid = if rule == Rule::Whole { None } else { Some(build(&train, &after)?) };
    let mut test = None;
    for (role, numeric) in &others {
        let numeric = numeric.as_ref().expect("checked above: bug");
        let set = Some(build(numeric, &everywhere)?);
        if *role == "valid" { valid = set } else { test = set }
    }
    report.into_result()?;
    Ok(Loaded {
        features: sketch::examples(&preparation, &train_set),
        split: split_record(&train_set, valid.as_ref(), test.as_ref()),
        preparation,
        train: train_set,
        valid,
        test,
        files: vec![],
        warnings: vec![],
    })
}

/// All windows of a file with their targets; of a file too short for that, its last window without one (the
/// future is asked for).
pub(super) fn evaluate(
    preparation: &Preparation,
    spec: &Spec,
    source: &Source,
    control: &Control,
) -> Result<Dataset, DataError> {
    let (window, horizon) = sizes(spec, source.file())?;
    let mut report = Report::default();
    let numeric = numeric(spec, source, control, &mut report)?;
    let Some(numeric) = numeric else { return Err(DataError::Report(report)) };
    let enough = numeric.series.iter().any(|rows| rows.len() >= window + horizon);
    let set = if enough {
        windows(preparation, &numeric, (window, horizon), &|_, _| true, control, &mut report)?
    } else {
        last_windows(preparation, &numeric, window, control, &mut report)?
    };
    report.into_result()?;
    Ok(set)
}

/// Where the training part of `n` steps ends, and the validation part after it. Folds roll the origin of the
/// forecast on (Hyndman & Athanasopoulos 2021, 5.10): the steps are `n_folds + 1` blocks; fold `k` trains on
/// all before block `k + 1` and validates on it, so no fold learns from what comes after it.
fn origin(rule: Rule, n: usize) -> (usize, usize) {
    match rule {
        Rule::Whole => (n, n),
        Rule::Fraction(fraction) => (split::last_part(n, fraction), n),
        Rule::Fold { fold, n_folds } => {
            let block = |i: usize| n * i / (n_folds + 1);
            (block(fold + 1), block(fold + 2))
        }
    }
}

fn sizes(spec: &Spec, file: &str) -> Result<(usize, usize), DataError> {
    match (spec.data.window, spec.data.horizon.unwrap_or(1)) {
        (Some(window), horizon) if window > 0 && horizon > 0 => Ok((window, horizon)),
        _ => Err(one(Issue::new(
            file,
            "no_window",
            "forecasting needs to know how many steps are seen and predicted",
            "set data.window, and data.horizon (1 by default)",
        ))),
    }
}

fn fit(spec: &Spec, train: &Numeric, cuts: &[usize], window: usize, horizon: usize) -> Preparation {
    let channels = train.names.len();
    let rows: Vec<usize> = train.series.iter().zip(cuts).flat_map(|(rows, &cut)| rows.start..cut).collect();
    let (mut mean, mut std) = (vec![0.0; channels], vec![1.0; channels]);
    if spec.data.standardize.unwrap_or(true) {
        for c in 0..channels {
            (mean[c], std[c]) = mean_and_std(rows.iter().map(|row| train.data[row * channels + c]));
        }
    }
    let repeated = |scale: &[f64]| scale[..train.n_targets].repeat(horizon);
    let names = (1..=horizon)
        .flat_map(|step| train.names[..train.n_targets].iter().map(move |name| format!("{name}+{step}")));
    Preparation {
        output: OutputPreparation::Values {
            names: names.collect(),
            mean: repeated(&mean),
            std: repeated(&std),
        },
        input: InputPreparation::Series(Series {
            steps: window,
            fields: Fields::Channels(train.names.clone()),
            mean,
            std,
        }),
    }
}

fn windows(
    preparation: &Preparation,
    numeric: &Numeric,
    (window, horizon): (usize, usize),
    keep: &dyn Fn(usize, usize) -> bool,
    control: &Control,
    report: &mut Report,
) -> Result<Dataset, DataError> {
    let channels = numeric.names.len();
    let (mut inputs, mut answers, mut row_ids) = (Vec::new(), Vec::new(), Vec::new());
    for (s, rows) in numeric.series.iter().enumerate() {
        for first_target in rows.start + window..(rows.end + 1).saturating_sub(horizon) {
            control.check()?;
            if !keep(s, first_target) {
                continue;
            }
            inputs.extend_from_slice(
                &numeric.data[(first_target - window) * channels..first_target * channels],
            );
            for row in first_target..first_target + horizon {
                answers.extend_from_slice(&numeric.data[row * channels..row * channels + numeric.n_targets]);
            }
            row_ids.push(first_target as u64);
        }
    }
    if row_ids.is_empty() {
        report.push(Issue::new(
            &numeric.file,
            "too_short",
            format!("a part of the series is shorter than window {window} and horizon {horizon} together"),
            "give more steps, a smaller window, another valid_fraction, or fewer folds",
        ));
    }
    let OutputPreparation::Values { names, .. } = &preparation.output else {
        unreachable!("a forecast is numbers: bug")
    };
    let answers = Answers::Values { names: names.clone(), data: answers };
    assembled(preparation, numeric, window, (inputs, Some(answers), row_ids), control, report)
}

fn last_windows(
    preparation: &Preparation,
    numeric: &Numeric,
    window: usize,
    control: &Control,
    report: &mut Report,
) -> Result<Dataset, DataError> {
    let channels = numeric.names.len();
    let (mut inputs, mut row_ids) = (Vec::new(), Vec::new());
    for rows in numeric.series.iter().filter(|rows| rows.len() >= window) {
        inputs.extend_from_slice(&numeric.data[(rows.end - window) * channels..rows.end * channels]);
        row_ids.push(rows.end as u64);
    }
    if row_ids.is_empty() {
        report.push(Issue::new(
            &numeric.file,
            "too_short",
            format!("the model reads {window} steps, the file has fewer"),
            format!("give at least the last {window} steps"),
        ));
    }
    assembled(preparation, numeric, window, (inputs, None, row_ids), control, report)
}

fn assembled(
    preparation: &Preparation,
    numeric: &Numeric,
    window: usize,
    (inputs, answers, row_ids): (Vec<f64>, Option<Answers>, Vec<u64>),
    control: &Control,
    report: &mut Report,
) -> Result<Dataset, DataError> {
    let rows: Vec<usize> = (0..row_ids.len()).collect();
    let source = Source::Arrays(Arrays {
        file: numeric.file.clone(),
        shape: vec![window, numeric.names.len()],
        numbers: Numbers::F64(inputs),
        answers,
        fields: None,
        row_ids: Some(row_ids),
    });
    let Source::Arrays(arrays) = &source else { unreachable!("made above: bug") };
    let data = assemble::dense(&preparation.input, &source, &[], &rows, control, report)?;
    Ok(assemble::with_targets(preparation, data, &source, arrays.answers.as_ref(), &rows, report))
}

/// Reads the numbers of a table to forecast from.
fn numeric(
    spec: &Spec,
    source: &Source,
    control: &Control,
    report: &mut Report,
) -> Result<Option<Numeric>, DataError> {
    let Source::Table(table) = source else {
        report.push(Issue::new(
            source.file(),
            "wrong_format",
            "a forecast is learnt from a table",
            "give a .csv, .tsv, .parquet, .jsonl or two-dimensional .npy file, a row a step",
        ));
        return Ok(None);
    };
    let mut targets = spec.data.target.clone();
    if targets.is_empty() {
        // The one column of a table of one column can only be what is forecast.
        match &table.columns[..] {
            [only] => targets.push(only.clone()),
            _ => {
                report.push(Issue::new(
                    &table.file,
                    "no_target",
                    "nothing says what is to be forecast",
                    "name the column in data.target",
                ));
                return Ok(None);
            }
        }
    }
    let mut found = Report::default();
    let schema = columns::resolve(&spec.data, &targets, table, Purpose::Fit, control, &mut found)?;
    // The targets are their own features.
    found.counts.remove("no_features");
    found.errors.retain(|issue| issue.code != "no_features");
    let missing = schema.targets.len() != targets.len() || !found.is_empty();
    found.errors.into_iter().for_each(|issue| report.push(issue));
    if missing {
        return Ok(None);
    }
    let mut columns = schema.targets.clone();
    for feature in &schema.features {
        if feature.kind == ColumnKind::Number {
            columns.push(feature.index);
            continue;
        }
        report.push(
            Issue::new(
                &table.file,
                "not_numeric",
                "a forecast reads columns of numbers only",
                format!("set columns = {{ {:?} = \"drop\" }}, or name it as data.time", feature.name),
            )
            .column(feature.name.as_str()),
        );
    }
    let data = read_numbers(table, &columns, control, report)?;
    Ok(Some(Numeric {
        file: table.file.clone(),
        names: columns.iter().map(|&column| table.columns[column].clone()).collect(),
        n_targets: targets.len(),
        data,
        series: ranges(table, &schema, report),
    }))
}

fn read_numbers(
    table: &Table,
    columns: &[usize],
    control: &Control,
    report: &mut Report,
) -> Result<Vec<f64>, DataError> {
    let mut data = Vec::with_capacity(table.rows() * columns.len());
    for row in 0..table.rows() {
        control.check()?;
        for &column in columns {
            data.push(match number(table.cell(row, column)) {
                Ok(Some(x)) => x,
                Ok(None) => {
                    report.push(table.issue(
                        row,
                        column,
                        "missing_value",
                        "the value is missing",
                        "fill it in: a series may have no gaps",
                    ));
                    0.0
                }
                Err(problem) => {
                    report.push(bad_number(table, row, column, problem));
                    0.0
                }
            });
        }
    }
    Ok(data)
}

/// Rows that belong to one series: all, or those of each group, which must stand together. Time must rise.
fn ranges(table: &Table, schema: &Schema, report: &mut Report) -> Vec<std::ops::Range<usize>> {
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    let key = |row: usize| schema.group.map(|group| category(table.cell(row, group)));
    let mut seen = std::collections::HashSet::new();
    for row in 0..table.rows() {
        if row > 0 && key(row) == key(row - 1) {
            ranges.last_mut().expect("a row came before: bug").end = row + 1;
            in_order(table, schema, row, report);
            continue;
        }
        if let (false, Some(group)) = (seen.insert(key(row)), schema.group) {
            report.push(table.issue(
                row,
                group,
                "scattered_group",
                "this series began further up and was interrupted",
                "sort the rows by series and time",
            ));
        }
        ranges.push(row..row + 1);
    }
    ranges
}

fn in_order(table: &Table, schema: &Schema, row: usize, report: &mut Report) {
    let Some(time) = schema.time else { return };
    let (before, now) = (table.cell(row - 1, time), table.cell(row, time));
    let rises = match (number(before), number(now)) {
        (Ok(Some(a)), Ok(Some(b))) => a < b,
        _ => match (before, now) {
            (Cell::Text(a), Cell::Text(b)) => a.trim() < b.trim(),
            _ => false,
        },
    };
    if !rises {
        report.push(table.issue(
            row,
            time,
            "unsorted_time",
            "the time is not after the one in the row before",
            "sort the rows by time; write dates as 2024-01-31",
        ));
    }
}

/// Series in long form: the rows of each group, in time order, become one example.
pub(super) fn gather(
    spec: &Spec,
    table: &Table,
    schema: &Schema,
    control: &Control,
    report: &mut Report,
) -> Result<Source, DataError> {
    let columns: Vec<usize> = schema.features.iter().map(|feature| feature.index).collect();
    let data = read_numbers(table, &columns, control, report)?;
    let ranges = ranges(table, schema, report);
    let steps = ranges.first().map_or(0, ExactSizeIterator::len);
    let group = schema.group.expect("long form has a group: bug");
    let answers = super::answers::of_table(spec.task, table, &schema.targets, report);
    for rows in &ranges {
        if rows.len() != steps {
            report.push(table.issue(
                rows.start,
                group,
                "different_lengths",
                format!("this series has {} steps, the first one has {steps}", rows.len()),
                "give all series the same number of steps",
            ));
        }
        for row in rows.clone().skip(1) {
            for &target in &schema.targets {
                if category(table.cell(row, target)) != category(table.cell(rows.start, target)) {
                    report.push(table.issue(
                        row,
                        target,
                        "changing_label",
                        "the answer differs within one series",
                        "give all rows of a series the same answer",
                    ));
                }
            }
        }
    }
    let firsts = ranges.iter().map(|rows| rows.start);
    let answers = match answers {
        Answers::Classes(classes) => Answers::Classes(firsts.map(|row| classes[row].clone()).collect()),
        Answers::Values { names, data } => {
            let width = names.len();
            let data = firsts.flat_map(|row| data[row * width..(row + 1) * width].to_vec()).collect();
            Answers::Values { names, data }
        }
        steps @ Answers::Steps { .. } => steps,
    };
    Ok(Source::Arrays(Arrays {
        file: table.file.clone(),
        shape: vec![steps, columns.len()],
        numbers: Numbers::F64(data),
        answers: (!schema.targets.is_empty()).then_some(answers),
        fields: Some(Fields::Channels(schema.features.iter().map(|f| f.name.clone()).collect())),
        row_ids: Some(ranges.iter().map(|rows| rows.start as u64).collect()),
    }))
}

/// Whether a table is to be gathered.
pub(super) fn is_long_form(spec: &Spec, table: &Table) -> bool {
    let has = |name: &Option<String>| name.as_deref().is_some_and(|name| table.column_index(name).is_some());
    spec.task != Task::Forecasting && has(&spec.data.time) && has(&spec.data.group)
}
