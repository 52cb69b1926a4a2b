//! The learning rate of a step.

use lyceum_types::spec::ScheduleSpec;
use std::f64::consts::PI;

/// The rate of optimiser step `step` (from 0) of `total_steps`. Every schedule begins with a linear warm-up,
/// `base_lr · (step + 1) / (warmup_steps + 1)`, which is not 0 at the first step; cosine and linear fall from
/// `base_lr` at the end of the warm-up to `min_lr` at `total_steps`, as nanoGPT's `get_lr`; `step` counts its
/// falls from step 0, as PyTorch's `StepLR`.
pub fn lr_at(schedule: &ScheduleSpec, base_lr: f64, step: u64, total_steps: u64) -> f64 {
    let warmup_steps = match *schedule {
        ScheduleSpec::Constant { warmup_steps }
        | ScheduleSpec::Linear { warmup_steps, .. }
        | ScheduleSpec::Cosine { warmup_steps, .. }
        | ScheduleSpec::Step { warmup_steps, .. } => warmup_steps as u64,
    };
    if step < warmup_steps {
        return base_lr * (step + 1) as f64 / (warmup_steps + 1) as f64;
    }
    // The part of the fall that is behind, in 0..=1.
    let progress = if step >= total_steps {
        1.0
    } else {
        (step - warmup_steps) as f64 / (total_steps - warmup_steps) as f64
    };
    match *schedule {
        ScheduleSpec::Constant { .. } => base_lr,
        ScheduleSpec::Linear { min_lr, .. } => base_lr + (min_lr - base_lr) * progress,
        ScheduleSpec::Cosine { min_lr, .. } => {
            min_lr + 0.5 * (1.0 + (PI * progress).cos()) * (base_lr - min_lr)
        }
        ScheduleSpec::Step { step_size, gamma, .. } => base_lr * gamma.powf((step / step_size as u64) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: ScheduleSpec, expected: &[(u64, f64)]) {
        for (step, lr) in expected {
            let got = lr_at(&schedule, 1e-3, *step, 2000);
            assert!((got - lr).abs() < 1e-15, "{schedule:?} at {step}: {got} is not {lr}");
        }
    }

    #[test]
    fn cosine_is_nanogpts_get_lr() {
        // (0 + 1) / 101, …, 100 / 101 of the rate; the middle of the fall is the mean of both ends.
        check(
            ScheduleSpec::Cosine { warmup_steps: 100, min_lr: 1e-4 },
            &[
                (0, 1e-3 / 101.0),
                (99, 1e-3 * 100.0 / 101.0),
                (100, 1e-3),
                (575, 1e-4 + 0.5 * (1.0 + std::f64::consts::FRAC_1_SQRT_2) * 9e-4),
                (1050, 5.5e-4),
                (2000, 1e-4),
                (5000, 1e-4),
            ],
        );
    }

    #[test]
    fn linear_falls_evenly_and_constant_stays() {
        let linear = ScheduleSpec::Linear { warmup_steps: 0, min_lr: 0.0 };
        check(linear, &[(0, 1e-3), (500, 7.5e-4), (1999, 5e-7), (2000, 0.0)]);
        check(
            ScheduleSpec::Constant { warmup_steps: 3 },
            &[(0, 2.5e-4), (2, 7.5e-4), (3, 1e-3), (9999, 1e-3)],
        );
    }

    #[test]
    fn step_multiplies_every_step_size() {
        let step = ScheduleSpec::Step { warmup_steps: 0, step_size: 30, gamma: 0.1 };
        check(step, &[(0, 1e-3), (29, 1e-3), (30, 1e-4), (59, 1e-4), (60, 1e-5)]);
    }

    #[test]
    fn no_schedule_leaves_its_bounds() {
        for total in [1u64, 7, 50] {
            for warmup_steps in 0..total as usize {
                for step in 0..total {
                    let lr = lr_at(&ScheduleSpec::Cosine { warmup_steps, min_lr: 0.1 }, 1.0, step, total);
                    assert!(lr > 0.0 && lr <= 1.0, "{lr}");
                }
            }
        }
    }
}
