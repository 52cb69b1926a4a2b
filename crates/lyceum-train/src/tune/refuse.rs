//! Bases that a spec cannot be carried out on, said before anything is computed.

use super::Base;
use crate::error::TrainError;
use lyceum_types::spec::tune::TuneSpec;

/// A whole model's head reads the learnt tokens alone, whose rows are not the examples': their norms are not known.
pub(super) fn private_whole(spec: &TuneSpec, base: &Base<'_>) -> Result<(), TrainError> {
    if spec.privacy.is_none() || spec.lora.is_some() || base.adapter.is_some() {
        return Ok(());
    }
    Err(TrainError::Privacy(format!(
        "training {} whole with differential privacy is not in this version: add lora = {{ rank = 8 }} under [model]",
        base.id
    )))
}

/// Weights, their gradients and two moments of a whole model must fit.
pub(super) fn memory(spec: &TuneSpec, base: &Base<'_>) -> Result<(), TrainError> {
    let params = &base.model.params;
    let numbers: usize = params.ids().map(|id| params.shape(id).len()).sum();
    let (needed, Some(available)) = (16 * numbers as u64, available_bytes()) else { return Ok(()) };
    if spec.lora.is_none() && base.adapter.is_none() && needed > available {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        return Err(TrainError::Spec(format!(
            "training {} whole takes {:.1} GiB for weights, gradients and moments, and {:.1} GiB are free; add \
             lora = {{ rank = 8 }} under [model]",
            base.id,
            gib(needed),
            gib(available)
        )));
    }
    Ok(())
}

fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
