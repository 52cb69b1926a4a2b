//! The bytes of a file that a project keeps, read at any place, sealed or not.

use crate::ProjectKey;
use crate::sealed::SealedFile;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Plain bytes, whatever lies on the disk.
#[derive(Debug)]
pub enum Contents {
    Plain(File),
    Sealed(Box<SealedFile>),
}

impl Contents {
    /// Of a file that is sealed by a key for a place, or plain.
    ///
    /// # Errors
    /// There is no such file, or it is not sealed by the key for this place ([`io::ErrorKind::InvalidData`]).
    pub fn open(path: &Path, key: Option<(&ProjectKey, &str)>) -> io::Result<Self> {
        let file = File::open(path)?;
        match key {
            None => Ok(Contents::Plain(file)),
            Some((key, place)) => Ok(Contents::Sealed(Box::new(SealedFile::open(file, key, place)?))),
        }
    }

    /// Reads from `at` on; fewer bytes than asked for are no end, none are.
    ///
    /// # Errors
    /// What reading says; bytes that were changed.
    pub fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Contents::Plain(file) => read_at(file, into, at),
            Contents::Sealed(sealed) => sealed.read_at(at, into),
        }
    }

    /// # Errors
    /// As [`read_at`](Self::read_at); the file ends before.
    pub fn read_exact_at(&self, mut at: u64, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            match self.read_at(at, into)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => (at, into) = (at + n as u64, &mut into[n..]),
            }
        }
        Ok(())
    }

    /// From the beginning.
    pub fn reader(&self) -> Reader<'_> {
        Reader { contents: self, at: 0 }
    }
}

/// Reads contents one after another.
#[derive(Debug)]
pub struct Reader<'a> {
    contents: &'a Contents,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.contents.read_at(self.at, into)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, at)
}

#[cfg(windows)]
fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, at)
}

pub(crate) fn read_exact_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        match read_at(file, &mut into[done..], at + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => done += n,
        }
    }
    Ok(())
}
