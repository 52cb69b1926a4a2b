//! The processor, whether it computes rightly, its memory, and what was configured for it.

use crate::config::{Config, Origin};
use crate::failure::{Exit, Failure};
use lyceum_kernels::cpu;

/// How much of the configuration somebody wrote.
pub fn configuration(config: &Config) -> String {
    let rows = config.rows();
    let n_set = rows.iter().filter(|(_, _, origin)| **origin != Origin::Default).count();
    format!("{n_set} of {} values are not the defaults; lyceum config show --origin", rows.len())
}

/// Which instructions there are, and which are used.
pub fn processor() -> Result<String, Failure> {
    let chosen = chosen()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let available: Vec<&str> = cpu::available().iter().map(|path| path.name()).collect();
    let bf16 = if cpu::has_bf16() { ", bf16 products" } else { "" };
    Ok(format!("{cores} cores; arithmetic by {} (of {}){bf16}", chosen.name(), available.join(", ")))
}

/// The path that `LYCEUM_CPU` asks for, or the best one.
pub fn chosen() -> Result<cpu::CpuPath, Failure> {
    cpu::check_env().map_err(|error| {
        let why = "nothing is computed by instructions that were not asked for";
        let fix = "unset LYCEUM_CPU, or set it to one that this processor has";
        let mut failure = Failure::new(Exit::Usage, "invalid_config", error.to_string(), why, fix);
        failure.place.key = Some("LYCEUM_CPU".into());
        failure
    })
}

/// A product whose answer is known, by every path that this processor has.
pub fn arithmetic() -> Result<String, Failure> {
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
                    let message = format!("the {} path computes wrongly", path.name());
                    let fix = "set LYCEUM_CPU=portable, and check the machine's memory";
                    let why = "a known product differs";
                    return Err(Failure::new(Exit::Failed, "arithmetic", message, why, fix));
                }
            }
        }
    }
    Ok("every path gives the known product".into())
}

/// Whether what was promised to models is there at all.
pub fn memory(config: &Config) -> Result<String, Failure> {
    let Some(total) = total_mib() else { return Ok("the system does not say how much there is".into()) };
    let serving = &config.serving;
    let kept = [
        ("kv_cache_mib", Some(serving.kv_cache_mib.value), &serving.kv_cache_mib.origin),
        ("models_mib", serving.models_mib.value, &serving.models_mib.origin),
    ];
    for (key, mib, origin) in kept {
        let Some(mib) = mib.filter(|&mib| mib > total) else { continue };
        let message = format!("{key} = {mib} ({origin}) is more than this machine's {total} MiB");
        let why = "a model that fills it would end the process";
        let fix = format!("set {key} to less than {total}");
        let mut failure = Failure::new(Exit::Usage, "invalid_config", message, why, fix);
        failure.place.key = Some(key.into());
        if let Origin::File(path, line) = origin {
            failure.place.file = Some(path.display().to_string());
            failure.place.line = Some(*line);
        }
        return Err(failure);
    }
    Ok(format!("{total} MiB; {} MiB for the keys and values of each model", serving.kv_cache_mib.value))
}

/// None where the system does not say.
fn total_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())?;
    Some(kib / 1024)
}
