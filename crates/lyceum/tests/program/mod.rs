//! The program as a process of its own, in a test's folder.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// Runs it to its end, with JSON, over the data folder `d`.
pub fn lyceum(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.current_dir(folder).args(arguments).args(["--json", "--threads", "1", "--data-dir", "d"]);
    command.output().unwrap()
}

/// The last line that it told.
pub fn last(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or("null"))
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// Its exit status, and why it refused.
#[allow(dead_code, reason = "not every test is refused")]
pub fn refusal(output: &Output) -> (i32, Value) {
    let text = String::from_utf8_lossy(&output.stderr);
    let error: Value = serde_json::from_str(text.lines().last().unwrap_or("null")).unwrap();
    (output.status.code().unwrap(), error["error"].clone())
}
