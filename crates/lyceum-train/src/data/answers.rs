//! What each row should be answered with: a class, numbers, or a class a step; fitted from training rows.

use super::dataset::Targets;
use super::report::{Issue, Place, Report, Warning, did_you_mean};
use super::table::Table;
use lyceum_models::prepare::OutputPreparation;
use lyceum_models::prepare::tabular::{NumberProblem, category, number};
use lyceum_types::limits::CLASSES_MAX;
use lyceum_types::spec::Task;
use std::collections::{BTreeMap, HashMap};

/// The answers of one file's rows. A bad one is reported and holds a placeholder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answers {
    Classes(Vec<String>),
    /// `[n, names.len()]`.
    Values {
        names: Vec<String>,
        data: Vec<f64>,
    },
    /// `[n, steps]`.
    Steps {
        steps: usize,
        classes: Vec<String>,
    },
}

/// Reads the target columns of a table.
pub(crate) fn of_table(task: Task, table: &Table, columns: &[usize], report: &mut Report) -> Answers {
    let missing = |row: usize, column: usize| {
        table.issue(
            row,
            column,
            "missing_target",
            "the target is empty",
            "fill it in, or remove the row: a row without its answer teaches nothing",
        )
    };
    if task == Task::Classification {
        let column = columns[0];
        let classes = (0..table.rows()).map(|row| {
            category(table.cell(row, column)).unwrap_or_else(|| {
                report.push(missing(row, column));
                String::new()
            })
        });
        return Answers::Classes(classes.collect());
    }
    let mut data = Vec::with_capacity(table.rows() * columns.len());
    for row in 0..table.rows() {
        for &column in columns {
            let value = match number(table.cell(row, column)) {
                Ok(Some(x)) => x,
                Ok(None) => {
                    report.push(missing(row, column));
                    0.0
                }
                Err(problem) => {
                    report.push(bad_number(table, row, column, problem));
                    0.0
                }
            };
            data.push(value);
        }
    }
    let names = columns.iter().map(|&column| table.columns[column].clone()).collect();
    Answers::Values { names, data }
}

/// The error of a target or series cell that is no finite number.
pub(crate) fn bad_number(table: &Table, row: usize, column: usize, problem: NumberProblem) -> Issue {
    match problem {
        NumberProblem::NotANumber(text) => {
            table.issue(row, column, "not_a_number", format!("{text:?} is not a number"), "write a number")
        }
        NumberProblem::NotFinite(text) => table.issue(
            row,
            column,
            "not_finite",
            format!("{text} is not a finite number"),
            "write a finite number",
        ),
    }
}

impl Answers {
    /// The class number of each row, in any order of classes; for stratified parts.
    pub fn strata(&self) -> Option<Vec<u32>> {
        let Answers::Classes(classes) = self else { return None };
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        classes.iter().for_each(|class| {
            numbers.entry(class).or_default();
        });
        numbers.values_mut().zip(0..).for_each(|(number, n)| *number = n);
        Some(classes.iter().map(|class| numbers[class.as_str()]).collect())
    }

    /// Class names, or the scale of the numbers, from the training rows.
    pub fn fit(
        &self,
        rows: &[usize],
        standardize: bool,
        file: &str,
        report: &mut Report,
    ) -> OutputPreparation {
        match self {
            Answers::Classes(classes) => {
                let names = class_names(rows.iter().map(|&row| &classes[row]));
                judge_classes(&names, file, report);
                OutputPreparation::Labels { names }
            }
            Answers::Steps { steps, classes } => {
                let names = class_names(rows.iter().flat_map(|row| &classes[row * steps..(row + 1) * steps]));
                judge_classes(&names, file, report);
                OutputPreparation::StepLabels { names }
            }
            Answers::Values { names, data } => {
                let width = names.len();
                let (mut mean, mut std) = (vec![0.0; width], vec![1.0; width]);
                if standardize {
                    for c in 0..width {
                        let column = rows.iter().map(|row| data[row * width + c]);
                        (mean[c], std[c]) = mean_and_std(column);
                    }
                }
                OutputPreparation::Values { names: names.clone(), mean, std }
            }
        }
    }

