//! A path with the key that seals what lies there.

use crate::{Contents, ProjectKey, sealed};
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// A file or folder whose bytes are plain, or sealed with one key. It is no path, so nobody opens what is sealed by
/// mistake: [`read`](Self::read), [`open`](Self::open) and [`write`](Self::write) give and take plain bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedPath {
    /// As it is called; the extension says the format.
    path: PathBuf,
    seal: Seal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seal {
    Plain,
    /// Every file is sealed for the name of this place and its own below it: what is moved does not open.
    Each {
        key: ProjectKey,
        name: String,
    },
    /// A folder of folders of one file: each lies under one name, whatever it is called, and is sealed for one place.
    Sole {
        key: ProjectKey,
        name: String,
        file: &'static str,
    },
    /// The key cannot be opened, and why.
    Closed(String),
}

impl KeyedPath {
    pub fn plain(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seal: Seal::Plain }
    }

    /// A folder, or a file, that is sealed under a name that stays when it is moved as a whole.
    pub fn sealed(path: impl Into<PathBuf>, key: ProjectKey, name: &str) -> Self {
        Self { path: path.into(), seal: Seal::Each { key, name: name.to_owned() } }
    }

    /// A folder of folders with one file each, which lies there as `file`, sealed for `name`.
    pub fn sole(path: impl Into<PathBuf>, key: ProjectKey, name: &str, file: &'static str) -> Self {
        Self { path: path.into(), seal: Seal::Sole { key, name: name.to_owned(), file } }
    }

    /// What cannot be read, and why.
    pub fn closed(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self { path: path.into(), seal: Seal::Closed(why.into()) }
    }

    /// What is below this folder.
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        let mut below = Self { path: self.path.join(name.as_ref()), seal: self.seal.clone() };
        if let Seal::Each { name: of, .. } = &mut below.seal {
            of.push('/');
            of.push_str(&name.as_ref().to_string_lossy().replace('\\', "/"));
        }
        below
    }

    /// Another file of the same folder, if it is there. Where files lie alone there is none.
    pub fn beside(&self, name: &str) -> Option<Self> {
        match &self.seal {
            Seal::Plain => Some(Self::plain(self.path.with_file_name(name))).filter(Self::exists),
            _ => None,
        }
    }

    /// As it is called: for messages, its extension and its name. Where its bytes are: [`lies`](Self::lies).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its bytes are, as they are.
    pub fn lies(&self) -> PathBuf {
        match &self.seal {
            Seal::Sole { file, .. } => self.path.with_file_name(file),
            _ => self.path.clone(),
        }
    }

    pub fn display(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    pub fn is_sealed(&self) -> bool {
        !matches!(self.seal, Seal::Plain)
    }

    pub fn exists(&self) -> bool {
        self.lies().exists()
    }

    pub fn is_file(&self) -> bool {
        self.lies().is_file()
    }

    /// Sealed files are never read as the files of a folder.
    pub fn is_dir(&self) -> bool {
        !matches!(self.seal, Seal::Sole { .. }) && self.path.is_dir()
    }

    /// # Errors
    /// The key cannot be opened.
    pub fn check(&self) -> io::Result<()> {
        match &self.seal {
            Seal::Closed(why) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why.clone())),
            _ => Ok(()),
        }
    }

    fn key(&self) -> Option<(&ProjectKey, &str)> {
        match &self.seal {
            Seal::Each { key, name } | Seal::Sole { key, name, .. } => Some((key, name)),
            Seal::Plain | Seal::Closed(_) => None,
        }
    }

    /// The bytes of a file, wherever they are asked for; of a sealed one a chunk is in memory at a time.
    ///
    /// # Errors
    /// There is no such file, the disk, it was changed or is not sealed by this key for this place.
    pub fn open(&self) -> io::Result<Contents> {
        self.check()?;
        Contents::open(&self.lies(), self.key())
    }

    /// The plain bytes of a file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn read(&self) -> io::Result<Vec<u8>> {
        self.check()?;
        self.opened(std::fs::read(self.lies())?)
    }

    /// The plain bytes of a file that is UTF-8.
    ///
    /// # Errors
    /// As [`open`](Self::open); it is no UTF-8.
    pub fn read_to_string(&self) -> io::Result<String> {
        String::from_utf8(self.read()?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// How many plain bytes a file has.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn n_bytes(&self) -> io::Result<u64> {
        match self.open()? {
            Contents::Plain(file) => Ok(file.metadata()?.len()),
            Contents::Sealed(file) => Ok(file.bytes()),
        }
    }

    /// Writes a file whole; it is not flushed to the disk.
    ///
    /// # Errors
    /// The disk; the key cannot be opened.
    pub fn write(&self, plain: &[u8]) -> io::Result<()> {
        std::fs::write(self.lies(), self.form(plain)?)
    }

    /// The bytes that lie here where a file holds `plain`.
    ///
    /// # Errors
    /// The key cannot be opened; the operating system gives no random numbers.
    pub fn form<'a>(&self, plain: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        self.check()?;
        match self.key() {
            None => Ok(Cow::Borrowed(plain)),
            Some((key, name)) => sealed::seal(key, name, plain).map(Cow::Owned),
        }
    }

    /// What the bytes that lie here hold.
    ///
    /// # Errors
    /// They were changed, or are not sealed by this key for this place.
    pub fn opened(&self, form: Vec<u8>) -> io::Result<Vec<u8>> {
        self.check()?;
        match self.key() {
            None => Ok(form),
            Some((key, name)) => Ok(sealed::open(key, name, &form)?),
        }
    }
}

