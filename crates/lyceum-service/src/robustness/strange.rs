//! How unlike the training rows a request's rows are: by the features of a table beside the manifest's sketches, and by
//! the model's own logits beside those of the validation rows.

use super::calibration::Calibration;
use super::refused;
use crate::ServiceError;
use crate::resident::Resident;
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Prepared, PreparedValue};
use lyceum_robust::corrupt::table::{OwnedCell, decode};
use lyceum_robust::drift::sketch::Values;
use lyceum_robust::ood::{LogitScore, Reference, Strangeness, strangeness};

/// What is known of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Strange {
    /// Of a table: the strangest feature.
    pub features: Option<Strangeness>,
    /// Of a classifier with validation rows: the share of them at least as strange, by energy and by the likeliest
    /// class's probability.
    pub logits: Option<LogitValues>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitValues {
    pub energy_p: f64,
    pub max_probability_p: f64,
    pub n_reference: usize,
}

/// The strangeness of prepared rows with their outputs.
///
/// # Errors
/// A model that keeps neither sketches of a table nor validation rows of a classifier.
pub fn of(
    resident: &Resident,
    prepared: &[Prepared],
    outputs: &[Vec<f32>],
) -> Result<Vec<Strange>, ServiceError> {
    let references = match &resident.preparation.output {
        OutputPreparation::Labels { names } => match Calibration::of(resident) {
            Ok(calibration) => {
                let of = |score| Reference::new(score, &calibration.logits, names.len()).map_err(refused);
                Some((of(LogitScore::Energy)?, of(LogitScore::MaxProbability)?))
            }
            Err(ServiceError::Unsupported { .. }) => None,
            Err(error) => return Err(error),
        },
        _ => None,
    };
    let sketched = matches!(resident.preparation.input, InputPreparation::Tabular(_))
        && !resident.manifest.features.is_empty();
    if references.is_none() && !sketched {
        let message =
            "the version keeps neither sketches of a table's features nor validation rows of a classifier";
        return Err(ServiceError::unsupported("ood", "unsupported_model", message));
    }
    let rows = prepared.iter().zip(outputs);
    rows.map(|(row, outputs)| {
        let features = if sketched { Some(by_features(resident, row)?) } else { None };
        let logits = references.as_ref().map(|(energy, probability)| LogitValues {
            energy_p: energy.p_value(outputs),
            max_probability_p: probability.p_value(outputs),
            n_reference: energy.n(),
        });
        Ok(Strange { features, logits })
    })
    .collect()
}

fn by_features(resident: &Resident, row: &Prepared) -> Result<Strangeness, ServiceError> {
    let (InputPreparation::Tabular(encoder), PreparedValue::Dense(x)) =
        (&resident.preparation.input, &row.value)
    else {
        return Err(ServiceError::internal("a table's row is numbers", "bug"));
    };
    let cells = decode(encoder, x).map_err(refused)?;
    let sketches = &resident.manifest.features;
    let is_number = |name: &str| sketches.iter().any(|s| s.name == name && !s.quantiles.is_empty());
    let values = |name: &str, cell: OwnedCell| match cell {
        OwnedCell::Number(x) => Values::Numbers(vec![Some(x)]),
        OwnedCell::Text(text) => Values::Names(vec![Some(text)]),
        OwnedCell::Missing if is_number(name) => Values::Numbers(vec![None]),
        OwnedCell::Missing => Values::Names(vec![None]),
    };
    let features: Vec<(String, Values)> = encoder
        .columns
        .iter()
        .zip(cells)
        .map(|(column, cell)| (column.name.clone(), values(&column.name, cell)))
        .collect();
    strangeness(sketches, &features).map_err(refused)
}
