//! The program as a process of its own, in a test's folder: its command, what it tells, a server and its client.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod client;
pub mod encoder;
pub mod server;

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// The program in this folder, over `data` in it; what a machine's own settings say does not reach it.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.current_dir(folder).args(arguments).env("LYCEUM_DATA_DIR", folder.join("data"));
    command.env("LYCEUM_THREADS", "1").env("LYCEUM_CONFIG", folder.join("none.toml")).env("NO_COLOR", "1");
    // A test's own; the program refuses variables that it does not know.
    command.env_remove("LYCEUM_PYTHON");
    command
}

/// Runs it to its end, with JSON.
pub fn lyceum(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).arg("--json").output().unwrap()
}

/// The last line that it told.
pub fn last(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or("null"))
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// The last line of a command that succeeded.
#[track_caller]
pub fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    last(output)
}

/// Its exit status, and why it refused.
pub fn refusal(output: &Output) -> (i32, Value) {
    let text = String::from_utf8_lossy(&output.stderr);
    let error: Value = serde_json::from_str(text.lines().last().unwrap_or("null")).unwrap();
    (output.status.code().unwrap(), error["error"].clone())
}

/// A table of `n` points between -1 and 1 in two columns, each with the label that `of` gives it.
pub fn points(n: usize, [x, y]: [&str; 2], of: impl Fn(f64, f64) -> &'static str) -> String {
    let row = |i: usize| {
        let (a, b) = ((i * 37 % 101) as f64 / 50.0 - 1.0, (i * 53 % 97) as f64 / 48.0 - 1.0);
        format!("{a},{b},{}\n", of(a, b))
    };
    format!("{x},{y},label\n{}", (0..n).map(row).collect::<String>())
}

/// The label of points that a line parts.
pub fn side(a: f64, b: f64) -> &'static str {
    if a + b > 0.1 { "above" } else { "below" }
}
