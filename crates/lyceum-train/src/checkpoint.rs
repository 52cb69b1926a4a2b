//! A run at rest: everything that the next step depends on, in a folder that is complete or absent.
//!
//! `step-N/` holds `model.safetensors`, `optimizer.safetensors`, `best.safetensors` where early stopping
//! has a best step, and `state.json`, written last, with the sha256 of the others. The folder is written
//! under another name, synced, and renamed.
//!
//! A private run's key lies beside them in `noise.json`, which only the owner of the process may read; it goes
//! when the run has ended ([`forget_noise`]).

use crate::data::Dataset;
use crate::error::TrainError;
use crate::optim::Optimizer;
use crate::private::Noise;
use crate::run::total_steps;
use crate::schedule::lr_at;
use lyceum_models::{Model, ModelShape};
use lyceum_nn::{Params, weights};
use lyceum_seal::KeyedPath;
use lyceum_types::spec::Spec;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Checkpoints that are kept where the spec does not say; older ones are removed after a newer one is complete.
pub const KEPT: usize = 2;

/// What training must remember beside weights and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps taken.
    pub step: u64,
    /// The loss of the last step, to compare when the run is resumed.
    pub last_loss: Option<f64>,
    pub early: EarlyState,
    /// Sum and number of losses since the last report.
    pub loss_sum: f64,
    pub loss_count: u64,
    /// Seconds that training took so far.
    pub seconds: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EarlyState {
    pub best: Option<f64>,
    pub best_step: u64,
    /// Evaluations since the best one.
    pub since_best: u64,
    pub stopped: bool,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    format_version: u32,
    /// Of the spec and the data; a checkpoint continues only the run that made it.
    run: String,
    progress: Progress,
    optimizer_steps: u64,
    sha256: BTreeMap<String, String>,
}

const FORMAT_VERSION: u32 = 1;

/// The state of a run, borrowed for writing.
pub struct Snapshot<'a> {
    pub params: &'a Params,
    pub optimizer: &'a Optimizer,
    pub best: Option<&'a Params>,
    pub progress: &'a Progress,
    /// The secret of a private run.
    pub noise: Option<&'a Noise>,
    /// How many checkpoints stay.
    pub kept: usize,
}

/// Writes `dir/step-N` and removes older ones beyond those that are kept.
pub fn write(dir: impl Into<KeyedPath>, run: &str, snapshot: &Snapshot<'_>) -> Result<KeyedPath, TrainError> {
    let parent = dir.into();
    let dir = parent.path();
    let name = format!("step-{:09}", snapshot.progress.step);
    let (temporary, target) = (dir.join(format!(".{name}.part")), dir.join(&name));
    let place = parent.join(&name);
    let io = |action: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |source| TrainError::Io { action, path, source }
    };
    let result = (|| {
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir_all(&temporary).map_err(io("create", &temporary))?;
        let mut files = vec![
            ("model.safetensors", weights::to_safetensors(snapshot.params)?),
            ("optimizer.safetensors", moments(snapshot.params, snapshot.optimizer)?),
        ];
        if let Some(best) = snapshot.best {
            files.push(("best.safetensors", weights::to_safetensors(best)?));
        }
        let sha256 = files.iter().map(|(name, bytes)| ((*name).to_owned(), digest(bytes))).collect();
        let state = StateFile {
            format_version: FORMAT_VERSION,
            run: run.to_owned(),
            progress: snapshot.progress.clone(),
            optimizer_steps: snapshot.optimizer.steps,
            sha256,
        };
        files.push(("state.json", serde_json::to_vec_pretty(&state).expect("a state is plain data: bug")));
        if let Some(noise) = snapshot.noise {
            files.push((NOISE, noise_file(noise)));
        }
        for (name, bytes) in &files {
            let path = temporary.join(name);
            let form = place.join(name).form(bytes).map_err(io("seal", &path))?;
            let mut file = create(&path, name).map_err(io("create", &path))?;
            file.write_all(&form).and_then(|()| file.sync_all()).map_err(io("write", &path))?;
        }
        if target.exists() {
            fs::remove_dir_all(&target).map_err(io("replace", &target))?;
        }
        fs::rename(&temporary, &target).map_err(io("rename to", &target))?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(io("sync", dir))
    })();
    if let Err(error) = result {
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    let mut all = list(&parent)?;
    all.truncate(all.len().saturating_sub(snapshot.kept.max(1)));
    for old in all {
        fs::remove_dir_all(old.path()).map_err(io("remove", old.path()))?;
    }
    Ok(place)
}

const NOISE: &str = "noise.json";

#[derive(Serialize, Deserialize)]
struct NoiseFile {
    /// In hexadecimal.
    key: String,
    sha256: String,
}

fn noise_file(noise: &Noise) -> Vec<u8> {
    let key: String = noise.key().iter().map(|b| format!("{b:02x}")).collect();
    let file = NoiseFile { sha256: digest(key.as_bytes()), key };
    serde_json::to_vec(&file).expect("a key is plain data: bug")
}

