//! What a trained finalist withstands and how far its answers can be explained, measured as `lyceum_robust` and
//! `lyceum_explain` measure it.
//!
//! Robustness is one fixed attack, so that rows can be compared: PGD in the largest change of one number, 40 steps
//! and 3 restarts, at a tenth of the picture's range (or a tenth of a standard deviation of a table or series). It
//! is a comparison and no certificate: stronger attacks exist (`lyceum attack`).

use crate::asked::{Text, Texts};
use crate::lab::held_out;
use crate::row::{Faithfulness, Robustness};
use crate::served::AskError;
use crate::words;
use lyceum_explain::{
    Baseline, Check, ExplainError, Groups, Method, Quantity, Request, Steps, Subject, Target, Term,
    ThisThread, attribute,
};
use lyceum_models::batch::Input;
use lyceum_models::prepare::Raw;
use lyceum_models::{Model, OutputShape};
use lyceum_nn::{Examples, Recording, Tape, Workspace};
use lyceum_robust::attack::{Attack, PgdLoss, Rows, Schedule, evaluate};
use lyceum_robust::{Domain, Norm, RobustError, Threat, Victim};
use lyceum_train::data::Loaded;
use lyceum_train::eval;
use lyceum_types::control::Control;
use std::sync::Arc;

/// The size of a change.
const EPS: f64 = 0.1;
const STEPS: usize = 40;
const RESTARTS: usize = 3;
/// Held-out rows that are attacked: the first.
const ROWS_MAX: usize = 200;

/// Accuracy under attack; or why there is none. Of texts that language models are asked about too, accuracy under typing
/// errors, the same for all.
pub fn robustness(
    model: &Model,
    (loaded, texts): (&Loaded, Option<&Texts>),
    seed: u64,
    control: &Control,
) -> Result<Robustness, String> {
    let words = |error: RobustError| error.to_string();
    if let Some(texts) = texts {
        return typos(model, loaded, &texts.folds[0].valid, seed, control);
    }
    let domain = Domain::of(&loaded.preparation).map_err(|error| error.to_string())?;
    let mut victim = Victim::new(model, &domain, control).map_err(words)?;
    let part = held_out(loaded).map_err(|error| error.to_string())?;
    let rows: Vec<usize> = (0..part.len().min(ROWS_MAX)).collect();
    let mut batch = part.new_batch();
    part.fill(&rows, &mut batch);
    let Input::Dense { data, .. } = &batch.input else { return Err("inputs have no small changes".into()) };
    let labels = part.labels().ok_or("rows have no class")?;
    let u = domain.from_model(data);
    let attack = Attack::Pgd { steps: STEPS, restarts: RESTARTS, step: None, loss: PgdLoss::CrossEntropy };
    let threat = Threat::new(Norm::Linf, EPS).map_err(words)?;
    let rows = Rows { u: &u, labels: &labels[..rows.len()] };
    let found = evaluate(&mut victim, rows, &[(threat, attack)], Schedule::Each, seed).map_err(words)?;
    let method = format!("{} in linf, {} ({})", attack.name(), attack.budget(), domain.unit);
    let entry = found.entries.into_iter().next().ok_or("the attack gave nothing")?;
    Ok(Robustness { method, eps: Some(EPS), accuracy: entry.accuracy })
}

/// Accuracy on the same damaged texts as language models are asked about.
fn typos(
    model: &Model,
    loaded: &Loaded,
    rows: &[Text],
    seed: u64,
    control: &Control,
) -> Result<Robustness, String> {
    let mut ws = Workspace::new();
    let mut answer = |texts: &[String]| {
        let one = |text: &String| {
            control.check().map_err(AskError::Stopped)?;
            let failed = |error: &dyn std::fmt::Display| AskError::Failed(error.to_string());
            let prepared = loaded.preparation.example(Raw::Text(text)).map_err(|error| failed(&error))?;
            let input = loaded.preparation.collate(&[prepared]);
            let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(1));
            let forward = model.forward(&mut tape, &input).map_err(|error| failed(&error))?;
            let logits = tape.value(forward.logits);
            // The order is what counts: a softmax changes none.
            Ok(logits.iter().map(|&logit| f64::from(logit)).collect::<Vec<f64>>())
        };
        texts.iter().map(one).collect::<Result<Vec<_>, AskError>>()
    };
    words::typos(rows, seed, &mut answer).map_err(|error| error.to_string())
}

