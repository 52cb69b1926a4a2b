//! `[train] robust`: training on inputs that are changed.

use super::section::{POSITIVE, Section};
use crate::spec::{NormSpec, PgdSpec, RobustSpec};

/// Steps of one attack in training.
const STEPS_MAX: usize = 1000;

#[derive(Clone, Copy)]
enum Method {
    Adversarial,
    Trades,
    Noise,
}

const METHODS: &[(&str, Method)] =
    &[("adversarial", Method::Adversarial), ("trades", Method::Trades), ("noise", Method::Noise)];
const NORMS: &[(&str, NormSpec)] = &[("linf", NormSpec::Linf), ("l2", NormSpec::L2)];

pub(super) fn read(mut section: Section<'_>) -> Option<RobustSpec> {
    section.require("method", "how inputs are changed", "method = \"adversarial\"");
    let method = section.choice("method", METHODS)?;
    section.elsewhere(&["norm", "eps", "steps", "step"], "the methods adversarial and trades");
    section.elsewhere(&["beta"], "the method trades");
    section.elsewhere(&["std"], "the method noise");
    let spec = match method {
        Method::Adversarial => RobustSpec::Adversarial(pgd(&mut section)),
        // The paper's 6 where clean accuracy counts as well.
        Method::Trades => {
            RobustSpec::Trades { pgd: pgd(&mut section), beta: section.number_or("beta", 6.0, POSITIVE) }
        }
        Method::Noise => {
            section.require("std", "how strong the noise is", "std = 0.25");
            RobustSpec::Noise { std: section.number_or("std", 1.0, POSITIVE) }
        }
    };
    section.finish();
    Some(spec)
}

fn pgd(section: &mut Section<'_>) -> PgdSpec {
    section.require("eps", "how far inputs may be changed", "eps = 0.1");
    let steps = section.size_or("steps", 7, 1, STEPS_MAX);
    PgdSpec {
        norm: section.choice("norm", NORMS).unwrap_or(NormSpec::Linf),
        eps: section.number_or("eps", 1.0, POSITIVE),
        steps,
        step: section.number_or("step", 2.5 / steps as f64, POSITIVE),
    }
}
