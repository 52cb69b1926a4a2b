//! Which lines pulled a tuned model's answer where it is: products of gradients are the slopes of small steps, and the sum
//! over checkpoints ranks lines as training without each of them does.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../../lyceum-train/tests/tiny/mod.rs"]
mod tiny;

use lyceum_explain::contextcite::spearman;
use lyceum_explain::influence::{Checkpoint, gradient, influence, product};
use lyceum_kernels::stored::Stored;
use lyceum_language::template::ChatTemplate;
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_models::Model;
use lyceum_models::batch::Batch;
use lyceum_nn::{ParamKind, Recording, Tape, Workspace};
use lyceum_store::vault::KeyedPath;
use lyceum_train::chat::Words;
use lyceum_train::past::{Past, answer};
use lyceum_train::tune::{Base, Tuned};
use lyceum_train::{Event, Observer, TrainError};
use lyceum_types::control::Control;
use lyceum_types::spec::parse::Job;
use lyceum_types::spec::tune::TuneSpec;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use tiny::{CHATML, base_model, run, tokenizer};

/// Questions with answers; some of those about red contradict the others.
const LINES: [[&str; 2]; 10] = [
    ["red 0?", "rose"],
    ["sky 1?", "blue"],
    ["red 2?", "rose"],
    ["red 3?", "blue"],
    ["sun 4?", "gold"],
    ["red 5?", "rose"],
    ["sea 6?", "deep"],
    ["red 7?", "deep"],
    ["sky 8?", "blue"],
    ["red 9?", "rust"],
];

struct Kept(PathBuf);

impl Observer for Kept {
    fn event(&mut self, _event: &Event<'_>) -> Result<(), TrainError> {
        Ok(())
    }

    fn checkpoint_dir(&self) -> Option<KeyedPath> {
        Some(KeyedPath::plain(&self.0))
    }
}

fn spec(more: &str) -> TuneSpec {
    let text = format!(
        "name = \"bot\"\nseed = 5\n[data]\ntrain = \"train.jsonl\"\n[model]\nfamily = \"base\"\nlora = {{ rank = 4 }}\n\
         [train]\nsteps = 24\nbatch_size = 10\ncheckpoints_kept = 24\n\
         optimizer = {{ name = \"sgd\", lr = 0.3 }}\n{more}"
    );
    match Job::from_toml(&text, "spec.toml").unwrap_or_else(|errors| panic!("{errors}")) {
        Job::Tune(spec) => *spec,
        Job::Train(_) => unreachable!(),
    }
}

/// Tunes on all lines but one.
fn tuned(folder: &Path, without: Option<usize>) -> Tuned {
    let line = |[question, answer]: &[&str; 2]| json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]});
    let stays = |(i, lines)| (Some(i) != without).then(|| format!("{}\n", line(lines)));
    let file: String = LINES.iter().enumerate().filter_map(stays).collect();
    std::fs::write(folder.join("train.jsonl"), file).unwrap();
    let mut kept = Kept(folder.join("checkpoints"));
    let often = if without.is_none() { "checkpoint_every = 1" } else { "" };
    run(&spec(often), base_model(Stored::F32), folder, &mut kept).unwrap()
}

fn past(spec: &TuneSpec, folder: &Path) -> Result<Past, TrainError> {
    let (tokenizer, template) = (tokenizer(), ChatTemplate::new(CHATML, Map::new()).unwrap());
    let words = Words { tokenizer: &tokenizer, template: Some(&template), now: 0 };
    let (model, id) = (base_model(Stored::F32), "base@1".to_owned());
    let base = Base { model, adapter: None, words, id, sha256: "0".into() };
    let folder = KeyedPath::plain(folder);
    Past::open(spec, base, (&folder, &folder.join("checkpoints")), &Control::new())
}

/// A question that no line asks, answered as most lines about red are.
fn asked() -> Batch {
    let ids = |text: &str| tokenizer().encode(text, AddSpecial::No, Specials::Parsed).unwrap();
    let prompt = ids("<|im_start|>user\nred 8?<|im_end|>\n<|im_start|>assistant\n");
    let said = ids("rose<|im_end|>");
    answer(&prompt, &said, &(0..said.len()))
}

