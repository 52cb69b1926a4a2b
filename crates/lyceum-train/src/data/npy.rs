//! NumPy's arrays: `.npy` (format 1 to 3, C order, little-endian) and `.npz`.
//!
//! Rows of numbers in two dimensions become a table whose columns are called `0`, `1`, …; more dimensions
//! stay arrays. The answers are the array `y` (or `labels`, or what `data.target` names) of an `.npz`, or the
//! file beside an `.npy` whose name has `y` for `x` or `labels` for `images`.

use super::answers::Answers;
use super::report::{DataError, Issue, Place, Report, io, one};
use super::source::{Arrays, Numbers, Source};
use super::table::Table;
use lyceum_models::prepare::tabular::Cell;
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::spec::{Spec, Task};
use std::io::Read;

/// An array as stored.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub shape: Vec<usize>,
    pub values: Values,
}

#[derive(Clone, Debug)]
pub(crate) enum Values {
    Numbers(Numbers),
    Texts(Vec<String>),
}

pub(crate) fn read(
    spec: &Spec,
    path: &KeyedPath,
    shown: &str,
    control: &Control,
    report: &mut Report,
) -> Result<Source, DataError> {
    let bytes = path.read().map_err(|source| io(path.path(), source))?;
    if bytes.is_empty() {
        return Err(one(Issue::new(shown, "empty_file", "the file is empty", "write it with numpy.save")));
    }
    let (inputs, answers) = if shown.to_lowercase().ends_with(".npz") {
        npz(spec, bytes, shown)?
    } else {
        let answers = match beside(path) {
            Some(path) => {
                let bytes = path.read().map_err(|source| io(path.path(), source))?;
                Some(parse(&bytes, &path.display().to_string())?)
            }
            None => None,
        };
        (parse(&bytes, shown)?, answers)
    };
    control.check()?;
    source(spec, shown, inputs, answers, report)
}

/// Inputs and answers to what the rest of the loader reads; also for idx files.
pub(crate) fn source(
    spec: &Spec,
    shown: &str,
    inputs: Array,
    answers: Option<Array>,
    report: &mut Report,
) -> Result<Source, DataError> {
    let n = inputs.shape.first().copied().unwrap_or(0);
    let Values::Numbers(numbers) = inputs.values else {
        return Err(one(Issue::new(
            shown,
            "not_numbers",
            "the inputs are texts",
            "give an array of numbers",
        )));
    };
    if n == 0 || numbers.len() == 0 {
        return Err(one(Issue::new(shown, "empty_file", "the array has no rows", "give one row an example")));
    }
    if let Some(answers) = &answers
        && answers.shape.first() != Some(&n)
    {
        return Err(one(Issue::new(
            shown,
            "different_lengths",
            format!("{n} rows of inputs, but answers of shape {:?}", answers.shape),
            "give one answer a row",
        )));
    }
    if inputs.shape.len() <= 2 {
        return Ok(Source::Table(table(spec, shown, n, &numbers, answers.as_ref(), report)));
    }
    if inputs.shape.len() > 4 {
        return Err(one(Issue::new(
            shown,
            "too_many_dimensions",
            format!("rows of shape {:?} fit no model", &inputs.shape[1..]),
            "give [n, features], [n, steps, channels] or [n, channels, height, width]",
        )));
    }
    let answers = answers.map(|array| answers_of(spec.task, shown, &array, report));
    let shape = inputs.shape[1..].to_vec();
    Ok(Source::Arrays(Arrays {
        file: shown.to_owned(),
        shape,
        numbers,
        answers,
        fields: None,
        row_ids: None,
    }))
}

