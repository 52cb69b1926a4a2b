//! Which columns of a table are asked for, and what kind each is.

use super::report::{Issue, Report, did_you_mean};
use super::table::Table;
use lyceum_models::prepare::tabular::{Cell, NumberProblem, number};
use lyceum_types::control::{Control, Stop};
use lyceum_types::spec::{ColumnKind, DataSpec};

/// The roles of a table's columns, as indices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schema {
    pub features: Vec<Feature>,
    pub targets: Vec<usize>,
    pub group: Option<usize>,
    pub time: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Feature {
    pub index: usize,
    pub name: String,
    /// Number, category or text; of no meaning where the purpose is to encode.
    pub kind: ColumnKind,
}

/// What a table is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Training rows: kinds are inferred, groups are kept whole, all declared columns must be there.
    Fit,
    /// Rows for a preparation that is fitted: only what is encoded must be there.
    Encode,
}

/// Finds the columns that the spec names; what is missing goes to the report.
pub(crate) fn resolve(
    data: &DataSpec,
    targets: &[String],
    table: &Table,
    purpose: Purpose,
    control: &Control,
    report: &mut Report,
) -> Result<Schema, Stop> {
    let mut find = |role: &str, name: &str| {
        let index = table.column_index(name);
        if index.is_none() {
            report.push(missing_column(table, role, name));
        }
        index
    };
    let targets: Vec<usize> = targets.iter().filter_map(|name| find("data.target", name)).collect();
    let group = match (data.group.as_deref(), purpose) {
        (Some(name), Purpose::Fit) => find("data.group", name),
        (Some(name), Purpose::Encode) => table.column_index(name),
        (None, _) => None,
    };
    let time = data.time.as_deref().and_then(|name| find("data.time", name));
    if purpose == Purpose::Fit {
        for name in data.columns.keys() {
            find("data.columns", name);
        }
    }
    let kind_of = |name: &str| data.columns.get(name).copied();
    let wanted: Vec<usize> = if data.features.iter().any(|name| name == "*") {
        (0..table.columns.len())
            .filter(|i| !targets.contains(i) && group != Some(*i) && time != Some(*i))
            .filter(|&i| !matches!(kind_of(&table.columns[i]), Some(ColumnKind::Drop | ColumnKind::Time)))
            .collect()
    } else {
        data.features.iter().filter_map(|name| find("data.features", name)).collect()
    };
    let mut features = Vec::with_capacity(wanted.len());
    for index in wanted {
        control.check()?;
        let name = table.columns[index].clone();
        let kind = match kind_of(&name) {
            Some(kind) => Some(kind),
            None if purpose == Purpose::Encode => Some(ColumnKind::Number),
            None => infer(table, index, report),
        };
        // An empty column is already reported.
        if let Some(kind) = kind {
            features.push(Feature { index, name, kind });
        }
    }
    if features.is_empty() && report.is_empty() {
        report.push(Issue::new(
            &table.file,
            "no_features",
            "no column is left to learn from",
            "name some in data.features, or do not drop them all",
        ));
    }
    Ok(Schema { features, targets, group, time })
}

/// The error for a column that a table does not have.
pub(crate) fn missing_column(table: &Table, role: &str, name: &str) -> Issue {
    let near = did_you_mean(name, table.columns.iter().map(String::as_str));
    let shown: Vec<&str> = table.columns.iter().take(12).map(String::as_str).collect();
    let more = if table.columns.len() > shown.len() { ", …" } else { "" };
    Issue::new(
        &table.file,
        "missing_column",
        format!("there is no column {name:?}, which {role} names"),
        format!("{near}the columns are {}{more}", shown.join(", ")),
    )
    .column(name)
}

/// A column of at least 90 % numbers is one of numbers, in which anything else is an error later.
fn infer(table: &Table, index: usize, report: &mut Report) -> Option<ColumnKind> {
    let (mut n_numbers, mut n_present) = (0usize, 0usize);
    for row in 0..table.rows() {
        match number(table.cell(row, index)) {
            Ok(None) => continue,
            Ok(Some(_)) | Err(NumberProblem::NotFinite(_)) => n_numbers += 1,
            Err(NumberProblem::NotANumber(_)) => {}
        }
        n_present += 1;
    }
    if n_present == 0 {
        if table.rows() > 0 {
            report.push(
                Issue::new(
                    &table.file,
                    "empty_column",
                    "no row has a value in this column",
                    format!("fill it in, or set columns = {{ {:?} = \"drop\" }}", table.columns[index]),
                )
                .column(table.columns[index].as_str()),
            );
        }
        return None;
    }
    Some(if n_numbers * 10 >= n_present * 9 { ColumnKind::Number } else { ColumnKind::Category })
}

/// The texts of one column; missing ones are reported and empty.
pub(crate) fn texts(table: &Table, column: usize, report: &mut Report) -> Vec<String> {
    (0..table.rows())
        .map(|row| match table.cell(row, column) {
            Cell::Text(text) if !text.trim().is_empty() => text.to_owned(),
            Cell::Number(x) => format!("{x}"),
            Cell::Text(_) | Cell::Missing => {
                report.push(table.issue(
                    row,
                    column,
                    "missing_value",
                    "the text is missing",
                    "write it, or remove the row",
                ));
                String::new()
            }
        })
        .collect()
}
