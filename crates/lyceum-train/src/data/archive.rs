//! Archives of pictures or sounds, a folder a class: `.zip`, `.tar`, `.tar.gz`, `.tgz`. Their files are read into memory and
//! lie nowhere else, so a project that is encrypted may bring one.
//!
//! An archive comes from anybody: files and bytes are bounded, names lead below the archive, links lead nowhere.

use super::folder;
use super::report::{DataError, Issue, Report, io, one};
use super::source::{At, Files, Media};
use super::table::Rows;
use flate2::read::GzDecoder;
use lyceum_models::prepare::{audio, vision};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::limits;
use std::io::{Cursor, Read};
use std::path::{Component, Path};
use std::sync::Arc;

/// How the names of archives end.
pub(super) const ENDINGS: [&str; 4] = [".zip", ".tar", ".tar.gz", ".tgz"];

/// A file of an archive: folders and name, and what it holds.
struct Member {
    path: Vec<String>,
    bytes: Arc<[u8]>,
}

/// What is taken out of an archive.
struct Unpacked<'a> {
    shown: &'a str,
    rows: Rows,
    members: Vec<Member>,
    n_bytes: u64,
    control: &'a Control,
    report: &'a mut Report,
}

/// Reads a whole archive.
///
/// # Errors
/// It cannot be read, or is more than the bounds; it has no pictures and no sounds.
pub(super) fn read(
    path: &KeyedPath,
    shown: &str,
    control: &Control,
    report: &mut Report,
) -> Result<Files, DataError> {
    let bytes = path.read().map_err(|source| io(path.path(), source))?;
    walk(&bytes, shown, Rows::Kept, control, report)
}

/// Reads an archive through. Where its rows pass, each picture and sound is looked into as it does.
pub(super) fn walk(
    bytes: &[u8],
    shown: &str,
    rows: Rows,
    control: &Control,
    report: &mut Report,
) -> Result<Files, DataError> {
    let mut unpacked = Unpacked { shown, rows, members: Vec::new(), n_bytes: 0, control, report };
    let name = shown.to_lowercase();
    match name.rsplit('.').next() {
        Some("zip") => unpacked.zip(bytes)?,
        Some("tar") => unpacked.tar(bytes)?,
        _ => unpacked.tar(GzDecoder::new(bytes))?,
    }
    unpacked.classes()
}