/// The methods that give Shapley values without sampling: in closed form, or from every coalition.
const EXACT: [Method; 2] = [Method::LinearShap, Method::Shapley];
/// The method that is measured, for every family the same.
const STEPS_OF_PATH: usize = 32;
/// Held-out rows that are explained.
const EXPLAINED_MAX: usize = 20;
/// Examples through the model for one explanation and its measure.
const PASSES_MAX: u64 = 8192;

/// The exact method that explains this model's answers, if there is one: it is asked for the first held-out row. That
/// depends on the architecture and the number of features, not on training.
pub fn exact_method(model: &Arc<Model>, loaded: &Loaded, control: &Control) -> Option<&'static str> {
    let subject = subject(model, loaded, 0).ok()?;
    let explains = |method: &&Method| {
        let request = Request {
            subject: subject.clone(),
            method: (*method).clone(),
            baseline: Baseline::Zeros,
            evaluate: Vec::new(),
            max_passes: PASSES_MAX,
            seed: 0,
        };
        attribute(&request, &mut ThisThread::new(), control).is_ok_and(|found| found.exact)
    };
    EXACT.iter().find(explains).map(Method::name)
}

/// How much more of the output the features that integrated gradients names take away than random ones do.
pub fn faithfulness(
    model: &Arc<Model>,
    loaded: &Loaded,
    seed: u64,
    control: &Control,
) -> Result<Faithfulness, String> {
    let part = held_out(loaded).map_err(|error| error.to_string())?;
    let method = Method::IntegratedGradients { n_steps: Steps::Fixed(STEPS_OF_PATH) };
    let mut device = ThisThread::new();
    let mut over = Vec::new();
    for i in 0..part.len().min(EXPLAINED_MAX) {
        let request = Request {
            subject: subject(model, loaded, i)?,
            method: method.clone(),
            baseline: Baseline::Zeros,
            evaluate: vec![Check::Comprehensiveness],
            max_passes: PASSES_MAX,
            seed: seed.wrapping_add(i as u64),
        };
        let checks = attribute(&request, &mut device, control).map_err(|error| error.to_string())?.checks;
        let (own, random) = (checks.comprehensiveness, checks.random_control.comprehensiveness);
        over.push(own.zip(random).map(|(own, [random, _])| own - random).ok_or("it was not measured")?);
    }
    let over_random = eval::mean("comprehensiveness", &over).map_err(|error| error.to_string())?;
    Ok(Faithfulness { method: method.name(), over_random })
}

/// Held-out row `i` with each number (or token) as a feature, and the likeliest class's logit (or the first number)
/// as what is explained.
fn subject(model: &Arc<Model>, loaded: &Loaded, i: usize) -> Result<Subject, String> {
    let words = |error: ExplainError| error.to_string();
    let part = held_out(loaded).map_err(|error| error.to_string())?;
    let mut batch = part.new_batch();
    part.fill(&[i], &mut batch);
    let n_units = match &batch.input {
        Input::Dense { shape, .. } => shape.iter().product(),
        Input::Tokens(tokens) => tokens.time,
        Input::Pair { source, .. } => source.time,
    };
    let output = &model.shape.output;
    let target = match output {
        OutputShape::Values { .. } => {
            let term = Term { row: 0, class: 0, not: None };
            Target::new(vec![term], Quantity::Value { scale: 1.0, shift: 0.0 }, output)
        }
        _ => Target::likeliest(0, Quantity::Logit, output),
    };
    let groups = Groups::each(n_units).map_err(words)?;
    Subject::new(model.clone(), batch.input, target.map_err(words)?, groups).map_err(words)
}
