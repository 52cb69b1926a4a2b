//! What is learnt about the inputs before training, from training rows only: scales, categories, sizes.

use super::answers::mean_and_std;
use super::columns::{Feature, Schema};
use super::report::{DataError, Issue, Report, Warning};
use super::source::{Files, Media, Source};
use super::table::Table;
use lyceum_models::prepare::audio::LogMel;
use lyceum_models::prepare::series::{Fields, Series};
use lyceum_models::prepare::tabular::{
    CategoryMissing, Cell, Code, Column, Encoder, NumberMissing, category, number,
};
use lyceum_models::prepare::vision::{self, Pixels};
use lyceum_models::prepare::{InputPreparation, PrepareError};
use lyceum_types::spec::{ColumnKind, DataSpec, InputSpec, Missing, ModelSpec, Spec};
use std::collections::BTreeMap;

/// How the spec and the source say the rows are to be read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Tabular,
    Image { shape: Option<[usize; 3]>, scale: Option<f64> },
    Series { channels: usize },
    Audio(LogMel),
    Text { max_tokens: Option<usize> },
}

/// The declared input, or the one that the source and the model's family suggest.
pub(crate) fn kind(spec: &Spec, source: &Source, schema: Option<&Schema>) -> Result<Kind, PrepareError> {
    if let Some(input) = &spec.data.input {
        return Ok(match input {
            InputSpec::Tabular => Kind::Tabular,
            InputSpec::Image { shape, scale } => Kind::Image { shape: *shape, scale: *scale },
            InputSpec::Text { max_tokens } => Kind::Text { max_tokens: *max_tokens },
            InputSpec::Series { channels } => Kind::Series { channels: *channels },
            InputSpec::Audio { sample_rate, n_mels, window_ms, hop_ms, seconds, truncate } => {
                Kind::Audio(LogMel::new(*sample_rate, *n_mels, (*window_ms, *hop_ms), *seconds, *truncate)?)
            }
        });
    }
    let reads_series =
        matches!(spec.model, ModelSpec::Rnn(_) | ModelSpec::Lstm(_) | ModelSpec::Gru(_) | ModelSpec::Cnn(_));
    Ok(match source {
        Source::Files(Files { media: Media::Pictures, .. }) => Kind::Image { shape: None, scale: None },
        Source::Files(Files { media: Media::Sounds, .. }) => {
            return Err(PrepareError::new(
                "no_audio_setting",
                "data.input",
                "sounds need a rate and a length",
                "set input = { type = \"audio\", sample_rate = 16000, seconds = 1.0, … }",
            ));
        }
        // Rows of one dimension came as a table.
        Source::Arrays(arrays) => match arrays.shape[..] {
            [steps, channels] if arrays.fields.is_some() || reads_series || steps == 0 => {
                Kind::Series { channels }
            }
            [_, channels] if matches!(spec.model, ModelSpec::Transformer(_)) => Kind::Series { channels },
            _ => Kind::Image { shape: None, scale: None },
        },
        Source::Text { .. } => Kind::Text { max_tokens: None },
        Source::Table(_) => {
            let features = schema.map_or(&[][..], |schema| &schema.features);
            let one_text = match features {
                [one] => {
                    one.kind == ColumnKind::Text
                        || (one.kind == ColumnKind::Category
                            && (spec.data.tokenizer.is_some() || !matches!(spec.model, ModelSpec::Mlp(_))))
                }
                _ => false,
            };
            let all_numbers = features.iter().all(|feature| feature.kind == ColumnKind::Number);
            match (one_text, reads_series && all_numbers) {
                (true, _) => Kind::Text { max_tokens: None },
                (false, true) => Kind::Series { channels: 1 },
                (false, false) => Kind::Tabular,
            }
        }
    })
}

/// Whether inputs (and number targets) are standardised: tables and series by default.
pub(crate) fn standardizes(data: &DataSpec, kind: &Kind) -> bool {
    data.standardize.unwrap_or(matches!(kind, Kind::Tabular | Kind::Series { .. }))
}

