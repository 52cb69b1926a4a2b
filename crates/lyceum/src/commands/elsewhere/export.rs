//! `export` of a server's model: the archive that it makes becomes the folder that the command makes where the data is.

use crate::commands::export::{Export, Told, told, whole, write};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::{Client, path_of};
use lyceum_types::ids::ModelRef;
use std::io::{self, Read};
use std::path::Path;

impl Export {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let _: ModelRef = self.model.parse()?;
        // The version that the name means now, so that what is told is what comes.
        let model = client.get(&format!("/v1/models/{}", path_of(&self.model)))?;
        let text = |field: &str| model[field].as_str().unwrap_or_default();
        let id = text("root");
        let target = self.target(id)?;
        let asked = self.format.map_or_else(String::new, |format| format!("?format={}", format.as_str()));
        let archive = client.archive(&format!("/v1/models/{}/export{asked}", path_of(id)))?;
        // NAME-VERSION.FORMAT.tar
        let name = archive.name.strip_suffix(".tar").unwrap_or(&archive.name);
        let format = name.rsplit('.').next().unwrap_or_default().to_owned();
        whole(&target, |partial| unpack(archive.n_bytes, archive.body, partial))?;
        told(context, &target, &Told { id, format: &format, sha256: text("sha256") });
        Ok(())
    }
}

/// Writes the files of an archive, which must have come to its end.
fn unpack(n_bytes: Option<u64>, body: impl Read, folder: &Path) -> Result<(), Failure> {
    let mut body = Counted { body, n: 0 };
    let mut archive = tar::Archive::new(&mut body);
    for entry in archive.entries().map_err(|error| broken(&error))? {
        let mut entry = entry.map_err(|error| broken(&error))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.');
        let is_name = !name.contains(['\\', ':', '\0']) && name.split('/').all(is_plain);
        if !is_name || entry.header().entry_type() != tar::EntryType::Regular {
            let why = format!("{name:?} is no name of a model's file");
            return Err(broken(&io::Error::other(why)));
        }
        write(folder, &name, |out| io::copy(&mut entry, out).map(drop))?;
    }
    io::copy(&mut body, &mut io::sink()).map_err(|error| broken(&error))?;
    match n_bytes {
        Some(n_bytes) if n_bytes == body.n => Ok(()),
        _ => Err(broken(&io::Error::from(io::ErrorKind::UnexpectedEof))),
    }
}

fn broken(error: &io::Error) -> Failure {
    let (message, fix) = ("the export broke off", "try again; the server's log says more");
    Failure::new(Exit::Failed, "export_broken", message, error.to_string(), fix)
}

/// Knows how much was read.
struct Counted<R> {
    body: R,
    n: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(into)?;
        self.n += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &str) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(3);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(b"abc");
        bytes.resize(2048, 0);
        bytes
    }

    #[test]
    fn an_archive_that_is_cut_short_or_leads_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = archive("a/b.txt");
        unpack(Some(2048), bytes.as_slice(), folder.path()).unwrap();
        assert_eq!(std::fs::read(folder.path().join("a/b.txt")).unwrap(), b"abc");
        for cut in [513, 1024, 1536] {
            assert!(unpack(Some(2048), &bytes[..cut], folder.path()).is_err(), "{cut}");
        }
        for name in ["../x", "/x", "a/../x", ".x", "a//x", "C:x"] {
            let bytes = archive(name);
            assert!(unpack(Some(2048), bytes.as_slice(), folder.path()).is_err(), "{name}");
        }
    }
}
