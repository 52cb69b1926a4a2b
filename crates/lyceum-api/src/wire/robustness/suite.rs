//! The suite of `/v1/robustness/runs` and `lyceum attack` over models that were trained here: one grammar for both doors.

use crate::error::ApiError;
use lyceum_kernels::cpu;
use lyceum_nn::Precision;
use lyceum_robust::attack::{Attack, PgdLoss};
use lyceum_robust::certify::smooth::Smoothing;
use lyceum_robust::corrupt::Severity;
use lyceum_robust::corrupt::audio::Noise;
use lyceum_robust::corrupt::image::Corruption;
use lyceum_robust::corrupt::table::Damage;
use lyceum_robust::corrupt::text::Perturbation;
use lyceum_robust::environments::Environment;
use lyceum_robust::{Norm, RobustError, Threat, calibrate};
use lyceum_service::robustness::Item;
use lyceum_types::limits;
use serde::Deserialize;
use serde_json::Value;

/// The items of a suite. An attack without `norm` or `eps` takes those of the item before it.
pub fn items(items: &[Value]) -> Result<Vec<Item>, ApiError> {
    if items.is_empty() || items.len() > limits::ROBUSTNESS_ITEMS_MAX {
        let message =
            format!("suite: {} items are not between 1 and {}", items.len(), limits::ROBUSTNESS_ITEMS_MAX);
        return Err(ApiError::field("suite", "invalid_value", message));
    }
    let mut last = (None, None);
    items.iter().enumerate().map(|(i, value)| item(i, value, &mut last)).collect()
}