/// One-hot lists and scales of a table's columns.
pub(crate) fn encoder(
    data: &DataSpec,
    table: &Table,
    features: &[Feature],
    rows: &[usize],
    report: &mut Report,
    warnings: &mut Vec<Warning>,
) -> Encoder {
    let scale = data.standardize.unwrap_or(true);
    let mut columns = Vec::with_capacity(features.len());
    for feature in features {
        let cells = rows.iter().map(|&row| table.cell(row, feature.index));
        let code = match feature.kind {
            ColumnKind::Number => number_code(data.missing, scale, cells, &feature.name, warnings),
            ColumnKind::Category => category_code(data, cells, &feature.name, warnings),
            ColumnKind::Text | ColumnKind::Time | ColumnKind::Drop => {
                report.push(
                    Issue::new(
                        &table.file,
                        "text_in_table",
                        "a text column cannot stand among other features",
                        "make it the only feature (features = [\"…\"]), or set it to category or drop",
                    )
                    .column(feature.name.as_str()),
                );
                continue;
            }
        };
        columns.push(Column { name: feature.name.clone(), code });
    }
    Encoder { columns }
}

fn number_code<'a>(
    missing: Missing,
    scale: bool,
    cells: impl Iterator<Item = Cell<'a>>,
    name: &str,
    warnings: &mut Vec<Warning>,
) -> Code {
    // Cells that are no numbers are reported when the rows are encoded.
    let mut values: Vec<f64> = cells.filter_map(|cell| number(cell).ok().flatten()).collect();
    let (mean, std) = mean_and_std(values.iter().copied());
    if values.len() > 1 && values.iter().all(|&x| x == values[0]) {
        warnings.push(Warning::new(
            "constant_column",
            format!("column {name:?} has the same value in all training rows"),
            "it teaches nothing: drop it",
        ));
    }
    let missing = match missing {
        Missing::Error => NumberMissing::Error,
        Missing::Mean => NumberMissing::Fill(mean),
        Missing::Indicator => NumberMissing::Indicator(mean),
        Missing::Median => {
            values.sort_unstable_by(f64::total_cmp);
            let n = values.len();
            let median = if n == 0 { 0.0 } else { (values[(n - 1) / 2] + values[n / 2]) / 2.0 };
            NumberMissing::Fill(median)
        }
    };
    let (mean, std) = if scale { (mean, std) } else { (0.0, 1.0) };
    Code::Number { mean, std, missing }
}

fn category_code<'a>(
    data: &DataSpec,
    cells: impl Iterator<Item = Cell<'a>>,
    name: &str,
    warnings: &mut Vec<Warning>,
) -> Code {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut n = 0u64;
    for value in cells.filter_map(category) {
        *counts.entry(value).or_default() += 1;
        n += 1;
    }
    if counts.len() > 1000 || (n >= 20 && counts.len() as u64 * 2 > n) {
        warnings.push(Warning::new(
            "many_categories",
            format!("column {name:?} has {} different values in {n} training rows", counts.len()),
            "a category that hardly repeats teaches nothing: drop it, or declare it text",
        ));
    }
    let missing = match data.missing {
        Missing::Error => CategoryMissing::Error,
        Missing::Indicator => CategoryMissing::Indicator,
        Missing::Mean | Missing::Median => {
            let most = counts.iter().max_by_key(|(value, n)| (**n, std::cmp::Reverse((*value).clone())));
            most.map_or(CategoryMissing::Error, |(value, _)| CategoryMissing::Fill(value.clone()))
        }
    };
    Code::Category { values: counts.into_keys().collect(), unseen: data.unseen, missing }
}

