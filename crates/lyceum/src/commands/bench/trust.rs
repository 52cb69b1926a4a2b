//! `lyceum bench trust`: what explanations, private steps, attacks and ε cost, and what they cost elsewhere.
//!
//! The works of `bench/peers/pytorch_trust.py`, on networks of the same shapes. A private step is made of the
//! calls that training makes: gradients, norms, the weighted sum, noise. Rows under attack stay unfooled, so
//! that both sides make every step.

use super::peer::{Peer, TRUST};
use super::works::{Training, batch, model};
use super::{median, report};
use crate::failure::Failure;
use crate::output;
use clap::Args;
use lyceum_explain::{
    Baseline, Groups, Method, Quantity, Request, Steps, Subject, Target, ThisThread, attribute,
};
use lyceum_models::Model;
use lyceum_models::answer::likeliest;
use lyceum_models::batch::Input;
use lyceum_models::space::{Domain, Layout, Norm};
use lyceum_privacy::{Accountant, Event, epsilon};
use lyceum_robust::attack::{Attack, PgdLoss, Rows, attack};
use lyceum_robust::threat::Threat;
use lyceum_robust::victim::Victim;
use lyceum_types::control::Control;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, Args)]
pub struct TrustBench {
    /// What to compare with: pytorch=PATH, a Python that has PyTorch, captum, opacus and
    /// adversarial-robustness-toolbox
    #[arg(long, value_name = "NAME=PATH")]
    peer: Option<String>,
    /// Rounds, each one measurement of both sides
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Where the result is written as JSON too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A work of both sides: its name, steps a round, and our step.
type Step = Box<dyn FnMut() -> Result<(), Failure>>;

impl TrustBench {
    pub fn measure(&self, control: &Control, is_json: bool) -> Result<Value, Failure> {
        let mut peer = self.peer.as_deref().map(|named| Peer::start(named, TRUST)).transpose()?;
        let works: [(&str, usize, Step); 10] = [
            ("ig_mlp", 10, explaining("mlp", control)?),
            ("ig_cnn", 5, explaining("cnn", control)?),
            ("plain_mlp", 20, plain(128)),
            ("dp_mlp", 20, private(128)),
            ("plain_mlp:32", 20, plain(32)),
            ("dp_mlp:32", 20, private(32)),
            ("plain_mlp:512", 10, plain(512)),
            ("dp_mlp:512", 10, private(512)),
            ("pgd_mlp", 2, attacking(control)?),
            ("gradient_input_mlp", 20, one_pass("mlp", control)?),
        ];
        let mut rows = Vec::new();
        for (name, steps, mut step) in works {
            control.check().map_err(|_| Failure::interrupted("nothing was written"))?;
            rows.push(self.one(name, steps, &mut step, peer.as_mut())?);
        }
        rows.push(forward_alone(self.rounds)?);
        for (name, accountant) in [("epsilon_rdp", Accountant::Rdp), ("epsilon_pld", Accountant::Pld)] {
            rows.push(self.accounting(name, accountant)?);
        }
        let report = report(&rows, peer.as_ref(), self.out.as_deref())?;
        if !is_json {
            table(&rows);
        }
        Ok(report)
    }

