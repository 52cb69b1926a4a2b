//! Checks of the repository itself. They run as tests (`cargo test -p xtask`) and by hand
//! (`cargo run -p xtask`), which prints what it looked at.

#![forbid(unsafe_code)]

mod tidy;

fn main() -> std::process::ExitCode {
    let problems = tidy::problems();
    for problem in &problems {
        eprintln!("{problem}");
    }
    eprintln!("tidy: {} problems", problems.len());
    if problems.is_empty() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