fn npz(spec: &Spec, bytes: Vec<u8>, shown: &str) -> Result<(Array, Option<Array>), DataError> {
    let broken = |error: &dyn std::fmt::Display| {
        one(Issue::new(
            shown,
            "broken_npz",
            format!("the archive cannot be read: {error}"),
            "the file is cut short; write it again with numpy.savez",
        ))
    };
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).map_err(|error| broken(&error))?;
    let stem = |name: &str| name.strip_suffix(".npy").unwrap_or(name).to_owned();
    let names: Vec<String> = archive
        .file_names()
        .map(|name| name.map(|name| stem(&name)))
        .collect::<Result<_, _>>()
        .map_err(|e| broken(&e))?;
    let pick = |declared: Option<&String>, usual: &[&str]| -> Option<String> {
        let declared = declared.filter(|name| *name != "*").into_iter().map(String::as_str);
        declared.chain(usual.iter().copied()).find(|name| names.iter().any(|n| n == name)).map(str::to_owned)
    };
    let inputs = pick(spec.data.features.first(), &["x", "X", "features", "images", "data"]);
    let answers = pick(spec.data.target.first(), &["y", "Y", "labels", "label", "target", "targets"]);
    let Some(inputs) = inputs else {
        return Err(one(Issue::new(
            shown,
            "missing_array",
            format!("none of the arrays {} is the input", names.join(", ")),
            "call it x, or name it in data.features",
        )));
    };
    let mut array = |name: &str| -> Result<Array, DataError> {
        let mut bytes = Vec::new();
        archive
            .by_name(&format!("{name}.npy"))
            .map_err(|error| broken(&error))?
            .read_to_end(&mut bytes)
            .map_err(|error| broken(&error))?;
        parse(&bytes, &format!("{shown}/{name}"))
    };
    let inputs = array(&inputs)?;
    let answers = answers.map(|name| array(&name)).transpose()?;
    Ok((inputs, answers))
}

/// `y_train.npy` beside `x_train.npy`, `labels.npy` beside `images.npy`.
fn beside(path: &KeyedPath) -> Option<KeyedPath> {
    let name = path.path().file_name()?.to_str()?;
    [("x", "y"), ("X", "y"), ("X", "Y"), ("images", "labels"), ("features", "labels")]
        .into_iter()
        .filter(|(from, _)| name.starts_with(from))
        .find_map(|(from, to)| path.beside(&name.replacen(from, to, 1)))
}

fn table(
    spec: &Spec,
    shown: &str,
    n: usize,
    numbers: &Numbers,
    answers: Option<&Array>,
    report: &mut Report,
) -> Table {
    let width = numbers.len() / n;
    let mut columns: Vec<String> = (0..width).map(|c| c.to_string()).collect();
    let n_answers = answers.map_or(0, |array| array.shape.iter().skip(1).product());
    for c in 0..n_answers {
        let declared = spec.data.target.get(c).cloned();
        columns.push(
            declared.unwrap_or_else(
                || {
                    if n_answers == 1 { "label".to_owned() } else { format!("label_{c}") }
                },
            ),
        );
    }
    if answers.is_some() && spec.task == Task::Classification && n_answers > 1 {
        report.push(Issue::new(
            shown,
            "many_targets",
            format!("{n_answers} answers a row of plain features"),
            "give one class a row",
        ));
    }
    let mut table = Table::new(shown, columns);
    for row in 0..n {
        let inputs = (row * width..(row + 1) * width).map(|i| Cell::Number(numbers.at(i)));
        let answer = |c: usize| match answers.map(|array| &array.values) {
            Some(Values::Numbers(numbers)) => Cell::Number(numbers.at(row * n_answers + c)),
            Some(Values::Texts(texts)) => Cell::Text(&texts[row * n_answers + c]),
            None => Cell::Missing,
        };
        table.push_row(Place::Row(row as u64), inputs.chain((0..n_answers).map(answer)));
    }
    table
}

fn answers_of(task: Task, shown: &str, array: &Array, report: &mut Report) -> Answers {
    let width: usize = array.shape.iter().skip(1).product();
    match (task, &array.values) {
        (Task::Classification, values) => {
            let classes: Vec<String> = match values {
                Values::Texts(texts) => texts.clone(),
                Values::Numbers(numbers) => {
                    (0..numbers.len()).map(|i| format!("{}", numbers.at(i))).collect()
                }
            };
            if array.shape.len() == 1 || width == 1 {
                Answers::Classes(classes)
            } else {
                Answers::Steps { steps: width, classes }
            }
        }
        (_, Values::Numbers(numbers)) => {
            let data: Vec<f64> = (0..numbers.len()).map(|i| numbers.at(i)).collect();
            for (i, x) in data.iter().enumerate().filter(|(_, x)| !x.is_finite()) {
                report.push(
                    Issue::new(
                        shown,
                        "not_finite",
                        format!("the answer {x} is not a finite number"),
                        "give a finite number",
                    )
                    .at(Place::Row((i / width) as u64)),
                );
            }
            let names = match width {
                1 => vec!["y".to_owned()],
                width => (0..width).map(|c| format!("y_{c}")).collect(),
            };
            Answers::Values { names, data }
        }
        (_, Values::Texts(_)) => {
            report.push(Issue::new(
                shown,
                "not_numbers",
                "the answers are texts",
                "give numbers, or use task = \"classification\"",
            ));
            Answers::Values { names: vec!["y".to_owned()], data: vec![0.0; array.shape[0]] }
        }
    }
}

