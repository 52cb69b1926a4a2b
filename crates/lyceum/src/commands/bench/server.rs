//! Servers that a benchmark starts on loopback and ends: this program with one imported model, and llama.cpp's.

use super::http::Target;
use crate::config::{CONFIG_VARIABLE, CPU_VARIABLE};
use crate::failure::{Exit, Failure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The name under which a model is imported.
pub const MODEL: &str = "bench";
/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(180);
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// A process that listens; it ends with this value.
pub struct Server {
    child: Child,
    pub target: Target,
    /// What it says goes on being taken: a program whose output is closed ends.
    _output: Option<BufReader<ChildStdout>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both may fail when it is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A data folder, with one imported model or none; it goes with this value.
pub struct House {
    folder: PathBuf,
    key: String,
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl House {
    /// Imports a file or folder of a model.
    pub fn with(model: &Path) -> Result<Self, Failure> {
        let house = Self::empty()?;
        let model = std::path::absolute(model).map_err(|error| Failure::file("find", model, &error))?;
        let done = house.command()?.arg("import").arg(model).args(["--name", MODEL]).output();
        let done = done.map_err(|error| Failure::file("run", Path::new("lyceum import"), &error))?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(failed("the model could not be imported", &why));
        }
        Ok(house)
    }

    /// A data folder with a key and nothing else.
    pub fn empty() -> Result<Self, Failure> {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("lyceum-bench-house-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
        let mut house = House { folder, key: String::new() };
        let key = ["keys", "create", "--name", "bench", "--scope", "admin", "--json"];
        let done = house.command()?.args(key).output().map_err(|error| cannot(&error))?;
        let made: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        let secret = made["key"].as_str().ok_or_else(|| failed("no key was made", &made.to_string()))?;
        house.key = secret.to_owned();
        Ok(house)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Serves its model; with what `serve` is told beyond the defaults.
    pub fn serve(&self, arguments: &[&str]) -> Result<Server, Failure> {
        let mut command = self.command()?;
        command.args(["serve", "--port", "0", "--json"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| cannot(&error))?;
        let stdout = child.stdout.take().ok_or_else(|| failed("no server", "its output is gone"))?;
        let target = Target { address: String::new(), key: None };
        let mut server = Server { child, target, _output: None };
        let (mut output, mut line) = (BufReader::new(stdout), String::new());
        while output.read_line(&mut line).map_err(|error| cannot(&error))? > 0 {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            line.clear();
            if let Some(url) = event["url"].as_str() {
                server.target = Target::of_url(url, Some(self.key.clone()))?;
                server._output = Some(output);
                return Ok(server);
            }
        }
        Err(failed("the server ended before it listened", "its errors stand above"))
    }

    /// This program in the house: nothing that is configured for the user's own server reaches it, least of all where that
    /// is and its key.
    fn command(&self) -> Result<Command, Failure> {
        let program = std::env::current_exe().map_err(|error| cannot(&error))?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LYCEUM_") && name != CPU_VARIABLE {
                command.env_remove(name);
            }
        }
        command.current_dir(&self.folder).env(CONFIG_VARIABLE, self.folder.join("config.toml"));
        command.arg("--data-dir").arg(&self.folder);
        command.args(["--threads", &lyceum_kernels::pool::threads().to_string()]);
        Ok(command)
    }
}

impl Server {
    /// llama.cpp's server with `slots` places of `context` tokens each.
    pub fn llama(program: &Path, model: &Path, slots: usize, context: usize) -> Result<Self, Failure> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(|error| cannot(&error))?.port();
        let threads = lyceum_kernels::pool::threads().to_string();
        let child = Command::new(program)
            .arg("-m")
            .arg(model)
            .args(["-t", &threads, "-tb", &threads, "-fa", "on", "--no-webui", "--host", "127.0.0.1"])
            .args(["-np", &slots.to_string(), "-c", &(slots * context).to_string()])
            .args(["--port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Failure::file("run", program, &error))?;
        let target = Target { address: format!("127.0.0.1:{port}"), key: None };
        Ok(Server { child, target, _output: None })
    }

    /// Waits until it says that it is well.
    pub async fn ready(&self) -> Result<(), Failure> {
        self.says("/health").await
    }

    /// Waits until it has tried whatever models it has.
    pub async fn ready_for_models(&self) -> Result<(), Failure> {
        self.says("/ready").await
    }

    async fn says(&self, path: &str) -> Result<(), Failure> {
        let began = Instant::now();
        while began.elapsed() < START {
            if self.target.get(path).await.is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(failed("the server does not start", &format!("nothing within {} s", START.as_secs())))
    }

    /// The most memory that its process had.
    pub fn peak_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

fn cannot(error: &std::io::Error) -> Failure {
    failed("a server cannot be started", &error.to_string())
}

fn failed(message: &str, why: &str) -> Failure {
    Failure::new(Exit::Failed, "server_failed", message, why, "run it by hand and see what it says")
}
