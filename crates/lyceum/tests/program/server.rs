//! A server that a test started, with its client. It ends when it is dropped.

use super::client::Client;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// What makes the program serve, on a free port, and say where as JSON.
pub const SERVE: [&str; 4] = ["serve", "--port", "0", "--json"];

pub struct Server {
    process: Child,
    pub url: String,
    pub client: Client,
    /// Held: a server that cannot write its lines ends.
    _stdout: Option<BufReader<ChildStdout>>,
}

impl Server {
    /// `command` serves, as [`SERVE`] says. `key`: none at the first start, which prints one.
    pub fn start(mut command: Command, key: Option<String>) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let (url, client) = place(&serde_json::from_str(&line).unwrap(), key);
        Self { process, url, client, _stdout: Some(stdout) }
    }

    /// As [`start`](Self::start); all that it says, debugging included, is added to the file `said`.
    #[expect(clippy::zombie_processes, reason = "who gets it drops it")]
    pub fn start_telling(mut command: Command, said: &Path, key: Option<String>) -> Self {
        let file = File::options().create(true).append(true).open(said).unwrap();
        let from = file.metadata().unwrap().len();
        command.env("LYCEUM_LOG", "debug").stdout(file.try_clone().unwrap()).stderr(file);
        let process = command.spawn().unwrap();
        let begun = Instant::now();
        loop {
            let text = std::fs::read(said).unwrap();
            let lines = text[from as usize..].lines().map_while(Result::ok);
            let events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
            if let Some(event) = { events }.find(|event| event["event"] == "listening") {
                let (url, client) = place(&event, key);
                return Self { process, url, client, _stdout: None };
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks for what is at `path` until `done` says so.
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
    #[cfg(target_os = "linux")]
    pub fn worker(&self) -> u32 {
        let begun = Instant::now();
        loop {
            if let Some(&pid) = self.children().first() {
                return pid;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no process works");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The processes that this one started.
    #[cfg(target_os = "linux")]
    pub fn children(&self) -> Vec<u32> {
        super::client::children_of(self.process.id())
    }

    /// Ends it with a signal, and waits for its end, which is a success where it was asked to end. Its key is for
    /// the next one.
    pub fn end(mut self, signal: &str) -> String {
        assert!(send(signal, self.process.id()), "it had ended already");
        let status = self.process.wait().unwrap();
        assert!(signal != "-INT" || status.success(), "{status}");
        std::mem::take(&mut self.client.key)
    }
}

/// Whether a process took a signal (`-INT`, `-9`).
pub fn send(signal: &str, process: u32) -> bool {
    Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success()
}

/// Where it listens, and a client that asks there without TLS.
fn place(listening: &Value, key: Option<String>) -> (String, Client) {
    let url = listening["url"].as_str().unwrap().to_owned();
    let address = url.split_once("://").unwrap().1.to_owned();
    let key = key.unwrap_or_else(|| listening["key"].as_str().unwrap().to_owned());
    (url, Client { address, key })
}

impl std::ops::Deref for Server {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            send("-INT", self.process.id());
            let _ = self.process.wait();
        }
    }
}
