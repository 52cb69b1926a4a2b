//! A server over a folder with an encrypted project, and the search for what must be in no byte of it.

use crate::program::{
    self,
    server::{SERVE, Server},
};
use lyceum_store::vault::MasterKey;
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stands in every text of the sealed project.
pub const CANARY: &str = "kanarienvogel";

pub fn lyceum(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = program::command(folder, arguments);
    command.env("TMPDIR", folder.join("tmp"));
    if folder.join("master.key").exists() {
        command.env("LYCEUM_MASTER_KEY_FILE", folder.join("master.key"));
    }
    command
}

#[track_caller]
pub fn run(folder: &Path, arguments: &[&str]) -> Value {
    let output = lyceum(folder, arguments).arg("--json").output().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {complained}");
    said.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap_or(Value::Null))
}

/// A server over the folder; what it says goes to `said` in it. `key`: none at the first start, which prints one.
pub fn serve(folder: &Path, key: Option<String>) -> Server {
    Server::start_telling(lyceum(folder, &SERVE), &folder.join("said"), key)
}

pub fn text_of(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("{key}: {value}")).to_owned()
}

/// Every file below a folder whose bytes contain one of the needles. What goes away meanwhile is no file.
pub fn found(folder: &Path, needles: &[Vec<u8>]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        assert!(!path.to_string_lossy().contains(CANARY), "{path:?}");
        if path.is_dir() {
            found.extend(self::found(&path, needles));
            continue;
        }
        if has(&std::fs::read(&path).unwrap_or_default(), needles) {
            found.push(path);
        }
    }
    found
}

/// Whether one of the needles is in these bytes; each is looked for where its first bytes are.
pub fn has(bytes: &[u8], needles: &[Vec<u8>]) -> bool {
    let mut of: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
    needles.iter().for_each(|needle| of.entry(&needle[..4]).or_default().push(needle));
    (0..bytes.len().saturating_sub(4)).any(|at| {
        let there = of.get(&bytes[at..at + 4]);
        there.is_some_and(|needles| needles.iter().any(|needle| bytes[at..].starts_with(needle)))
    })
}

/// Pieces of weights that are nowhere else.
pub fn pieces(weights: &[u8]) -> Vec<Vec<u8>> {
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let data = &weights[header..];
    let has_numbers = |piece: &&[u8]| piece.iter().filter(|byte| **byte != 0).count() > 20;
    let pieces: Vec<Vec<u8>> =
        data.chunks_exact(32).filter(has_numbers).step_by(3).map(<[u8]>::to_vec).collect();
    assert!(!pieces.is_empty());
    pieces
}

pub fn project(id: &str) -> Project {
    Project { tenant: "default".into(), id: id.into() }
}

pub fn with_store<T>(folder: &Path, work: impl AsyncFnOnce(Store) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(Layout::new(folder.join("data")), Timestamp::now()).await.unwrap();
        work(store.unlocked(MasterKey::read(&folder.join("master.key")).unwrap())).await
    })
}
