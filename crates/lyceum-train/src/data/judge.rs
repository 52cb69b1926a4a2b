//! What is not wrong but should be known: duplicates and overlap; and the hashes of the files.

use super::Loaded;
use super::dataset::{Dataset, Examples};
use super::report::{DataError, Warning, io};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;

/// sha256 of a file; of a folder, over the names and hashes of its files in order.
pub(crate) fn sha256(path: &KeyedPath, control: &Control) -> Result<String, DataError> {
    let digest =
        if path.is_dir() { folder_digest(path.path(), control)? } else { file_digest(path, control)? };
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn file_digest(path: &KeyedPath, control: &Control) -> Result<Vec<u8>, DataError> {
    let file = path.open().map_err(|source| io(path.path(), source))?;
    let mut file = file.reader();
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        control.check()?;
        match file.read(&mut buffer).map_err(|source| io(path.path(), source))? {
            0 => return Ok(hasher.finalize().to_vec()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn folder_digest(path: &Path, control: &Control) -> Result<Vec<u8>, DataError> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|source| io(path, source))? {
        entries.push(entry.map_err(|source| io(path, source))?.path());
    }
    entries.sort();
    let mut hasher = Sha256::new();
    for entry in entries {
        hasher.update(entry.file_name().unwrap_or_default().to_string_lossy().as_bytes());
        hasher.update([0]);
        hasher.update(if entry.is_dir() {
            folder_digest(&entry, control)?
        } else {
            file_digest(&KeyedPath::plain(&entry), control)?
        });
    }
    Ok(hasher.finalize().to_vec())
}

/// Adds the warnings that need the finished parts.
pub(crate) fn warn(loaded: &mut Loaded, control: &Control) -> Result<(), DataError> {
    if matches!(loaded.train.examples, Examples::Stream { .. }) {
        return Ok(());
    }
    let mut first: HashMap<u64, usize> = HashMap::new();
    let (mut n_duplicates, mut n_conflicts) = (0, 0);
    for i in 0..loaded.train.len() {
        control.check()?;
        match first.entry(input_hash(&loaded.train, i)) {
            std::collections::hash_map::Entry::Occupied(entry) => {
                n_duplicates += 1;
                let labels = loaded.train.labels();
                n_conflicts += usize::from(labels.is_some_and(|labels| labels[*entry.get()] != labels[i]));
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(i);
            }
        }
    }
    let n = loaded.train.len();
    if n_duplicates > 0 {
        loaded.warnings.push(Warning::new(
            "duplicates",
            format!("{n_duplicates} of {n} training rows repeat the inputs of an earlier one"),
            "remove repeated rows unless they are meant",
        ));
    }
    if n_conflicts > 0 {
        loaded.warnings.push(Warning::new(
            "conflicting_labels",
            format!("{n_conflicts} training rows repeat an earlier row's inputs under another label"),
            "no model can tell them apart: correct the labels or add a feature",
        ));
    }
    let seen: HashSet<u64> = first.into_keys().collect();
    for (role, set) in [("validation", &loaded.valid), ("test", &loaded.test)] {
        let Some(set) = set else { continue };
        let n_both = (0..set.len()).filter(|&i| seen.contains(&input_hash(set, i))).count();
        if n_both > 0 {
            loaded.warnings.push(Warning::new(
                "overlap",
                format!("{n_both} of {} {role} rows have the inputs of a training row", set.len()),
                "what was trained on measures memory: remove these rows from one of the parts",
            ));
        }
    }
    Ok(())
}

/// A hash of an example's inputs.
fn input_hash(set: &Dataset, i: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    match &set.examples {
        Examples::Dense { shape, data } => {
            let width: usize = shape.iter().product();
            data[i * width..(i + 1) * width].iter().for_each(|x| x.to_bits().hash(&mut hasher));
        }
        Examples::Tokens(ids) | Examples::Sequences { ids, .. } => ids.row(i).hash(&mut hasher),
        Examples::Pairs { source, .. } => source.row(i).hash(&mut hasher),
        Examples::Stream { .. } | Examples::Packed(_) => unreachable!("it has no rows of this kind: bug"),
    }
    hasher.finish()
}
