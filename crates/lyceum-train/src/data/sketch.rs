//! What each feature looks like among the training rows: the manifest keeps it for drift tests and reports.

use super::columns::Feature;
use super::dataset::{Dataset, Examples};
use super::source::Source;
use lyceum_models::prepare::tabular::{category, number};
use lyceum_models::prepare::{InputPreparation, Preparation};
use lyceum_types::manifest::{FeatureSketch, SKETCH_QUANTILES};
use lyceum_types::spec::ColumnKind;
use std::collections::BTreeMap;

/// Categories whose counts are kept.
const VALUES_MAX: usize = 64;

/// A sketch a column for tables, a channel for pictures, sounds and series, and the length for texts.
pub(crate) fn features(
    preparation: &Preparation,
    source: &Source,
    columns: &[Feature],
    rows: &[usize],
    train: &Dataset,
) -> Vec<FeatureSketch> {
    if let (Source::Table(table), InputPreparation::Tabular(_)) = (source, &preparation.input) {
        let sketch = |feature: &Feature| {
            let cells = rows.iter().map(|&row| table.cell(row, feature.index));
            match feature.kind {
                ColumnKind::Number => {
                    numbers(&feature.name, cells.map(|cell| number(cell).ok().flatten()).collect())
                }
                _ => categories(&feature.name, cells.map(category).collect()),
            }
        };
        return columns.iter().map(sketch).collect();
    }
    examples(preparation, train)
}

/// Sketches from encoded examples.
pub(crate) fn examples(preparation: &Preparation, train: &Dataset) -> Vec<FeatureSketch> {
    let lengths = |name: &str, len: &dyn Fn(usize) -> usize| {
        vec![numbers(name, (0..train.len()).map(|i| Some(len(i) as f64)).collect())]
    };
    let (data, shape) = match &train.examples {
        Examples::Dense { shape, data } => (data, shape),
        Examples::Tokens(ids) | Examples::Sequences { ids, .. } => {
            return lengths("tokens", &|i| ids.row(i).len());
        }
        Examples::Pairs { source, .. } => return lengths("source_tokens", &|i| source.row(i).len()),
        Examples::Stream { .. } | Examples::Packed(_) => return vec![],
    };
    let (channels, plane, name) = match &preparation.input {
        InputPreparation::Image(_) => (shape[0], shape[1] * shape[2], "channel"),
        InputPreparation::Audio(_) => (shape[2], 1, "mel"),
        InputPreparation::Series(_) => (shape[1], 1, "channel"),
        _ => (shape.iter().product(), 1, "feature"),
    };
    let restored = |c: usize, x: f32| match &preparation.input {
        InputPreparation::Series(series) => f64::from(x) * series.std[c] + series.mean[c],
        InputPreparation::Tabular(encoder) => match &encoder.columns[c].code {
            lyceum_models::prepare::tabular::Code::Number { mean, std, .. } => f64::from(x) * std + mean,
            lyceum_models::prepare::tabular::Code::Category { .. } => f64::from(x),
        },
        _ => f64::from(x),
    };
    (0..channels)
        .map(|c| {
            let values = data.iter().enumerate().filter(|(i, _)| i / plane % channels == c);
            numbers(&format!("{name}_{c}"), values.map(|(_, &x)| Some(restored(c, x))).collect())
        })
        .collect()
}

fn numbers(name: &str, values: Vec<Option<f64>>) -> FeatureSketch {
    let n = values.len() as u64;
    let mut present: Vec<f64> = values.into_iter().flatten().collect();
    present.sort_unstable_by(f64::total_cmp);
    let len = present.len();
    let mean = present.iter().sum::<f64>() / len as f64;
    let std = (present.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / len as f64).sqrt();
    // Linear interpolation between order statistics (numpy's default).
    let quantile = |q: f64| {
        let at = q * (len - 1) as f64;
        let (low, part) = (at.floor() as usize, at.fract());
        present[low] + part * (present[(low + 1).min(len - 1)] - present[low])
    };
    FeatureSketch {
        name: name.to_owned(),
        n,
        n_missing: n - len as u64,
        mean: (len > 0).then_some(mean),
        std: (len > 0).then_some(std),
        min: present.first().copied(),
        max: present.last().copied(),
        quantiles: if len > 0 { SKETCH_QUANTILES.iter().map(|&q| quantile(q)).collect() } else { vec![] },
        counts: BTreeMap::new(),
    }
}

fn categories(name: &str, values: Vec<Option<String>>) -> FeatureSketch {
    let n = values.len() as u64;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut n_present = 0;
    for value in values.into_iter().flatten() {
        *counts.entry(value).or_default() += 1;
        n_present += 1;
    }
    let mut by_count: Vec<(String, u64)> = counts.into_iter().collect();
    by_count.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    by_count.truncate(VALUES_MAX);
    FeatureSketch {
        name: name.to_owned(),
        n,
        n_missing: n - n_present,
        mean: None,
        std: None,
        min: None,
        max: None,
        quantiles: vec![],
        counts: by_count.into_iter().collect(),
    }
}
