//! Folders of pictures or sounds, a subfolder a class; and manifests, tables with a `path` column.

use super::report::{DataError, Issue, Report, io, one};
use super::source::{At, Entry, Files, Media};
use super::table::Table;
use lyceum_models::prepare::tabular::{Cell, category};
use lyceum_types::control::Control;
use std::path::{Component, Path, PathBuf};

/// A folder: its subfolders are the classes; without subfolders its files are examples without a class.
pub(crate) fn read(
    path: &Path,
    shown: &str,
    control: &Control,
    report: &mut Report,
) -> Result<Files, DataError> {
    let (folders, loose) = list(path)?;
    let mut found: Vec<(Media, Entry)> = Vec::new();
    for folder in &folders {
        control.check()?;
        let class = name_of(folder);
        let before = found.len();
        for file in list(folder)?.1 {
            let place = format!("{shown}/{class}/{}", name_of(&file));
            keep(At::Path(file), place, &class, &mut found, report);
        }
        if found.len() == before {
            report.push(Issue::new(
                &format!("{shown}/{class}"),
                "empty_class",
                "the folder of this class has no pictures and no sounds",
                "put files into it, or remove the folder",
            ));
        }
    }
    if folders.is_empty() {
        for file in loose {
            let place = format!("{shown}/{}", name_of(&file));
            keep(At::Path(file), place, "", &mut found, report);
        }
    }
    of_one_medium(found, shown, !folders.is_empty(), report)
}

/// What was found, which must be something and all of one kind.
pub(super) fn of_one_medium(
    found: Vec<(Media, Entry)>,
    shown: &str,
    labelled: bool,
    report: &mut Report,
) -> Result<Files, DataError> {
    let Some(&(media, _)) = found.first() else {
        if !report.is_empty() {
            return Err(DataError::Report(std::mem::take(report)));
        }
        return Err(one(Issue::new(
            shown,
            "empty_folder",
            "it has no pictures and no sounds",
            "make a subfolder a class and put png, jpeg, webp, gif or wav files into it",
        )));
    };
    if let Some((_, other)) = found.iter().find(|(other, _)| *other != media) {
        return Err(one(Issue::new(
            &other.shown,
            "mixed_media",
            "pictures and sounds stand together",
            "part them",
        )));
    }
    let entries = found.into_iter().map(|(_, entry)| entry).collect();
    Ok(Files { file: shown.to_owned(), media, entries, labelled })
}

/// A table with a `path` column, relative to the table's folder and below it, and the answers in `target`.
pub(crate) fn manifest(
    table: &Table,
    path: &Path,
    target: Option<&str>,
    media: Media,
    report: &mut Report,
) -> Files {
    let folder = path.parent().unwrap_or(Path::new(""));
    let column = table.column_index("path").expect("a manifest has a path column: bug");
    let target = table.column_index(target.unwrap_or("label"));
    let mut entries = Vec::with_capacity(table.rows());
    for row in 0..table.rows() {
        let file = match table.cell(row, column) {
            Cell::Text(file) if !file.trim().is_empty() => file.trim(),
            _ => {
                report.push(table.issue(row, column, "missing_value", "the path is missing", "write it"));
                continue;
            }
        };
        let is_below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(file).components().all(is_below) {
            report.push(table.issue(
                row,
                column,
                "file_outside",
                format!("{file:?} is not below the manifest's folder"),
                "name files below it: what lies elsewhere may be somebody else's",
            ));
            continue;
        }
        if !folder.join(file).is_file() {
            report.push(table.issue(
                row,
                column,
                "file_not_found",
                format!("there is no file {file:?}"),
                "check the path: it is relative to the manifest's folder",
            ));
            continue;
        }
        let label = target.map(|target| {
            category(table.cell(row, target)).unwrap_or_else(|| {
                report.push(table.issue(
                    row,
                    target,
                    "missing_target",
                    "the target is empty",
                    "fill it in, or remove the row",
                ));
                String::new()
            })
        });
        entries.push(Entry {
            at: At::Path(folder.join(file)),
            shown: file.to_owned(),
            label: label.unwrap_or_default(),
        });
    }
    Files { file: table.file.clone(), media, entries, labelled: target.is_some() }
}

/// What a file's name says that it is.
pub(super) fn media(name: &str) -> Option<Media> {
    let extension = Path::new(name).extension()?.to_string_lossy().to_lowercase();
    match &extension[..] {
        "png" | "jpg" | "jpeg" | "webp" | "gif" => Some(Media::Pictures),
        "wav" => Some(Media::Sounds),
        _ => None,
    }
}

/// Keeps a file by what its name says that it is.
pub(super) fn keep(at: At, shown: String, class: &str, found: &mut Vec<(Media, Entry)>, report: &mut Report) {
    let Some(media) = media(&shown) else {
        report.push(Issue::new(
            &shown,
            "unknown_file",
            "the file is neither a picture nor a sound",
            "remove it: png, jpeg, webp, gif and wav files are read",
        ));
        return;
    };
    found.push((media, Entry { at, shown, label: class.to_owned() }));
}

/// Subfolders and files by name; hidden ones are left out.
fn list(path: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|source| io(path, source))? {
        let entry = entry.map_err(|source| io(path, source))?.path();
        if !name_of(&entry).starts_with('.') {
            all.push(entry);
        }
    }
    all.sort();
    Ok(all.into_iter().partition(|path| path.is_dir()))
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