impl From<&KeyedPath> for KeyedPath {
    fn from(place: &KeyedPath) -> Self {
        place.clone()
    }
}

/// A path is a plain place: who reads what is sealed through one is told so by what it finds.
impl<T: AsRef<Path> + ?Sized> From<&T> for KeyedPath {
    fn from(path: &T) -> Self {
        Self::plain(path.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_moves_as_a_whole_and_its_files_do_not_change_places() {
        let dir = tempfile::tempdir().unwrap();
        let key = ProjectKey::draw().unwrap();
        let of = |name: &str| KeyedPath::sealed(dir.path().join(name), key.clone(), "version");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        of("a").join("x").write(b"canary").unwrap();
        of("a").join("y").write(b"other").unwrap();
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(of("b").join("x").read().unwrap(), b"canary");
        assert_eq!(of("b").join("x").n_bytes().unwrap(), 6);
        let raw = std::fs::read(dir.path().join("b/x")).unwrap();
        assert!(!raw.windows(6).any(|bytes| bytes == b"canary"));
        std::fs::rename(dir.path().join("b/y"), dir.path().join("b/x")).unwrap();
        assert_eq!(of("b").join("x").read().unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(dir.path().join("b/x"), b"plain").unwrap();
        assert!(of("b").join("x").read().is_err(), "a plain file is none of a sealed folder");
        let closed = KeyedPath::closed(dir.path().join("b"), "it was erased");
        assert_eq!(closed.join("x").read().unwrap_err().to_string(), "it was erased");
        assert!(closed.join("x").write(b"1").is_err());
    }

    #[test]
    fn a_file_that_lies_alone_keeps_what_it_is_called_to_itself() {
        let dir = tempfile::tempdir().unwrap();
        let key = ProjectKey::draw().unwrap();
        std::fs::create_dir(dir.path().join("file-1")).unwrap();
        let file = KeyedPath::sole(dir.path(), key, "data file", "sealed").join("file-1/rows-images.csv");
        assert!(!file.exists());
        file.write(b"a,b").unwrap();
        assert_eq!((file.read().unwrap(), file.exists(), file.is_dir()), (b"a,b".to_vec(), true, false));
        assert_eq!(file.path().file_name().unwrap(), "rows-images.csv");
        assert!(dir.path().join("file-1/sealed").is_file());
        assert!(file.beside("rows-labels.csv").is_none());
    }
}
