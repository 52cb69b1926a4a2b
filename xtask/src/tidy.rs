//! The rules of the house that a compiler does not check: imports go down, mathematics does not know the
//! world, unsafe code lives in one crate, every file says what it is.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The floor of each crate; a crate imports strictly lower floors.
const FLOORS: [(&str, u8); 18] = [
    ("lyceum-types", 0),
    ("lyceum-kernels", 1),
    ("lyceum-privacy", 1),
    ("lyceum-language", 1),
    ("lyceum-guard", 1),
    ("lyceum-hub", 1),
    ("lyceum-seal", 1),
    ("lyceum-nn", 2),
    ("lyceum-models", 3),
    ("lyceum-train", 4),
    ("lyceum-explain", 4),
    ("lyceum-robust", 4),
    ("lyceum-engine", 4),
    ("lyceum-store", 4),
    ("lyceum-choose", 5),
    ("lyceum-service", 5),
    ("lyceum-api", 6),
    ("lyceum", 7),
];

/// Crates that may not know SQL, HTTP or an async runtime.
const MATHEMATICS: [&str; 11] = [
    "lyceum-kernels",
    "lyceum-privacy",
    "lyceum-guard",
    "lyceum-language",
    "lyceum-nn",
    "lyceum-models",
    "lyceum-train",
    "lyceum-explain",
    "lyceum-robust",
    "lyceum-engine",
    "lyceum-choose",
];
const WORLD: [&str; 8] = ["lyceum-store", "axum", "sqlx", "tokio", "tower", "tower-http", "hyper", "reqwest"];

/// The only crate with unsafe code.
const UNSAFE_CRATE: &str = "lyceum-kernels";

/// No source file is longer (a model or a table may come near it).
const FILE_LINES_MAX: usize = 800;

/// What must not be left in source code.
const LEFT_OVERS: [&str; 5] = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "FIXME"];

/// Something to mend.
#[derive(Debug)]
pub struct Problem {
    place: PathBuf,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place.display(), self.what)
    }
}

/// Everything that is wrong with the repository.
pub fn problems() -> Vec<Problem> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root: bug").to_owned();
    let mut problems = Vec::new();
    check_imports(&root, &mut problems);
    for file in sources(&root) {
        check_source(&root, &file, &mut problems);
    }
    problems
}

fn check_imports(root: &Path, problems: &mut Vec<Problem>) {
    let floor = |name: &str| FLOORS.iter().find(|(n, _)| *n == name).map(|(_, floor)| *floor);
    let Ok(folders) = fs::read_dir(root.join("crates")) else { return };
    for folder in folders.flatten().map(|entry| entry.path()) {
        let manifest = folder.join("Cargo.toml");
        let mut complain = |what: String| problems.push(Problem { place: manifest.clone(), what });
        let Ok(text) = fs::read_to_string(&manifest) else {
            complain("a folder of crates/ has no Cargo.toml".into());
            continue;
        };
        let document: toml::Table = match text.parse() {
            Ok(document) => document,
            Err(error) => {
                complain(error.to_string());
                continue;
            }
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(own) = floor(&name) else {
            complain(format!("{name} has no floor: give it one in xtask and in ARCHITECTURE.md"));
            continue;
        };
        let dependencies = document.get("dependencies").and_then(toml::Value::as_table);
        for dependency in dependencies.into_iter().flat_map(|table| table.keys()) {
            if floor(dependency).is_some_and(|theirs| theirs >= own) {
                complain(format!("imports {dependency}, which is not on a lower floor"));
            }
            if MATHEMATICS.contains(&name.as_str()) && WORLD.contains(&dependency.as_str()) {
                complain(format!("imports {dependency}: mathematics does not know the world"));
            }
        }
    }
}

fn check_source(root: &Path, file: &Path, problems: &mut Vec<Problem>) {
    let Ok(text) = fs::read_to_string(file) else { return };
    let place = file.strip_prefix(root).unwrap_or(file).to_owned();
    let mut complain = |what: String| problems.push(Problem { place: place.clone(), what });
    let n_lines = text.lines().count();
    if n_lines > FILE_LINES_MAX {
        complain(format!("{n_lines} lines: cut it into files that are one thing each"));
    }
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    // A tests.rs belongs to the file beside it, which says what it tests.
    if !first.starts_with("//!") && !place.ends_with("tests.rs") {
        complain("says nothing about itself: begin with a //! line".into());
    }
    // This file names what it looks for.
    if place.ends_with("tidy.rs") {
        return;
    }
    for left in LEFT_OVERS.iter().filter(|left| text.contains(**left)) {
        complain(format!("contains {left}"));
    }
    let crate_name = place.components().nth(1).map(|c| c.as_os_str().to_string_lossy().into_owned());
    let is_root = place.ends_with("src/lib.rs") || place.ends_with("src/main.rs");
    if crate_name.as_deref() == Some(UNSAFE_CRATE) {
        if text.contains("unsafe {") && !text.contains("SAFETY") {
            complain("has unsafe blocks and no SAFETY comment".into());
        }
    } else if is_root && !text.contains("#![forbid(unsafe_code)]") {
        complain("does not forbid unsafe code".into());
    }
}

/// Every Rust file below the root, build output aside.
fn sources(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_keeps_its_own_rules() {
        let problems = super::problems();
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(problems.is_empty(), "{}", text.join("\n"));
    }

    #[test]
    fn the_sources_are_found() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(super::sources(root).len() > 50);
    }
}