/// Sizes of the inputs that are neither tables of features nor texts; scales are still the identity.
pub(crate) fn dense(
    kind: &Kind,
    source: &Source,
    features: &[Feature],
    report: &mut Report,
) -> Result<Option<InputPreparation>, DataError> {
    let names = || features.iter().map(|feature| feature.name.clone()).collect::<Vec<_>>();
    let input = match (kind, source) {
        (Kind::Image { shape, scale }, Source::Files(files)) => {
            let shape = match shape {
                Some(shape) => *shape,
                None => match first_picture(files)? {
                    Ok(shape) => shape,
                    Err(issue) => {
                        report.push(issue);
                        return Ok(None);
                    }
                },
            };
            let file_scale = scale.unwrap_or(255.0);
            InputPreparation::Image(plain_pixels(shape, file_scale, file_scale))
        }
        (Kind::Image { shape, scale }, source) => {
            let (got, bytes) = match source {
                Source::Arrays(arrays) => {
                    (arrays.shape.clone(), matches!(arrays.numbers, super::source::Numbers::U8(_)))
                }
                _ => (vec![features.len()], false),
            };
            let shape = match (shape, got.as_slice()) {
                (Some(shape), _) => *shape,
                (None, &[c, h, w]) => [c, h, w],
                (None, &[h, w]) => [1, h, w],
                (None, _) => {
                    report.push(Issue::new(
                        source.file(),
                        "no_image_shape",
                        "rows of numbers do not say how wide a picture is",
                        "set input = { type = \"image\", shape = [channels, height, width] }",
                    ));
                    return Ok(None);
                }
            };
            let (expected, got): (usize, usize) = (shape.iter().product(), got.iter().product());
            if expected != got {
                report.push(Issue::new(
                    source.file(),
                    "wrong_image_size",
                    format!("a row has {got} numbers, but input.shape {shape:?} asks for {expected}"),
                    "correct input.shape, or name the pixel columns in data.features",
                ));
                return Ok(None);
            }
            let scale = scale.unwrap_or(if bytes { 255.0 } else { 1.0 });
            InputPreparation::Image(plain_pixels(shape, scale, 255.0))
        }
        (Kind::Series { channels }, source) => {
            let (len, fields) = match source {
                Source::Arrays(arrays) => {
                    let len: usize = arrays.shape.iter().product();
                    let steps = (0..len).map(|i| i.to_string()).collect();
                    (len, arrays.fields.clone().unwrap_or(Fields::Steps(steps)))
                }
                _ => (features.len(), Fields::Steps(names())),
            };
            if *channels == 0 || len % channels != 0 {
                report.push(Issue::new(
                    source.file(),
                    "wrong_channels",
                    format!("{len} numbers a row cannot be parted into steps of {channels} channels"),
                    "correct input.channels, or name the columns of the series in data.features",
                ));
                return Ok(None);
            }
            InputPreparation::Series(Series {
                steps: len / channels,
                fields,
                mean: vec![0.0; *channels],
                std: vec![1.0; *channels],
            })
        }
        (Kind::Audio(mel), _) => InputPreparation::Audio(mel.clone()),
        (Kind::Tabular | Kind::Text { .. }, _) => {
            unreachable!("tables and texts are fitted elsewhere: bug")
        }
    };
    Ok(Some(input))
}

/// Sets the scale of each channel from the training part, given as encoded by the identity.
pub(crate) fn set_scales(input: &mut InputPreparation, data: &[f32]) {
    let (channels, plane, mean, std) = match input {
        InputPreparation::Image(Pixels { shape, mean, std, .. }) => {
            (shape[0], shape[1] * shape[2], mean, std)
        }
        InputPreparation::Series(series) => (series.channels(), 1, &mut series.mean, &mut series.std),
        InputPreparation::Audio(mel) => (mel.n_mels, 1, &mut mel.mean, &mut mel.std),
        _ => return,
    };
    let scales: Vec<(f64, f64)> = (0..channels)
        .map(|c| {
            let values = data.iter().enumerate().filter(|(i, _)| i / plane % channels == c);
            mean_and_std(values.map(|(_, &x)| f64::from(x)))
        })
        .collect();
    (*mean, *std) = scales.into_iter().unzip();
}

fn plain_pixels(shape: [usize; 3], scale: f64, file_scale: f64) -> Pixels {
    Pixels { shape, scale, file_scale, mean: vec![], std: vec![] }
}

/// The shape of a folder's first picture that can be read; three channels.
fn first_picture(files: &Files) -> Result<Result<[usize; 3], Issue>, DataError> {
    for entry in &files.entries {
        let bytes = entry.at.read()?;
        if let Ok(picture) = vision::decode(&bytes, 3, None) {
            return Ok(Ok([3, picture.height, picture.width]));
        }
    }
    Ok(Err(Issue::new(
        &files.file,
        "broken_image",
        "not one picture of the folder can be read",
        "give png, jpeg, webp or gif files",
    )))
}