    /// The targets of some rows as numbers. A class that training does not have is reported.
    pub fn encode(
        &self,
        output: &OutputPreparation,
        rows: &[usize],
        file: &str,
        place: &dyn Fn(usize) -> Place,
        report: &mut Report,
    ) -> Targets {
        let ids = |names: &[String]| -> HashMap<String, u32> { names.iter().cloned().zip(0..).collect() };
        match (self, output) {
            (Answers::Classes(classes), OutputPreparation::Labels { names }) => {
                let ids = ids(names);
                let encoded =
                    rows.iter().map(|&row| class_id(&ids, names, &classes[row], file, place(row), report));
                Targets::Classes(encoded.collect())
            }
            (Answers::Steps { steps, classes }, OutputPreparation::StepLabels { names }) => {
                let ids = ids(names);
                let mut data = Vec::with_capacity(rows.len() * steps);
                for &row in rows {
                    for class in &classes[row * steps..(row + 1) * steps] {
                        data.push(class_id(&ids, names, class, file, place(row), report));
                    }
                }
                Targets::Steps { steps: *steps, data }
            }
            (Answers::Values { data, .. }, OutputPreparation::Values { names, mean, std }) => {
                let width = names.len();
                let scaled = |row: &usize| {
                    let row = *row;
                    (0..width).map(move |c| ((data[row * width + c] - mean[c]) / std[c]) as f32)
                };
                Targets::Values { width, data: rows.iter().flat_map(scaled).collect() }
            }
            _ => {
                report.push(Issue::new(
                    file,
                    "wrong_target",
                    "the targets of this file are of another kind than the model's",
                    "give the same target columns or arrays as in training",
                ));
                Targets::None
            }
        }
    }
}

fn class_id(
    ids: &HashMap<String, u32>,
    names: &[String],
    class: &str,
    file: &str,
    place: Place,
    report: &mut Report,
) -> u32 {
    if let Some(&id) = ids.get(class) {
        return id;
    }
    // An empty one is already reported as missing.
    if !class.is_empty() {
        let near = did_you_mean(class, names.iter().map(String::as_str));
        let shown: Vec<&str> = names.iter().take(12).map(String::as_str).collect();
        let more = if names.len() > shown.len() { ", …" } else { "" };
        report.push(
            Issue::new(
                file,
                "unseen_label",
                format!("the label {class:?} does not occur among the training rows"),
                format!("{near}the labels are {}{more}", shown.join(", ")),
            )
            .at(place),
        );
    }
    0
}

/// Distinct classes: by number where all are whole numbers, else by name.
fn class_names<'a>(classes: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = classes.filter(|class| !class.is_empty()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    if names.iter().all(|name| name.parse::<i64>().is_ok()) {
        names.sort_by_key(|name| name.parse::<i64>().unwrap_or_default());
    }
    names
}

fn judge_classes(names: &[String], file: &str, report: &mut Report) {
    if names.len() < 2 {
        report.push(Issue::new(
            file,
            "one_class",
            format!("the training rows have {} classes", names.len()),
            "a classifier needs at least two: check data.target",
        ));
    } else if names.len() > CLASSES_MAX {
        report.push(Issue::new(
            file,
            "too_many_classes",
            format!("{} classes, at most {CLASSES_MAX} are allowed", names.len()),
            "is this a number? then use task = \"regression\"",
        ));
    }
}

/// Mean and standard deviation (over n); a constant has deviation 1.
pub(crate) fn mean_and_std(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let (mut n, mut sum) = (0.0, 0.0);
    values.clone().for_each(|x| {
        n += 1.0;
        sum += x;
    });
    if n == 0.0 {
        return (0.0, 1.0);
    }
    let mean = sum / n;
    let std = (values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt();
    // What is constant up to rounding is left unscaled.
    (mean, if std > 1e-12 * mean.abs().max(1e-300) { std } else { 1.0 })
}

/// Warns when one class is more than ten times another.
pub(crate) fn warn_imbalance(targets: &Targets, names: &[String], warnings: &mut Vec<Warning>) {
    let Targets::Classes(classes) = targets else { return };
    let mut counts = vec![0usize; names.len()];
    classes.iter().for_each(|&class| counts[class as usize] += 1);
    let Some((most, least)) =
        (0..names.len()).max_by_key(|&c| counts[c]).zip((0..names.len()).min_by_key(|&c| counts[c]))
    else {
        return;
    };
    if counts[most] > 10 * counts[least] {
        warnings.push(Warning::new(
            "class_imbalance",
            format!(
                "class {:?} has {} training rows, class {:?} only {}",
                names[most], counts[most], names[least], counts[least]
            ),
            "look at F1 per class beside accuracy, or gather more rows of the rare class",
        ));
    }
}
