//! Both accountants against dp-accounting and Opacus (`fixtures/scripts/privacy.py`).

use lyceum_privacy::rdp::{ORDERS, costs, to_epsilon};
use lyceum_privacy::{Accountant, Event, epsilon};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Row {
    q: f64,
    sigma: f64,
    steps: u64,
    delta: f64,
    /// dp-accounting's over whole orders; its fractional ones are upper bounds of the exact value.
    rdp_whole: f64,
    /// Opacus' over all orders.
    opacus: f64,
    pld: f64,
    pld_low: f64,
}

fn rows() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/privacy.json");
    let rows: Vec<Row> =
        serde_json::from_slice(&std::fs::read(path).expect("the fixture is there")).expect("it is JSON");
    assert!(rows.len() >= 200, "{} rows", rows.len());
    rows
}

fn ours(row: &Row, accountant: Accountant) -> f64 {
    let event = Event::new(row.q, row.sigma, row.steps).expect("in range");
    epsilon(&[event], row.delta, accountant).expect("in range").epsilon
}

fn name(row: &Row) -> String {
    format!("(q {}, σ {}, T {}, δ {})", row.q, row.sigma, row.steps, row.delta)
}

#[test]
fn rdp_equals_both_references() {
    for row in rows() {
        let got = ours(&row, Accountant::Rdp);
        assert!((got - row.opacus).abs() < 1e-3, "{}: {got}, Opacus {}", name(&row), row.opacus);
        let costs = costs(&[Event::new(row.q, row.sigma, row.steps).expect("in range")]);
        let whole = ORDERS.iter().zip(costs).filter(|(order, _)| order.fract() == 0.0);
        let got = whole
            .filter_map(|(&order, cost)| to_epsilon(order, cost, row.delta))
            .fold(f64::INFINITY, f64::min);
        assert!((got - row.rdp_whole).abs() < 1e-3, "{}: {got}, dp-accounting {}", name(&row), row.rdp_whole);
    }
}

#[test]
fn pld_is_never_below_the_optimistic_reference_and_within_a_percent_of_the_other() {
    for row in rows() {
        let got = ours(&row, Accountant::Pld);
        assert!(got >= row.pld_low, "{}: {got} is below the optimistic {}", name(&row), row.pld_low);
        assert!(got <= row.pld * 1.01 + 1e-9, "{}: {got} is far above {}", name(&row), row.pld);
    }
}