type Last = (Option<Norm>, Option<f64>);

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields, expecting = "an object with a type")]
enum ItemBody {
    #[serde(rename = "fgsm")]
    Fgsm { norm: Option<NormBody>, eps: Option<f64> },
    #[serde(rename = "pgd")]
    Pgd {
        norm: Option<NormBody>,
        eps: Option<f64>,
        steps: Option<u32>,
        restarts: Option<u32>,
        step: Option<f64>,
        loss: Option<LossBody>,
    },
    #[serde(rename = "apgd-ce")]
    ApgdCe { norm: Option<NormBody>, eps: Option<f64>, steps: Option<u32>, restarts: Option<u32> },
    #[serde(rename = "apgd-t")]
    ApgdT {
        norm: Option<NormBody>,
        eps: Option<f64>,
        steps: Option<u32>,
        restarts: Option<u32>,
        targets: Option<u32>,
    },
    #[serde(rename = "fab-t")]
    Fab {
        norm: Option<NormBody>,
        eps: Option<f64>,
        steps: Option<u32>,
        restarts: Option<u32>,
        targets: Option<u32>,
    },
    #[serde(rename = "square")]
    Square { norm: Option<NormBody>, eps: Option<f64>, queries: Option<u32>, restarts: Option<u32> },
    #[serde(rename = "autoattack")]
    AutoAttack { norm: Option<NormBody>, eps: Option<f64> },
    #[serde(rename = "certificate")]
    Certificate { norm: Option<NormBody>, eps: Option<f64> },
    #[serde(rename = "smoothing")]
    Smoothing { sigma: f64, n: Option<u64>, n0: Option<u64>, alpha: Option<f64>, rows: Option<u32> },
    #[serde(rename = "corruptions")]
    Corruptions { only: Option<Vec<String>>, severities: Option<Vec<u64>> },
    #[serde(rename = "text")]
    Text { only: Option<Vec<String>>, severities: Option<Vec<u64>> },
    #[serde(rename = "tabular")]
    Tabular { only: Option<Vec<String>>, severities: Option<Vec<u64>> },
    #[serde(rename = "audio")]
    Audio { only: Option<Vec<String>>, severities: Option<Vec<u64>> },
    #[serde(rename = "environments")]
    Environments { matrix: Option<Vec<String>> },
    #[serde(rename = "calibration")]
    Calibration { bins: Option<u32> },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NormBody {
    Linf,
    L2,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LossBody {
    Ce,
    Targeted,
}

fn item(i: usize, value: &Value, last: &mut Last) -> Result<Item, ApiError> {
    let place = format!("suite[{i}]");
    let wrong =
        |message: String| ApiError::field(place.clone(), "invalid_value", format!("{place}: {message}"));
    let body: ItemBody = serde_json::from_value(value.clone()).map_err(|error| wrong(error.to_string()))?;
    let robust = |error: RobustError| wrong(format!("{error}; {}", error.fix()));
    let mut threat = |norm: Option<NormBody>, eps: Option<f64>| {
        let norm = norm.map(|norm| match norm {
            NormBody::Linf => Norm::Linf,
            NormBody::L2 => Norm::L2,
        });
        last.0 = norm.or(last.0);
        last.1 = eps.or(last.1);
        match *last {
            (norm, Some(eps)) => Threat::new(norm.unwrap_or(Norm::Linf), eps).map_err(robust),
            (_, None) => Err(wrong("eps: is missing, and no item before it has one".into())),
        }
    };
    let count = |given: Option<u32>, default: usize| given.map_or(default, |n| n as usize);
    Ok(match body {
        ItemBody::Fgsm { norm, eps } => Item::Attack { threat: threat(norm, eps)?, attack: Attack::Fgsm },
        ItemBody::Pgd { norm, eps, steps, restarts, step, loss } => {
            let loss = match loss {
                None | Some(LossBody::Ce) => PgdLoss::CrossEntropy,
                Some(LossBody::Targeted) => PgdLoss::Targeted,
            };
            let (steps, restarts) = (count(steps, 40), count(restarts, 3));
            Item::Attack { threat: threat(norm, eps)?, attack: Attack::Pgd { steps, restarts, step, loss } }
        }
        ItemBody::ApgdCe { norm, eps, steps, restarts } => {
            let attack = Attack::ApgdCe { steps: count(steps, 100), restarts: count(restarts, 1) };
            Item::Attack { threat: threat(norm, eps)?, attack }
        }
        ItemBody::ApgdT { norm, eps, steps, restarts, targets } => {
            let (steps, restarts, targets) = (count(steps, 100), count(restarts, 1), count(targets, 9));
            Item::Attack { threat: threat(norm, eps)?, attack: Attack::ApgdT { steps, restarts, targets } }
        }
        ItemBody::Fab { norm, eps, steps, restarts, targets } => {
            let (steps, restarts, targets) = (count(steps, 100), count(restarts, 1), count(targets, 9));
            Item::Attack { threat: threat(norm, eps)?, attack: Attack::Fab { steps, restarts, targets } }
        }
        ItemBody::Square { norm, eps, queries, restarts } => {
            let attack = Attack::Square { queries: count(queries, 5000), restarts: count(restarts, 1) };
            Item::Attack { threat: threat(norm, eps)?, attack }
        }
        ItemBody::AutoAttack { norm, eps } => Item::AutoAttack { threat: threat(norm, eps)? },
        ItemBody::Certificate { norm, eps } => Item::Certificate { threat: threat(norm, eps)? },
        ItemBody::Smoothing { sigma, n, n0, alpha, rows } => Item::Smoothing {
            smoothing: Smoothing::new(sigma, n0.unwrap_or(100), n.unwrap_or(10_000), alpha.unwrap_or(0.001))
                .map_err(robust)?,
            rows: count(rows, 100),
        },
        ItemBody::Corruptions { only, severities } => Item::Corruptions {
            only: named(only, &Corruption::ALL, Corruption::name).map_err(wrong)?,
            severities: levels(severities).map_err(robust)?,
        },
        ItemBody::Text { only, severities } => Item::Text {
            only: named(only, &Perturbation::ALL, Perturbation::name).map_err(wrong)?,
            severities: levels(severities).map_err(robust)?,
        },
        ItemBody::Tabular { only, severities } => Item::Tabular {
            only: named(only, &Damage::ALL, Damage::name).map_err(wrong)?,
            severities: levels(severities).map_err(robust)?,
        },
        ItemBody::Audio { only, severities } => Item::Audio {
            only: named(only, &Noise::ALL, Noise::name).map_err(wrong)?,
            severities: levels(severities).map_err(robust)?,
        },
        ItemBody::Environments { matrix } => Item::Environments {
            matrix: match matrix {
                None => Environment::matrix(),
                Some(names) => environments(&place, &names)?,
            },
        },
        ItemBody::Calibration { bins } => Item::Calibration { bins: count(bins, calibrate::BINS) },
    })
}

fn named<T: Copy>(
    only: Option<Vec<String>>,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Vec<T>, String> {
    let Some(only) = only else { return Ok(all.to_vec()) };
    let find = |text: &String| {
        let known = || all.iter().map(|&t| name(t)).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|&&t| name(t) == text);
        found.copied().ok_or_else(|| format!("only: \"{text}\" is none of {}", known()))
    };
    only.iter().map(find).collect()
}

fn levels(severities: Option<Vec<u64>>) -> Result<Vec<Severity>, RobustError> {
    match severities {
        None => Ok(Severity::ALL.to_vec()),
        Some(levels) => levels.into_iter().map(Severity::new).collect(),
    }
}

/// `f32`, `bf16`, `batch:1`, `avx2`, or several of them with spaces; what is not said is as the model is served,
/// which always comes first.
fn environments(place: &str, names: &[String]) -> Result<Vec<Environment>, ApiError> {
    let served = Environment { path: cpu::path(), precision: Precision::F32, batch: 32 };
    let mut matrix = vec![served];
    for name in names {
        let mut environment = served;
        for word in name.split_whitespace() {
            let path = cpu::available().iter().find(|path| path.name() == word);
            match (word, path, word.strip_prefix("batch:").map(str::parse::<usize>)) {
                ("f32", ..) => environment.precision = Precision::F32,
                ("bf16", ..) => environment.precision = Precision::Bf16,
                (_, Some(path), _) => environment.path = *path,
                (_, _, Some(Ok(batch))) if (1..=1024).contains(&batch) => environment.batch = batch,
                ("q8_0" | "q4_0" | "int8" | "int4", ..) => {
                    let message =
                        format!("{place}.matrix: quantised weights ({word}) are not in this version");
                    return Err(ApiError::not_implemented(format!("{place}.matrix"), message));
                }
                _ => {
                    let paths: Vec<&str> = cpu::available().iter().map(|path| path.name()).collect();
                    let message = format!(
                        "{place}.matrix: \"{word}\" is none of f32, bf16, batch:N, {} on this machine",
                        paths.join(", ")
                    );
                    return Err(ApiError::field(format!("{place}.matrix"), "invalid_value", message));
                }
            }
        }
        if !matrix.contains(&environment) {
            matrix.push(environment);
        }
    }
    Ok(matrix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(items: Value) -> String {
        super::items(items.as_array().unwrap()).unwrap_err().detail.message
    }

    #[test]
    fn a_suite_is_read_and_an_item_takes_the_threat_of_the_one_before() {
        let items = json!([
            {"type": "pgd", "norm": "l2", "eps": 0.5, "steps": 40, "restarts": 5},
            {"type": "square", "queries": 100},
            {"type": "corruptions", "only": ["blur"], "severities": [3]},
            {"type": "smoothing", "sigma": 0.25, "n": 1000, "alpha": 0.001},
            {"type": "environments", "matrix": ["f32", "bf16 batch:1", "portable"]},
            {"type": "calibration"}
        ]);
        let found = super::items(items.as_array().unwrap()).unwrap();
        let threat = Threat::new(Norm::L2, 0.5).unwrap();
        assert_eq!(found[1], Item::Attack { threat, attack: Attack::Square { queries: 100, restarts: 1 } });
        let Item::Environments { matrix } = &found[4] else { panic!("environments") };
        assert!(matrix.len() >= 2 && matrix[1].precision == Precision::Bf16);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (items, want) in [
            (json!([]), "suite: 0 items"),
            (json!([{"type": "square"}]), "suite[0]: eps: is missing"),
            (json!([{"type": "pgd", "eps": -1.0}]), "suite[0]: eps: -1 is not above 0"),
            (json!([{"type": "pgd", "eps": 0.1, "step_size": 1}]), "unknown field `step_size`"),
            (json!([{"type": "cw", "eps": 0.1}]), "unknown variant `cw`"),
            (json!([{"type": "corruptions", "only": ["fog"]}]), "\"fog\" is none of gaussian_noise"),
            (json!([{"type": "corruptions", "severities": [6]}]), "severity: 6 is not in 1..=5"),
            (json!([{"type": "smoothing", "sigma": 0.0}]), "sigma: 0 is not above 0"),
            (json!([{"type": "environments", "matrix": ["gpu"]}]), "\"gpu\" is none of"),
        ] {
            let message = refused(items);
            assert!(message.contains(want), "{message}");
        }
        let error = items(&[json!({"type": "environments", "matrix": ["q8_0"]})]).unwrap_err();
        assert_eq!(error.status.as_u16(), 501);
    }
}
