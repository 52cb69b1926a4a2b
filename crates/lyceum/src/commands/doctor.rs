//! `lyceum doctor`: what this machine has and whether the data folder works.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::Args;
use lyceum_kernels::cpu;
use lyceum_store::{keys, models};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Doctor {}

struct Check {
    name: &'static str,
    /// What was found, or what is wrong with its fix.
    found: Result<String, Failure>,
}

impl Doctor {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let checks = vec![
            Check { name: "processor", found: Ok(processor()) },
            Check { name: "arithmetic", found: arithmetic() },
            Check { name: "data folder", found: data_folder(context).await },
            Check { name: "writing", found: writing(context) },
            Check { name: "object store", found: object_store(context).await },
        ];
        if context.is_json() {
            let checks: Vec<Value> = checks.iter().map(line).collect();
            output::json_line(&json!({ "checks": checks, "version": env!("CARGO_PKG_VERSION") }));
        } else {
            let row = |check: &Check| {
                let (mark, text) = match &check.found {
                    Ok(text) => ("ok", text.clone()),
                    Err(failure) => ("wrong", format!("{}: {}", failure.message, failure.why)),
                };
                vec![check.name.to_owned(), mark.to_owned(), text]
            };
            output::table(&["check", "", "found"], &checks.iter().map(row).collect::<Vec<_>>());
        }
        checks.into_iter().find_map(|check| check.found.err()).map_or(Ok(()), Err)
    }
}

fn line(check: &Check) -> Value {
    match &check.found {
        Ok(text) => json!({ "name": check.name, "ok": true, "found": text }),
        Err(failure) => {
            json!({ "name": check.name, "ok": false, "found": failure.message, "fix": failure.fix })
        }
    }
}

fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let available: Vec<String> =
        cpu::available().iter().map(|path| format!("{path:?}").to_lowercase()).collect();
    let chosen = format!("{:?}", cpu::path()).to_lowercase();
    let bf16 = if cpu::has_bf16() { ", bf16 products" } else { "" };
    format!("{cores} cores; arithmetic by {chosen} (of {}){bf16}", available.join(", "))
}

/// A product whose answer is known, by every path that this processor has.
fn arithmetic() -> Result<String, Failure> {
    use lyceum_kernels::matmul::{Epilogue, Mat, Precision, Write, matmul};
    let n = 33;
    let a: Vec<f32> = (0..n * n).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
    let b: Vec<f32> = (0..n * n).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
    for &path in cpu::available() {
        let mut out = vec![0.0f32; n * n];
        cpu::with_path(path, || {
            let (a, b) = (Mat::new(&a, n, n), Mat::new(&b, n, n));
            matmul(a, b, &mut out, Write::Overwrite, Epilogue::default(), Precision::F32);
        });
        for row in 0..n {
            for column in 0..n {
                // Small whole numbers: every path must be exact.
                let exact: f32 = (0..n).map(|k| a[row * n + k] * b[k * n + column]).sum();
                if out[row * n + column] != exact {
                    let message = format!("the {path:?} path computes wrongly");
                    let fix = "set LYCEUM_CPU=portable, and check the machine's memory";
                    return Err(Failure::new(
                        Exit::Failed,
                        "arithmetic",
                        message,
                        "a known product differs",
                        fix,
                    ));
                }
            }
        }
    }
    Ok("every path gives the known product".into())
}

async fn data_folder(context: &Context) -> Result<String, Failure> {
    let store = context.store().await?;
    store.check().await?;
    let models = models::list(&store, &context.project).await?.len();
    let keys = keys::list(&store, &context.project).await?.len();
    Ok(format!("{}: {models} model versions, {keys} keys", context.config.data_dir.value.display()))
}

async fn object_store(context: &Context) -> Result<String, Failure> {
    let store = context.store().await?;
    let Some(blobs) = store.blobs() else { return Ok("none: bytes lie in the data folder".into()) };
    blobs.check().await?;
    Ok(format!("{}: an object was written, read back and removed", blobs.place()))
}

fn writing(context: &Context) -> Result<String, Failure> {
    let path = context.config.data_dir.value.join(format!(".doctor-{}", std::process::id()));
    let content = vec![7u8; 1 << 20];
    let result = std::fs::write(&path, &content).and_then(|()| std::fs::read(&path));
    let removed = std::fs::remove_file(&path);
    match result.and_then(|read| removed.map(|()| read)) {
        Ok(read) if read == content => Ok("a megabyte was written and read back".into()),
        Ok(_) => {
            let message = "what was written is not what was read";
            Err(Failure::new(
                Exit::Failed,
                "storage",
                message,
                "the disk or its driver is faulty",
                "check the disk",
            ))
        }
        Err(error) => Err(Failure::file("write to", &context.config.data_dir.value, &error)),
    }
}
