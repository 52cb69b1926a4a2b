//! Limited-memory BFGS (Liu and Nocedal 1989) for smooth convex functions.

use lyceum_types::control::{Control, Stop};
use std::collections::VecDeque;

/// Steps remembered.
const MEMORY: usize = 10;
/// Armijo's share of the promised fall.
const ARMIJO: f64 = 1e-4;
/// Halvings of a step before it is given up.
const HALVINGS_MAX: usize = 30;

/// Where the search ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Minimum {
    pub value: f64,
    pub gradient_max: f64,
    pub iterations: usize,
}

/// Walks `x` downhill until no component of the gradient is above `tolerance`, or `iterations_max` steps, or
/// no step lowers the function any more. `function` fills the gradient and returns the value.
///
/// # Errors
/// The control's stop.
pub(super) fn minimize(
    x: &mut [f64],
    tolerance: f64,
    iterations_max: usize,
    control: &Control,
    mut function: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Result<Minimum, Stop> {
    let n = x.len();
    let mut gradient = vec![0.0; n];
    let mut value = function(x, &mut gradient);
    let (mut next_x, mut next_gradient) = (vec![0.0; n], vec![0.0; n]);
    // Pairs (step, change of gradient, 1 / their product), the newest last.
    let mut memory: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::with_capacity(MEMORY);
    let mut iterations = 0;
    while iterations < iterations_max && largest(&gradient) > tolerance {
        control.check()?;
        let mut direction = two_loops(&gradient, &memory);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            // Rounding has spoilt the memory: steepest descent.
            memory.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        let mut length =
            if memory.is_empty() { (1.0 / dot(&gradient, &gradient).sqrt()).min(1.0) } else { 1.0 };
        let mut fell = false;
        for _ in 0..HALVINGS_MAX {
            for i in 0..n {
                next_x[i] = x[i] + length * direction[i];
            }
            let next = function(&next_x, &mut next_gradient);
            if next <= value + ARMIJO * length * slope {
                value = next;
                fell = true;
                break;
            }
            length *= 0.5;
        }
        if !fell {
            break;
        }
        remember(&mut memory, x, &next_x, &gradient, &next_gradient);
        x.copy_from_slice(&next_x);
        gradient.copy_from_slice(&next_gradient);
        iterations += 1;
    }
    Ok(Minimum { value, gradient_max: largest(&gradient), iterations })
}

/// Keeps a pair whose curvature is clearly positive.
fn remember(
    memory: &mut VecDeque<(Vec<f64>, Vec<f64>, f64)>,
    x: &[f64],
    next_x: &[f64],
    gradient: &[f64],
    next_gradient: &[f64],
) {
    let minus = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
    let (step, change) = (minus(next_x, x), minus(next_gradient, gradient));
    let product = dot(&step, &change);
    if product > 1e-12 * dot(&change, &change) {
        if memory.len() == MEMORY {
            memory.pop_front();
        }
        memory.push_back((step, change, 1.0 / product));
    }
}

/// `−H g`, where `H` is the inverse Hessian that the memory stands for.
fn two_loops(gradient: &[f64], memory: &VecDeque<(Vec<f64>, Vec<f64>, f64)>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(memory.len());
    for (step, change, inverse) in memory.iter().rev() {
        let alpha = inverse * dot(step, &q);
        add(&mut q, -alpha, change);
        alphas.push(alpha);
    }
    if let Some((_, change, inverse)) = memory.back() {
        let scale = 1.0 / (inverse * dot(change, change));
        q.iter_mut().for_each(|value| *value *= scale);
    }
    for ((step, change, inverse), alpha) in memory.iter().zip(alphas.iter().rev()) {
        let beta = inverse * dot(change, &q);
        add(&mut q, alpha - beta, step);
    }
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}