/// One `.npy` file.
pub(crate) fn parse(bytes: &[u8], shown: &str) -> Result<Array, DataError> {
    parse_npy(bytes).map_err(|(message, hint)| one(Issue::new(shown, "broken_npy", message, hint)))
}

fn parse_npy(bytes: &[u8]) -> Result<Array, (String, &'static str)> {
    const AGAIN: &str = "write it again with numpy.save";
    let cut = || ("the file is cut short".to_owned(), AGAIN);
    if bytes.get(..6) != Some(b"\x93NUMPY") {
        return Err(("the file does not start as .npy files do".to_owned(), AGAIN));
    }
    let version = *bytes.get(6).ok_or_else(cut)?;
    let (start, len): (usize, usize) = if version == 1 {
        let len = bytes.get(8..10).ok_or_else(cut)?;
        (10, usize::from(u16::from_le_bytes([len[0], len[1]])))
    } else {
        let len = bytes.get(8..12).ok_or_else(cut)?;
        (12, u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize)
    };
    let header = bytes.get(start..start.saturating_add(len)).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| ("its header is no text".to_owned(), AGAIN))?;
    let field = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
    let no_field = || ("its header has no descr, fortran_order or shape".to_owned(), AGAIN);
    let descr = field("'descr'").and_then(|rest| rest.split('\'').nth(1)).ok_or_else(no_field)?;
    let fortran = field("'fortran_order'").ok_or_else(no_field)?.starts_with("True");
    let inside =
        field("'shape'").and_then(|rest| rest.strip_prefix('(')).and_then(|rest| rest.split(')').next());
    let shape: Vec<usize> = inside
        .ok_or_else(no_field)?
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty())
        .map(|dim| dim.parse().map_err(|_| no_field()))
        .collect::<Result<_, _>>()?;
    if fortran && shape.len() > 1 {
        return Err(("the array is in Fortran order".to_owned(), "save numpy.ascontiguousarray(array)"));
    }
    let n = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).ok_or_else(cut)?;
    let data = &bytes[start + len..];
    if descr.starts_with('>') {
        return Err(("the numbers are big-endian".to_owned(), "save array.astype(\"<f4\")"));
    }
    let kind = descr.trim_start_matches(['<', '|', '=']);
    let Ok(size) = kind[1..].parse::<usize>() else {
        return Err((format!("the type {descr} is not read"), "save numbers or strings"));
    };
    let size = if kind.starts_with('U') { size * 4 } else { size };
    let data = n.checked_mul(size).and_then(|len| data.get(..len)).ok_or_else(cut)?;
    let values = match kind {
        "f4" => Values::Numbers(Numbers::F32(items(data, f32::from_le_bytes))),
        "f8" => Values::Numbers(Numbers::F64(items(data, f64::from_le_bytes))),
        "u1" | "b1" => Values::Numbers(Numbers::U8(data.to_vec())),
        "i1" => Values::Numbers(Numbers::F64(data.iter().map(|&x| f64::from(x as i8)).collect())),
        "i2" => Values::Numbers(Numbers::F64(items(data, |b| f64::from(i16::from_le_bytes(b))))),
        "u2" => Values::Numbers(Numbers::F64(items(data, |b| f64::from(u16::from_le_bytes(b))))),
        "i4" => Values::Numbers(Numbers::F64(items(data, |b| f64::from(i32::from_le_bytes(b))))),
        "u4" => Values::Numbers(Numbers::F64(items(data, |b| f64::from(u32::from_le_bytes(b))))),
        "i8" => Values::Numbers(Numbers::F64(items(data, |b| i64::from_le_bytes(b) as f64))),
        "u8" => Values::Numbers(Numbers::F64(items(data, |b| u64::from_le_bytes(b) as f64))),
        _ if kind.starts_with('U') && size > 0 => {
            let text = |item: &[u8]| {
                items(item, u32::from_le_bytes)
                    .into_iter()
                    .take_while(|&code| code != 0)
                    .map(|code| char::from_u32(code).unwrap_or('\u{FFFD}'))
                    .collect()
            };
            Values::Texts(data.chunks_exact(size).map(text).collect())
        }
        _ => return Err((format!("the type {descr} is not read"), "save it as f4, f8, integers or strings")),
    };
    Ok(Array { shape, values })
}

fn items<const N: usize, T>(data: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.chunks_exact(N).map(|item| read(item.try_into().expect("chunks have N bytes: bug"))).collect()
}