    fn one(
        &self,
        name: &str,
        steps: usize,
        step: &mut Step,
        mut peer: Option<&mut Peer>,
    ) -> Result<Value, Failure> {
        let mut row = json!({ "work": name, "unit": "s" });
        // The peer has no such work: it is compared with our own forward pass, or with our own plain step.
        if name.starts_with("gradient_input") || name.contains(':') {
            peer = None;
        }
        if let Some(peer) = peer.as_deref_mut() {
            row["peer_mode"] = Value::from(peer.prepare_named(name)?);
        }
        for _ in 0..3 {
            seconds(step, steps)?;
        }
        let (mut mine, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds.max(1) {
            let own = seconds(step, steps)?;
            mine.push(own);
            if let Some(peer) = peer.as_deref_mut() {
                let other = peer.run_named(name, steps)?;
                theirs.push(other);
                ratios.push(other / own);
            }
        }
        row["ours"] = Value::from(median(&mut mine));
        if !ratios.is_empty() {
            row["peer"] = Value::from(median(&mut theirs));
            row["ratio"] = Value::from(median(&mut ratios));
            row["spread"] = json!([ratios.first(), ratios.last()]);
        }
        Ok(row)
    }

    /// A new setting in every sample: nothing is remembered.
    fn accounting(&self, name: &str, accountant: Accountant) -> Result<Value, Failure> {
        let mut samples = Vec::new();
        for i in 0..self.rounds.max(1) {
            let started = Instant::now();
            let event = Event::new(0.01 + 0.001 * i as f64, 1.0 + 0.01 * i as f64, 1000 + i as u64);
            let event = event.map_err(|error| Failure::internal("no such setting", &error))?;
            epsilon(&[event], 1e-5, accountant).map_err(|error| Failure::internal("no ε", &error))?;
            samples.push(started.elapsed().as_secs_f64());
        }
        Ok(json!({ "work": name, "unit": "s", "ours": median(&mut samples) }))
    }
}

/// The median seconds of `n` steps.
fn seconds(step: &mut Step, n: usize) -> Result<f64, Failure> {
    let mut samples = Vec::with_capacity(n);
    for _ in 0..n {
        let started = Instant::now();
        step()?;
        samples.push(started.elapsed().as_secs_f64());
    }
    Ok(median(&mut samples))
}

/// A model of a work and one of its rows.
fn subject(name: &str) -> (Arc<Model>, Input) {
    let (spec, shape) = model(name);
    let model = Model::new(&spec, &shape, 1).expect("the sizes of a work fit together: bug");
    let Input::Dense { shape, data } = batch(name, 0).input else { unreachable!("a work of numbers: bug") };
    let width: usize = shape.iter().product();
    (Arc::new(model), Input::Dense { shape, data: data[..width].to_vec() })
}

fn request(name: &str, method: Method) -> Result<Request, Failure> {
    let refused = |error| Failure::internal("the work cannot be explained", &error);
    let (model, input) = subject(name);
    let Input::Dense { data, .. } = &input else { unreachable!("a work of numbers: bug") };
    let target = Target::likeliest(0, Quantity::Logit, &model.shape.output).map_err(refused)?;
    let groups = Groups::each(data.len()).map_err(refused)?;
    Ok(Request {
        subject: Subject::new(model, input, target, groups).map_err(refused)?,
        method,
        baseline: Baseline::Zeros,
        evaluate: Vec::new(),
        max_passes: 1000,
        seed: 0,
    })
}

fn explained(request: Request, control: &Control) -> Step {
    let (mut device, control) = (ThisThread::new(), control.clone());
    Box::new(move || {
        let found = attribute(&request, &mut device, &control);
        found.map(drop).map_err(|error| Failure::internal("the work cannot be explained", &error))
    })
}

fn explaining(name: &str, control: &Control) -> Result<Step, Failure> {
    Ok(explained(request(name, Method::IntegratedGradients { n_steps: Steps::Fixed(50) })?, control))
}

/// The answer and its explanation in one pass.
fn one_pass(name: &str, control: &Control) -> Result<Step, Failure> {
    Ok(explained(request(name, Method::GradientInput)?, control))
}

/// The answer alone, of the same row.
fn forward_alone(rounds: usize) -> Result<Value, Failure> {
    use lyceum_nn::{Examples, Recording, Tape, Workspace};
    let (model, input) = subject("mlp");
    let mut ws = Workspace::new();
    let mut step: Step = Box::new(move || {
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(1));
        let forward = model.forward(&mut tape, &input).map_err(|e| Failure::internal("no answer", &e))?;
        std::hint::black_box(tape.value(forward.logits));
        Ok(())
    });
    let mut samples = Vec::new();
    for _ in 0..rounds.max(1) {
        samples.push(seconds(&mut step, 20)?);
    }
    Ok(json!({ "work": "forward_mlp", "unit": "s", "ours": median(&mut samples) }))
}

fn plain(n: usize) -> Step {
    let mut training = Training::mlp_with_sgd(n, 0.1);
    Box::new(move || {
        training.step();
        Ok(())
    })
}

fn private(n: usize) -> Step {
    let mut training = Training::mlp_with_sgd(n, 0.1);
    Box::new(move || training.private_step().map_err(|error| Failure::internal("no private step", &error)))
}

fn attacking(control: &Control) -> Result<Step, Failure> {
    let refused = |error| Failure::internal("the work cannot be attacked", &error);
    let (spec, shape) = model("mlp");
    let (model, control) =
        (Model::new(&spec, &shape, 1).expect("the sizes of a work fit: bug"), control.clone());
    let Input::Dense { data, .. } = batch("mlp", 0).input else { unreachable!("a work of numbers: bug") };
    let rows: Vec<f32> = data.iter().map(|x| (x + 1.0) / 2.0).collect();
    let domain = Domain::boxed(Layout::Features { n: 784 }, 0.0, 1.0);
    let logits = Victim::new(&model, &domain, &control).and_then(|mut v| v.logits(&rows)).map_err(refused)?;
    let labels: Vec<u32> = logits.chunks_exact(10).map(likeliest).collect();
    // So small that nothing is fooled: every step is made for every row.
    let threat = Threat::new(Norm::Linf, 1e-4).map_err(refused)?;
    let pgd = Attack::Pgd { steps: 40, restarts: 1, step: Some(1.0 / 16.0), loss: PgdLoss::CrossEntropy };
    Ok(Box::new(move || {
        let mut victim = Victim::new(&model, &domain, &control).map_err(refused)?;
        let rows = Rows { u: &rows, labels: &labels };
        attack(&mut victim, rows, None, threat, pgd, 0).map(drop).map_err(refused)
    }))
}

fn table(rows: &[Value]) {
    let milliseconds =
        |value: &Value| value.as_f64().map_or_else(String::new, |s| format!("{:.3} ms", s * 1e3));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let spread = &row["spread"];
            let spread = spread[0].as_f64().zip(spread[1].as_f64());
            vec![
                row["work"].as_str().unwrap_or_default().to_owned(),
                milliseconds(&row["ours"]),
                milliseconds(&row["peer"]),
                row["ratio"].as_f64().map_or_else(String::new, |r| format!("{r:.2}")),
                spread.map_or_else(String::new, |(low, high)| format!("{low:.2}–{high:.2}")),
                row["peer_mode"].as_str().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    output::table(&["work", "ours", "peer", "ratio", "spread", "peer's way"], &cells);
}
