//! Whether what a model is asked still looks like what it was trained on.
//!
//! A loaded model counts the features of the rows that clients ask it about (not those of readiness or of
//! explanations), beside the sketches that its manifest keeps of the training rows. Counts are all that is kept, in
//! memory, and they go with the model: no value of any request is stored anywhere. When a window is full the next
//! begins, and the last full one stays readable. Of imported language models [`language`] counts answers.

mod kept;
pub mod language;
pub(crate) mod watched;

use crate::resident::Resident;
use crate::{Service, ServiceError, robustness};
use lyceum_models::prepare::{InputPreparation, Prepared, PreparedValue};
use lyceum_robust::corrupt::table::{OwnedCell, decode};
use lyceum_robust::drift::sketch::{Counter, FeatureDrift, compare_counts};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;
use std::collections::HashMap;
use std::sync::Mutex;

/// The level at which a feature is called drifted, after Holm's correction.
pub const LEVEL: f64 = 0.05;

/// The counts of one loaded model, of each project by itself: what one asks says nothing to another.
#[derive(Default)]
pub(crate) struct Watch {
    windows: Mutex<HashMap<Project, Windows>>,
}

#[derive(Default)]
struct Windows {
    now: Option<Window>,
    /// The last full one.
    before: Option<Window>,
}

#[derive(Clone)]
struct Window {
    since: Timestamp,
    n: u64,
    features: Vec<(String, Counter)>,
}

/// What is known of a model's drift.
#[derive(Clone, Debug)]
pub enum Drift {
    /// Rows beside the training's sketches.
    Rows(Report),
    /// Answers of a language model beside a window before.
    Language(language::Report),
}

/// What a window says.
#[derive(Clone, Debug)]
pub struct Report {
    /// `name@3`
    pub model: String,
    /// None: nothing was predicted since the model was loaded.
    pub since: Option<Timestamp>,
    pub n: u64,
    pub features: Vec<FeatureDrift>,
}

impl Watch {
    /// Counts rows that are about to be predicted. Inputs without a sketch a feature are left alone.
    pub(crate) fn count(&self, project: &Project, resident: &Resident, rows: &[Prepared]) {
        if why_not(resident).is_some() {
            return;
        }
        let mut all = self.windows.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let windows = all.entry(project.clone()).or_default();
        for row in rows {
            let window = windows.now.get_or_insert_with(|| Window {
                since: Timestamp::now(),
                n: 0,
                features: resident
                    .manifest
                    .features
                    .iter()
                    .map(|s| (s.name.clone(), Counter::new()))
                    .collect(),
            });
            add(resident, row, &mut window.features);
            window.n += 1;
            if window.n >= limits::DRIFT_WINDOW_ROWS {
                windows.before = windows.now.take();
            }
        }
    }

    fn window(&self, project: &Project) -> Option<Window> {
        let all = self.windows.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let windows = all.get(project)?;
        windows.now.clone().or_else(|| windows.before.clone())
    }
}

/// Why this model's inputs are not tested; None where they are.
fn why_not(resident: &Resident) -> Option<&'static str> {
    match &resident.preparation.input {
        InputPreparation::Tabular(_) | InputPreparation::Text { .. } | InputPreparation::Pair { .. } => {
            resident
                .manifest
                .features
                .is_empty()
                .then_some("its manifest has no sketches of the training rows")
        }
        InputPreparation::Image(_) | InputPreparation::Series(_) | InputPreparation::Audio(_) => Some(
            "its sketches are over pixels or steps, which are not independent: a test of them would call everything \
             drift",
        ),
    }
}

fn add(resident: &Resident, row: &Prepared, features: &mut [(String, Counter)]) {
    let sketches = &resident.manifest.features;
    match (&resident.preparation.input, &row.value) {
        (InputPreparation::Tabular(encoder), PreparedValue::Dense(x)) => {
            let Ok(cells) = decode(encoder, x) else { return };
            for (column, cell) in encoder.columns.iter().zip(&cells) {
                let at = features.iter_mut().zip(sketches).find(|((name, _), _)| *name == column.name);
                let Some(((_, counter), sketch)) = at else { continue };
                match cell {
                    OwnedCell::Number(x) => counter.number(sketch, Some(*x)),
                    OwnedCell::Text(name) => counter.name(sketch, Some(name)),
                    OwnedCell::Missing if sketch.quantiles.is_empty() => counter.name(sketch, None),
                    OwnedCell::Missing => counter.number(sketch, None),
                }
            }
        }
        // Of texts the sketch knows the length.
        (_, PreparedValue::Tokens(ids) | PreparedValue::Pair { source: ids, .. }) => {
            if let ([(_, counter)], [sketch]) = (features, &sketches[..]) {
                counter.number(sketch, Some(ids.len() as f64));
            }
        }
        _ => {}
    }
}

/// The drift of what a model was asked since it was loaded, or since its last full window.
///
/// # Errors
/// A model whose inputs are not tested, with the reason.
pub async fn report(service: &Service, project: &Project, model: &ModelRef) -> Result<Drift, ServiceError> {
    let version = service.resolve(project, model).await?;
    if language::writes(&version) {
        return language::report(service, project, &version).await.map(Drift::Language);
    }
    of_rows(service, project, model).await.map(Drift::Rows)
}

async fn of_rows(service: &Service, project: &Project, model: &ModelRef) -> Result<Report, ServiceError> {
    let resident = service.resident(project, model).await?;
    if let Some(why) = why_not(&resident) {
        let message = format!("{}: drift is not tested here: {why}", resident.version.id());
        return Err(ServiceError::unsupported("model", "unsupported_model", message));
    }
    let id = resident.version.id();
    let Some(window) = resident.watch.window(project) else {
        return Ok(Report { model: id, since: None, n: 0, features: vec![] });
    };
    // A feature that was always missing has a count and no value.
    let counted: Vec<(String, Counter)> = window.features.into_iter().filter(|(_, c)| c.n() > 0).collect();
    let features = compare_counts(&resident.manifest.features, &counted).map_err(robustness::refused)?;
    Ok(Report { model: id, since: Some(window.since), n: window.n, features })
}
