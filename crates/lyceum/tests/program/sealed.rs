//! A server over a folder with an encrypted project, and the search for what must be in no byte of it.

use crate::client::{Client, children_of};
use lyceum_store::vault::MasterKey;
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Stands in every text of the sealed project.
pub const CANARY: &str = "kanarienvogel";

pub fn lyceum(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.current_dir(folder).args(arguments).env("LYCEUM_DATA_DIR", folder.join("data"));
    command.env("LYCEUM_THREADS", "1").env("LYCEUM_CONFIG", folder.join("none.toml")).env("NO_COLOR", "1");
    command.env("TMPDIR", folder.join("tmp")).env_remove("LYCEUM_PYTHON");
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

pub struct Server {
    pub process: Child,
    pub client: Client,
}

impl Server {
    /// What it says goes to `said` in the folder.
    #[expect(clippy::zombie_processes, reason = "who gets it drops it")]
    pub fn start(folder: &Path) -> Self {
        let said = File::options().create(true).append(true).open(folder.join("said")).unwrap();
        let from = said.metadata().unwrap().len();
        let mut command = lyceum(folder, &["serve", "--port", "0", "--json"]);
        command.env("LYCEUM_LOG", "debug").stdout(said.try_clone().unwrap()).stderr(said);
        let process = command.spawn().unwrap();
        let begun = Instant::now();
        loop {
            let text = std::fs::read(folder.join("said")).unwrap();
            let lines = text[from as usize..].lines().map_while(Result::ok);
            let events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
            if let Some(event) = { events }.find(|event| event["event"] == "listening") {
                let address = event["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
                let key = event["key"].as_str().unwrap_or_default().to_owned();
                return Self { process, client: Client { address, key } };
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks until `done` says so.
    #[track_caller]
    pub fn wait(&self, path: &str, done: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let found = self.get(path);
            if done(&found) {
                return found;
            }
            let is_over = found["status"] == "failed" || found["status"] == "cancelled";
            assert!(!is_over && begun.elapsed() < Duration::from_secs(180), "{found}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process that works on a job.
    #[allow(dead_code, reason = "not every test looks for it")]
    pub fn worker(&self) -> u32 {
        let begun = Instant::now();
        loop {
            if let Some(&pid) = children_of(self.process.id()).first() {
                return pid;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no process works");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl std::ops::Deref for Server {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
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