fn read_noise(place: &KeyedPath) -> Option<Noise> {
    let file: NoiseFile = serde_json::from_slice(&place.join(NOISE).read().ok()?).ok()?;
    if file.key.len() != 64 || file.sha256 != digest(file.key.as_bytes()) {
        return None;
    }
    let mut key = [0; 32];
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(file.key.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(Noise::from_key(key))
}

/// A new file; a secret is for its owner alone.
fn create(path: &Path, name: &str) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    if name == NOISE {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    options.open(path)
}

/// Removes the secrets of a private run that has ended: with them the noise could be taken away again.
pub fn forget_noise(dir: &KeyedPath) -> Result<(), TrainError> {
    for checkpoint in list(dir)? {
        let path = checkpoint.path().join(NOISE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let path = path.display().to_string();
                return Err(TrainError::Io { action: "cannot remove", path, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Complete checkpoints of a folder, oldest first; none when the folder does not exist.
pub fn list(dir: impl Into<KeyedPath>) -> Result<Vec<KeyedPath>, TrainError> {
    let dir = dir.into();
    let entries = match fs::read_dir(dir.path()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(TrainError::Io { action: "list", path: dir.display().to_string(), source });
        }
    };
    let mut found: Vec<String> = entries
        .filter_map(|e| e.ok().map(|e| e.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.starts_with("step-"))
        .filter(|name| dir.path().join(name).join("state.json").is_file())
        .collect();
    found.sort();
    Ok(found.iter().map(|name| dir.join(name)).collect())
}

/// A checkpoint that was read.
pub struct Restored {
    pub progress: Progress,
    pub best: Option<Params>,
    /// None where it was not a private run, or its end has been reached.
    pub noise: Option<Noise>,
}

/// Fills `params` and `optimizer` from a checkpoint of the same run.
///
/// # Errors
/// Where a file's hash is not the recorded one, or the checkpoint belongs to another spec or other data.
pub fn read(
    path: impl Into<KeyedPath>,
    run: &str,
    params: &mut Params,
    optimizer: &mut Optimizer,
) -> Result<Restored, TrainError> {
    let reader = Reader::open(path.into())?;
    let state = &reader.state;
    if state.run != run {
        return Err(reader.fail("was made by another spec or from other data".into()));
    }
    let verified = |name: &str| reader.verified(name);
    weights::load_safetensors(params, &verified("model.safetensors")?)?;
    restore_moments(params, optimizer, &verified("optimizer.safetensors")?)?;
    optimizer.steps = state.optimizer_steps;
    let best = if state.sha256.contains_key("best.safetensors") {
        let mut best = params.clone();
        weights::load_safetensors(&mut best, &verified("best.safetensors")?)?;
        Some(best)
    } else {
        None
    };
    Ok(Restored { noise: read_noise(&reader.place), progress: reader.state.progress, best })
}

/// The steps that had been taken at a checkpoint.
///
/// # Errors
/// A state that cannot be read.
pub fn step(path: impl Into<KeyedPath>) -> Result<u64, TrainError> {
    Ok(Reader::open(path.into())?.state.progress.step)
}

/// Fills `params` with those of a checkpoint of the same model; the steps that had been taken.
///
/// # Errors
/// Where a file is damaged, or is of another architecture.
pub fn parameters(path: impl Into<KeyedPath>, params: &mut Params) -> Result<u64, TrainError> {
    let reader = Reader::open(path.into())?;
    weights::load_safetensors(params, &reader.verified("model.safetensors")?)?;
    Ok(reader.state.progress.step)
}

/// The model as it was at one checkpoint.
pub struct Kept {
    /// Steps that had been taken.
    pub step: u64,
    /// The rate of the last of them.
    pub lr: f64,
    pub model: Model,
}

/// The models of all checkpoints of a run, oldest first: of a run that is over, which nothing continues.
///
/// # Errors
/// Where a file is damaged, or is of another architecture.
pub fn models(
    spec: &Spec,
    shape: &ModelShape,
    train: &Dataset,
    dir: impl Into<KeyedPath>,
) -> Result<Vec<Kept>, TrainError> {
    let total_steps = total_steps(&spec.train, spec.seed, train);
    let of = |place: KeyedPath| {
        let reader = Reader::open(place)?;
        let model = Model::load(&spec.model, shape, &reader.verified("model.safetensors")?)?;
        let step = reader.state.progress.step;
        let base = Optimizer::base_lr(&spec.train.optimizer);
        Ok(Kept { step, lr: lr_at(&spec.train.schedule, base, step.saturating_sub(1), total_steps), model })
    };
    list(dir)?.into_iter().map(of).collect()
}

/// A checkpoint whose state was read; its other files are checked when they are.
struct Reader {
    place: KeyedPath,
    state: StateFile,
}

impl Reader {
    fn open(place: KeyedPath) -> Result<Self, TrainError> {
        let fail = |problem: String| TrainError::Checkpoint { path: place.display().to_string(), problem };
        let bytes = place
            .join("state.json")
            .read()
            .map_err(|error| fail(format!("state.json cannot be read: {error}")))?;
        let state: StateFile = serde_json::from_slice(&bytes)
            .map_err(|error| fail(format!("state.json is damaged: {error}")))?;
        if state.format_version > FORMAT_VERSION {
            return Err(fail(format!("format {} is newer than this program knows", state.format_version)));
        }
        Ok(Reader { place, state })
    }

    fn fail(&self, problem: String) -> TrainError {
        TrainError::Checkpoint { path: self.place.display().to_string(), problem }
    }

    /// A file whose hash is the recorded one.
    fn verified(&self, name: &str) -> Result<Vec<u8>, TrainError> {
        let bytes = self
            .place
            .join(name)
            .read()
            .map_err(|error| self.fail(format!("{name} cannot be read: {error}")))?;
        match self.state.sha256.get(name) {
            Some(sha) if *sha == digest(&bytes) => Ok(bytes),
            _ => Err(self.fail(format!("{name} is damaged: its sha256 is not the recorded one"))),
        }
    }
}

/// sha256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn moments(params: &Params, optimizer: &Optimizer) -> Result<Vec<u8>, TrainError> {
    let mut tensors: Vec<(String, Vec<u8>)> = Vec::new();
    for (i, id) in params.ids().enumerate() {
        for (kind, state) in [("first", &optimizer.first[i]), ("second", &optimizer.second[i])] {
            if !state.is_empty() {
                let bytes = state.iter().flat_map(|x| x.to_le_bytes()).collect();
                tensors.push((format!("{kind}.{}", params.name(id)), bytes));
            }
        }
    }
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()
        .map_err(lyceum_nn::NnError::Safetensors)?;
    Ok(safetensors::serialize(views, None).map_err(lyceum_nn::NnError::Safetensors)?)
}

fn restore_moments(params: &Params, optimizer: &mut Optimizer, bytes: &[u8]) -> Result<(), TrainError> {
    let mut tensors = weights::read_safetensors(bytes)?;
    for (i, id) in params.ids().enumerate() {
        for (kind, state) in [("first", &mut optimizer.first[i]), ("second", &mut optimizer.second[i])] {
            let name = format!("{kind}.{}", params.name(id));
            if !state.is_empty() {
                let found = tensors.remove(&name).filter(|t| t.data.len() == state.len());
                let problem = "is missing or has another size".to_owned();
                *state = found.ok_or(lyceum_nn::NnError::Tensor { name, problem })?.data;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_nn::{Init, ParamKind};
    use lyceum_types::spec::OptimizerSpec;
    use rand::SeedableRng;

    fn sample() -> (Params, Optimizer) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut params = Params::new();
        params.add("w", &[3, 2], ParamKind::Weight, Init::Normal(1.0), &mut rng);
        let spec = OptimizerSpec::Adam { lr: 0.1, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
        let mut optimizer = Optimizer::new(&spec, &params);
        optimizer.first[0][1] = 0.5;
        optimizer.steps = 7;
        (params, optimizer)
    }

    #[test]
    fn what_was_written_is_read_and_two_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (params, optimizer) = sample();
        for step in [1, 2, 3] {
            let progress = Progress { step, ..Progress::default() };
            let snapshot = Snapshot {
                params: &params,
                optimizer: &optimizer,
                best: Some(&params),
                progress: &progress,
                noise: None,
                kept: KEPT,
            };
            write(dir.path(), "r", &snapshot).unwrap();
        }
        let found = list(dir.path()).unwrap();
        assert_eq!(found.len(), 2);
        let (mut p, _) = sample();
        p.value_mut(p.find("w").unwrap()).fill(0.0);
        let mut o = Optimizer::new(
            &OptimizerSpec::Adam { lr: 0.1, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 },
            &p,
        );
        let restored = read(&found[1], "r", &mut p, &mut o).unwrap();
        assert_eq!((restored.progress.step, o), (3, optimizer));
        assert_eq!(p.value(p.find("w").unwrap()), params.value(params.find("w").unwrap()));
    }

    #[test]
    fn a_flipped_byte_and_another_run_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (mut params, mut optimizer) = sample();
        let progress = Progress::default();
        let snapshot = Snapshot {
            params: &params,
            optimizer: &optimizer,
            best: None,
            progress: &progress,
            noise: None,
            kept: KEPT,
        };
        let path = write(dir.path(), "r", &snapshot).unwrap();
        let message = |r: Result<Restored, TrainError>| r.err().expect("it is refused").to_string();
        assert!(message(read(&path, "other", &mut params, &mut optimizer)).contains("another spec"));
        let file = path.path().join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
        let error = message(read(&path, "r", &mut params, &mut optimizer));
        assert!(error.contains("model.safetensors is damaged"), "{error}");
    }
}
