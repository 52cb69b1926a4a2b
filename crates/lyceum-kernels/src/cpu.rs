//! Which instructions this processor has, and which of them we use.
//!
//! The path is chosen once from what the processor reports and can be forced by
//! `LYCEUM_CPU=amx|avx512|avx2|portable` or, in tests, by [`with_path`]. A kernel resolves the path on the
//! calling thread before it hands work to the pool, so that one call never mixes paths.

use std::cell::Cell;
use std::sync::OnceLock;

/// An instruction set for which every kernel has an implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuPath {
    /// Plain Rust: the reference.
    Portable,
    /// 256-bit lanes with fused multiply-add.
    Avx2,
    /// 512-bit lanes (F, BW, DQ, VL).
    Avx512,
    /// The same, and products of bf16 and of bytes in tiles of 16 by 16 ([`crate::amx`]); exact f32 products are those of
    /// [`CpuPath::Avx512`].
    Amx,
}

/// All paths, slowest first.
const ALL: [CpuPath; 4] = [CpuPath::Portable, CpuPath::Avx2, CpuPath::Avx512, CpuPath::Amx];

impl CpuPath {
    /// The name that `LYCEUM_CPU` takes.
    pub fn name(self) -> &'static str {
        match self {
            CpuPath::Portable => "portable",
            CpuPath::Avx2 => "avx2",
            CpuPath::Avx512 => "avx512",
            CpuPath::Amx => "amx",
        }
    }

    /// Whether lanes have 512 bits.
    pub fn is_512(self) -> bool {
        matches!(self, CpuPath::Avx512 | CpuPath::Amx)
    }
}

/// `LYCEUM_CPU` asks for something that cannot be had. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuError(String);

impl std::fmt::Display for CpuError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for CpuError {}

/// The paths that this processor can run, slowest first.
pub fn available() -> &'static [CpuPath] {
    static PATHS: OnceLock<Vec<CpuPath>> = OnceLock::new();
    PATHS.get_or_init(|| {
        let mut paths = vec![CpuPath::Portable];
        if has_avx2() {
            paths.push(CpuPath::Avx2);
        }
        if has_avx512() {
            paths.push(CpuPath::Avx512);
        }
        if has_amx() {
            paths.push(CpuPath::Amx);
        }
        paths
    })
}

/// Whether products of bf16 numbers are an instruction here (AVX512_BF16); elsewhere they are computed in
/// f32 from rounded inputs, which is right but not faster than f32.
pub fn has_bf16() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            has_avx512() && is_x86_feature_detected!("avx512bf16")
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    })
}

/// Reads `LYCEUM_CPU`; the binary calls this first, so that a typing error is an error and not a fallback.
pub fn check_env() -> Result<CpuPath, CpuError> {
    let best = *available().last().expect("portable is always there: bug");
    let Some(asked) = std::env::var_os("LYCEUM_CPU") else { return Ok(best) };
    let asked = asked.to_string_lossy().to_lowercase();
    let Some(path) = ALL.into_iter().find(|p| p.name() == asked) else {
        return Err(CpuError(format!("LYCEUM_CPU: \"{asked}\" is not one of amx, avx512, avx2, portable")));
    };
    if !available().contains(&path) {
        return Err(CpuError(format!(
            "LYCEUM_CPU: this processor has no {asked}; best here: {}",
            best.name()
        )));
    }
    Ok(path)
}

thread_local! {
    static FORCED: Cell<Option<CpuPath>> = const { Cell::new(None) };
}

/// The path that kernels called from this thread take.
///
/// # Panics
/// When `LYCEUM_CPU` names a path that is unknown or absent (see [`check_env`]).
pub fn path() -> CpuPath {
    static DEFAULT: OnceLock<CpuPath> = OnceLock::new();
    FORCED.get().unwrap_or_else(|| *DEFAULT.get_or_init(|| check_env().unwrap_or_else(|e| panic!("{e}"))))
}

/// Runs `f` with the kernels of this thread forced onto `path`.
///
/// # Panics
/// When the processor does not have `path`.
pub fn with_path<R>(path: CpuPath, f: impl FnOnce() -> R) -> R {
    assert!(available().contains(&path), "this processor has no {}", path.name());
    struct Restore(Option<CpuPath>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    let _restore = Restore(FORCED.replace(Some(path)));
    f()
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// Tiles of bytes and bf16, with what the same products of few rows need; asked of the system once.
#[cfg(target_arch = "x86_64")]
fn has_amx() -> bool {
    has_bf16()
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("f16c")
        && crate::amx::is_granted()
}

#[cfg(not(target_arch = "x86_64"))]
fn has_amx() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_path_ends_with_its_scope() {
        let before = path();
        with_path(CpuPath::Portable, || assert_eq!(path(), CpuPath::Portable));
        assert_eq!(path(), before);
    }
}
