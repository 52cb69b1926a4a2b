//! What a run is trained on is known before it begins and told while it goes: its bill rests on it.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use lyceum_train::{Event, Observer, TrainError, Trained, data, quoted, train};
use lyceum_types::control::Control;
use lyceum_types::spec::Spec;
use std::path::Path;

#[derive(Default)]
struct Told {
    folds: u64,
    n_folds: u64,
    steps: Vec<u64>,
}

impl Observer for Told {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Fold { trained_rows, .. } => {
                self.folds += trained_rows;
                self.n_folds += 1;
            }
            Event::Step(step) => {
                let Trained::Rows(n) = step.trained else { panic!("rows were trained on") };
                self.steps.push(n);
            }
            _ => {}
        }
        Ok(())
    }

    fn checkpoint_dir(&self) -> Option<lyceum_seal::KeyedPath> {
        None
    }
}

/// What a checkpoint has is told before it is written, and whoever keeps that is asked to make it last.
struct Keeper {
    folder: std::path::PathBuf,
    n_told: usize,
    asked: Vec<(usize, usize)>,
}

impl Observer for Keeper {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Step(_) => self.n_told += 1,
            Event::Checkpoint { step, .. } => {
                let (n_told, _) = self.asked.last().unwrap();
                assert_eq!(*n_told as u64, *step, "asked behind the last step that it has");
            }
            _ => {}
        }
        Ok(())
    }

    fn checkpoint_dir(&self) -> Option<lyceum_seal::KeyedPath> {
        Some(lyceum_seal::KeyedPath::plain(&self.folder))
    }

    fn before_checkpoint(&mut self) -> Result<(), TrainError> {
        let there = lyceum_train::checkpoint::list(self.folder.as_path()).unwrap().len();
        self.asked.push((self.n_told, there));
        Ok(())
    }
}

#[test]
fn who_keeps_what_is_told_is_asked_before_each_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..20).map(|i| format!("{i},{}\n", if i % 3 == 0 { "a" } else { "b" })).collect();
    std::fs::write(folder.path().join("rows.csv"), format!("x,label\n{rows}")).unwrap();
    let text = "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"rows.csv\"\ntarget = \"label\"\n[model]\n\
                family = \"mlp\"\nhidden = [3]\n[train]\nsteps = 6\ncheckpoint_every = 2\ncheckpoints_kept = 9\n";
    let spec = Spec::from_toml(text, "spec.toml").unwrap_or_else(|errors| panic!("{errors}"));
    let mut keeper = Keeper { folder: folder.path().join("kept"), n_told: 0, asked: Vec::new() };
    train(&spec, folder.path(), &mut keeper, &Control::new()).unwrap();
    assert_eq!(keeper.asked, [(2, 0), (4, 1), (6, 2)]);
}

fn told(folder: &Path, data: &str, train_keys: &str) -> (Told, (u64, u64)) {
    let text = format!(
        "name = \"m\"\ntask = \"classification\"\nseed = 3\n[data]\ntrain = \"rows.csv\"\ntarget = \"label\"\n{data}\n\
         [model]\nfamily = \"mlp\"\nhidden = [3]\n[train]\n{train_keys}\n"
    );
    let spec = Spec::from_toml(&text, "spec.toml").unwrap_or_else(|errors| panic!("{errors}"));
    let control = Control::new();
    let mut seen = Told::default();
    train(&spec, folder, &mut seen, &control).unwrap();
    (seen, quoted(&spec, &data::load(&spec, folder, &control).unwrap()))
}

#[test]
fn the_quote_is_what_is_told_and_folds_stay_below_it() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..50).map(|i| format!("{i},{}\n", if i % 3 == 0 { "a" } else { "b" })).collect();
    std::fs::write(folder.path().join("rows.csv"), format!("x,label\n{rows}")).unwrap();
    let (seen, (steps, rows)) = told(folder.path(), "valid_fraction = 0.2", "epochs = 3\nbatch_size = 7");
    assert_eq!((steps, rows), (18, 120));
    assert_eq!(seen.steps[..7], [7, 14, 21, 28, 35, 40, 47], "the last batch of an epoch is short");
    assert_eq!((seen.steps.len(), seen.steps[17]), (18, 120));
    let (seen, (steps, rows)) = told(folder.path(), "", "steps = 4\nbatch_size = 7\naccumulate = 2");
    assert_eq!((steps, rows, seen.steps), (4, 50, vec![14, 28, 42, 50]));
    for keys in ["epochs = 2\nbatch_size = 8", "steps = 9\nbatch_size = 8"] {
        let (seen, (_, rows)) = told(folder.path(), "folds = 5", keys);
        let all = seen.folds + seen.steps.last().unwrap();
        assert!(seen.n_folds == 5 && all <= rows && all * 10 > rows * 7, "{all} of {rows}");
    }
}