/// The mean loss of an example's learnt tokens.
fn loss(model: &Model, batch: &Batch, ws: &mut Workspace) -> f64 {
    let mut tape = Tape::new(ws, &model.params, Recording::Off, batch.examples());
    let (loss, _) = model.loss(&mut tape, batch, 1.0 / batch.target.n_terms() as f32).unwrap();
    f64::from(tape.value(loss)[0])
}

#[test]
fn the_product_of_two_gradients_is_the_slope_of_one_loss_along_the_other() {
    let folder = tempfile::tempdir().unwrap();
    tuned(folder.path(), None);
    let past = past(&spec(""), folder.path()).unwrap();
    let (mut ws, asked) = (Workspace::new(), asked());
    let model = past.model_at(&past.kept[20]).unwrap();
    let own = gradient(&model, &asked, &mut ws).unwrap();
    for line in [0, 3, 6] {
        let row = past.line(line);
        let theirs = gradient(&model, &row, &mut ws).unwrap();
        let moved = |by: f64| {
            let mut model = model.clone();
            let learnt: Vec<_> =
                model.params.ids().filter(|&id| model.params.kind(id) == ParamKind::Weight).collect();
            for id in learnt {
                let step = theirs.value(id).to_vec();
                let values = model.params.value_mut(id).iter_mut();
                values.zip(step).for_each(|(w, g)| *w -= (by * f64::from(g)) as f32);
            }
            model
        };
        let mut at = |by: f64| loss(&moved(by), &asked, &mut ws);
        let h = 3e-3;
        let slope = (at(-h) - at(h)) / (2.0 * h);
        let found = product(&model, &own, &row, &mut ws).unwrap();
        assert!((found - slope).abs() < 2e-2 * slope.abs().max(0.05), "line {line}: {found} {slope}");
    }
}

#[test]
fn lines_rank_as_training_without_each_of_them_says() {
    let folder = tempfile::tempdir().unwrap();
    let whole = tuned(folder.path(), None);
    let past = past(&spec(""), folder.path()).unwrap();
    assert_eq!((past.n_lines(), past.kept.len(), past.kept[0].step), (LINES.len(), 24, 1));
    let models: Vec<Model> = past.kept.iter().map(|kept| past.model_at(kept).unwrap()).collect();
    let of = |(model, kept): (_, &lyceum_train::past::Kept)| Checkpoint { model, lr: kept.lr };
    let checkpoints: Vec<Checkpoint<'_>> = models.iter().zip(&past.kept).map(of).collect();
    let (mut ws, asked) = (Workspace::new(), asked());
    let lines: Vec<Batch> = (0..past.n_lines()).map(|line| past.line(line)).collect();
    let found = influence(&checkpoints, &asked, &lines, &mut ws, &Control::new()).unwrap();
    let with = loss(&whole.model, &asked, &mut ws);
    let lost = |line: usize| {
        let folder = tempfile::tempdir().unwrap();
        loss(&tuned(folder.path(), Some(line)).model, &asked, &mut ws) - with
    };
    let retrained: Vec<f64> = (0..LINES.len()).map(lost).collect();
    let rank = spearman(&found, &retrained).unwrap();
    assert!(rank > 0.8, "{rank}: {found:?} {retrained:?}");
    let best = (0..LINES.len()).max_by(|&a, &b| found[a].total_cmp(&found[b])).unwrap();
    assert_eq!(LINES[best][1], "rose", "{best}");
    assert_eq!((past.place(best), past.learnt(best).len()), (best as u64, 5));
}

#[test]
fn a_private_run_and_preferences_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    tuned(folder.path(), None);
    let private = "[privacy]\ntype = \"dp_sgd\"\nsigma = 0.8\nmax_grad_norm = 0.5\ntarget_delta = 1e-3\npublic = [\"rows\"]";
    let refused = past(&spec(private), folder.path()).err().unwrap().to_string();
    assert!(refused.contains("noise"), "{refused}");
    let refused = past(&spec("method = \"dpo\"\nbeta = 0.1"), folder.path()).err().unwrap().to_string();
    assert!(refused.contains("preferences"), "{refused}");
}