impl Unpacked<'_> {
    fn zip(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let shown = self.shown;
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| broken(shown, &error))?;
        for i in 0..archive.len() {
            let mut member = match archive.by_index(i) {
                Ok(member) => member,
                Err(error) => {
                    let place = format!("{shown}, file {}", i + 1);
                    self.report.push(unreadable(&place, &error));
                    continue;
                }
            };
            let name = member.name().map_err(|error| broken(shown, &error))?.replace('\\', "/");
            if !member.is_dir() {
                let is_link = member.is_symlink();
                self.take(&name, is_link, &mut member)?;
            }
        }
        Ok(())
    }

    fn tar(&mut self, bytes: impl Read) -> Result<(), DataError> {
        let shown = self.shown;
        let mut archive = tar::Archive::new(bytes);
        for member in archive.entries().map_err(|error| broken(shown, &error))? {
            let mut member = member.map_err(|error| broken(shown, &error))?;
            let kind = member.header().entry_type();
            if kind.is_dir() || kind.is_pax_global_extensions() {
                continue;
            }
            let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
            self.take(&name, !kind.is_file(), &mut member)?;
        }
        Ok(())
    }

    /// Takes one file; what is wrong with it alone goes to the report.
    fn take(&mut self, name: &str, is_link: bool, from: &mut impl Read) -> Result<(), DataError> {
        self.control.check()?;
        let place = format!("{}/{name}", self.shown);
        let mut path = Vec::new();
        for part in Path::new(name).components() {
            match part {
                Component::Normal(part) => path.push(part.to_string_lossy().into_owned()),
                Component::CurDir => {}
                _ => {
                    let message = "its name leads out of the archive";
                    self.report.push(Issue::new(&place, "file_outside", message, "write names below it"));
                    return Ok(());
                }
            }
        }
        if path.iter().any(|part| part.starts_with('.') || part == "__MACOSX") {
            return Ok(());
        }
        if is_link || path.is_empty() {
            let message = "it is a link, a device or without a name, and no file";
            self.report.push(Issue::new(
                &place,
                "not_a_file",
                message,
                "put the file itself into the archive",
            ));
            return Ok(());
        }
        if self.members.len() == limits::ARCHIVE_FILES_MAX {
            let message = format!("it has more than {} files", limits::ARCHIVE_FILES_MAX);
            return Err(one(Issue::new(self.shown, "too_many_files", message, "part it")));
        }
        let left = limits::ARCHIVE_BYTES_MAX - self.n_bytes;
        let mut bytes = Vec::new();
        if let Err(error) = from.take(left + 1).read_to_end(&mut bytes) {
            self.report.push(unreadable(&place, &error));
            return Ok(());
        }
        if bytes.len() as u64 > left {
            let message = format!("its files have more than {} bytes together", limits::ARCHIVE_BYTES_MAX);
            return Err(one(Issue::new(
                self.shown,
                "too_large",
                message,
                "part it, or make the pictures smaller",
            )));
        }
        self.n_bytes += bytes.len() as u64;
        if matches!(self.rows, Rows::Passing) {
            self.look_into(&place, &bytes);
            bytes.clear();
        }
        self.members.push(Member { path, bytes: bytes.into() });
        Ok(())
    }

    /// Whether a picture or a sound is what its name says.
    fn look_into(&mut self, place: &str, bytes: &[u8]) {
        let found = match folder::media(place) {
            Some(Media::Pictures) => vision::decode(bytes, 3, None).map(drop),
            Some(Media::Sounds) => audio::read_wav(bytes).map(drop),
            None => Ok(()),
        };
        if let Err(error) = found {
            self.report.push(Issue::new(place, error.code, error.message, error.fix));
        }
    }

    /// Files by their classes. A folder around all classes, which many tools write, is none.
    fn classes(mut self) -> Result<Files, DataError> {
        self.members.sort_by(|a, b| a.path.cmp(&b.path));
        for pair in self.members.windows(2).filter(|pair| pair[0].path == pair[1].path) {
            let place = format!("{}/{}", self.shown, pair[0].path.join("/"));
            self.report.push(Issue::new(&place, "duplicate_file", "it is there twice", "remove one"));
        }
        let around = self.members.first().map(|member| member.path[0].clone());
        let is_around = |member: &Member| member.path.len() > 2 && Some(&member.path[0]) == around.as_ref();
        let n_around = usize::from(self.members.iter().all(is_around));
        let labelled = self.members.iter().any(|member| member.path.len() > n_around + 1);
        let mut found = Vec::new();
        for Member { path, bytes } in self.members {
            let place = format!("{}/{}", self.shown, path.join("/"));
            match &path[n_around..] {
                [class, _] => folder::keep(At::Held(bytes), place, class, &mut found, self.report),
                [_] if !labelled => folder::keep(At::Held(bytes), place, "", &mut found, self.report),
                [_] => {
                    let message = "it stands beside the folders of the classes, and is of none";
                    self.report.push(Issue::new(
                        &place,
                        "no_class",
                        message,
                        "put it into one, or remove it",
                    ));
                }
                _ => {
                    let message = "it lies in a folder within that of a class";
                    self.report.push(Issue::new(
                        &place,
                        "too_deep",
                        message,
                        "put it into that of the class",
                    ));
                }
            }
        }
        folder::of_one_medium(found, self.shown, labelled, self.report)
    }
}

fn broken(shown: &str, error: &dyn std::fmt::Display) -> DataError {
    let message = format!("the archive cannot be read: {error}");
    one(Issue::new(
        shown,
        "broken_archive",
        message,
        "it is cut short, or of another kind than its name says: pack it again",
    ))
}

fn unreadable(place: &str, error: &dyn std::fmt::Display) -> Issue {
    Issue::new(
        place,
        "broken_file",
        format!("it cannot be unpacked: {error}"),
        "pack it again, without a password",
    )
}
