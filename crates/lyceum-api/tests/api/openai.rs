//! Scripts of `examples/` that use the openai package for Python, where a Python has it.

use crate::client::Client;
use std::process::Command;

/// Runs a script with the client's address and key and the name of a model. What it said; None, and a word why, where
/// no Python has `needs` of the package.
pub async fn run(script: &str, needs: &str, client: &Client, model: &str) -> Option<String> {
    let python = std::env::var("LYCEUM_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_it =
        Command::new(&python).args(["-c", &format!("import openai; openai.OpenAI.{needs}")]).output();
    if !has_it.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no openai package with {needs} (LYCEUM_PYTHON names another)");
        return None;
    }
    let mut command = Command::new(&python);
    command.arg(format!("{}/../../examples/{script}", env!("CARGO_MANIFEST_DIR")));
    command.args([&format!("http://{}", client.address), client.key.as_deref().unwrap(), model]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    Some(said.into_owned())
}
