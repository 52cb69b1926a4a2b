//! The sealed form of bytes:
//!
//! ```text
//! header  "LYCSEAL1" · id of the key (16 bytes) · salt (32 bytes)
//! chunks  64 KiB of plain text each (the last one what is left, at least nothing), with a tag of 16 bytes behind it
//! ```
//! The key of a document is HKDF-SHA256 (RFC 5869) of the project's key over the salt, so nonces need not be drawn: chunk
//! `i` is sealed by ChaCha20-Poly1305 (RFC 8439) under the nonce `i` with a mark in the last chunk (the STREAM construction
//! of Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015). Header and place are authenticated with every chunk: a byte
//! that was changed, a chunk that moved, a cut end and a document in another's place do not open. Any part can be read by
//! opening its chunks alone.

use crate::hexadecimal;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Mutex;
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"LYCSEAL1";
const ID_BYTES: usize = 16;
const SALT_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + ID_BYTES + SALT_BYTES;
const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;

/// 32 bytes that seal what a project keeps; wiped when dropped.
#[derive(Clone)]
pub struct ProjectKey {
    bytes: Zeroizing<[u8; 32]>,
    id: [u8; ID_BYTES],
}

/// By what their ids say, which is a hash of 128 bits.
impl PartialEq for ProjectKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for ProjectKey {}

impl std::fmt::Debug for ProjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProjectKey({})", hexadecimal(&self.id))
    }
}

impl ProjectKey {
    /// A new one.
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub fn draw() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
        Ok(Self::of(bytes))
    }

    /// None: a key has 32 bytes.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self::of(Zeroizing::new(bytes.try_into().ok()?)))
    }

    fn of(bytes: Zeroizing<[u8; 32]>) -> Self {
        let hash = Sha256::new().chain_update("lyceum key id").chain_update(bytes.as_slice()).finalize();
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&hash[..ID_BYTES]);
        Self { bytes, id }
    }

    /// The secret itself: to be wrapped, or handed to a process that works for the project.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// A hash that says nothing of the key.
    pub fn id(&self) -> &[u8; ID_BYTES] {
        &self.id
    }
}

/// Why sealed bytes do not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("it is not sealed, as everything of an encrypted project is")]
    NotSealed,
    #[error("it is sealed by another key")]
    OtherKey,
    #[error("its bytes were changed, cut, or sealed for another place")]
    Changed,
}

impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// What the chunks of one document share.
struct Sealing {
    key: LessSafeKey,
    /// Authenticated with every chunk: the header and the place.
    about: Vec<u8>,
}

impl Sealing {
    fn new(key: &ProjectKey, header: &[u8; HEADER_BYTES], place: &str) -> Self {
        let salt = Salt::new(HKDF_SHA256, &header[MAGIC.len() + ID_BYTES..]);
        let secret = salt.extract(&*key.bytes);
        let derived = secret.expand(&[b"lyceum sealed document"], &CHACHA20_POLY1305);
        let derived = derived.expect("a key is shorter than what HKDF gives: bug");
        let about = [&header[..], place.as_bytes()].concat();
        Self { key: LessSafeKey::new(UnboundKey::from(derived)), about }
    }

    fn nonce(number: u64, is_last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        nonce[NONCE_LEN - 1] = is_last.into();
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, number: u64, is_last: bool, chunk: &mut Vec<u8>) {
        let sealed =
            self.key.seal_in_place_append_tag(Self::nonce(number, is_last), Aad::from(&self.about), chunk);
        sealed.expect("a chunk is shorter than what the cipher takes: bug");
    }

    fn open(&self, number: u64, is_last: bool, chunk: &mut Vec<u8>) -> Result<(), SealError> {
        let nonce = Self::nonce(number, is_last);
        let opened = self.key.open_in_place(nonce, Aad::from(&self.about), chunk);
        let n = opened.map_err(|_| SealError::Changed)?.len();
        chunk.truncate(n);
        Ok(())
    }
}

fn header(key: &ProjectKey) -> io::Result<[u8; HEADER_BYTES]> {
    let mut header = [0; HEADER_BYTES];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    header[MAGIC.len()..MAGIC.len() + ID_BYTES].copy_from_slice(&key.id);
    getrandom::fill(&mut header[MAGIC.len() + ID_BYTES..]).map_err(io::Error::other)?;
    Ok(header)
}

fn check(header: &[u8], key: &ProjectKey) -> Result<[u8; HEADER_BYTES], SealError> {
    let header: [u8; HEADER_BYTES] = header.try_into().map_err(|_| SealError::NotSealed)?;
    if !header.starts_with(MAGIC) {
        return Err(SealError::NotSealed);
    }
    if header[MAGIC.len()..MAGIC.len() + ID_BYTES] != key.id {
        return Err(SealError::OtherKey);
    }
    Ok(header)
}

/// Seals a document for a place.
///
/// # Errors
/// The operating system gives no random numbers.
pub fn seal(key: &ProjectKey, place: &str, plain: &[u8]) -> io::Result<Vec<u8>> {
    let room = HEADER_BYTES + plain.len() + (plain.len() / CHUNK_BYTES + 1) * TAG_BYTES;
    let mut writer = SealedWriter::new(Vec::with_capacity(room), key, place)?;
    writer.write_all(plain)?;
    writer.finish()
}

/// Opens what [`seal`] or a [`SealedWriter`] wrote for the same place.
///
/// # Errors
/// It is not what was sealed there by this key.
pub fn open(key: &ProjectKey, place: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let header = check(sealed.get(..HEADER_BYTES).ok_or(SealError::NotSealed)?, key)?;
    let sealing = Sealing::new(key, &header, place);
    let body = &sealed[HEADER_BYTES..];
    let mut plain = Vec::with_capacity(body.len());
    let n_chunks = n_chunks(body.len() as u64);
    // A document has a last chunk, were it of nothing.
    if n_chunks == 0 {
        return Err(SealError::Changed);
    }
    for (i, chunk) in body.chunks(CHUNK_BYTES + TAG_BYTES).enumerate() {
        let mut chunk = chunk.to_vec();
        sealing.open(i as u64, i as u64 + 1 == n_chunks, &mut chunk)?;
        plain.append(&mut chunk);
    }
    Ok(plain)
}

fn n_chunks(body: u64) -> u64 {
    body.div_ceil((CHUNK_BYTES + TAG_BYTES) as u64)
}

/// How many plain bytes a sealed file of this length holds; `None`: no sealed file has it.
pub fn plain_bytes(sealed: u64) -> Option<u64> {
    let body = sealed.checked_sub(HEADER_BYTES as u64)?;
    body.checked_sub(n_chunks(body).max(1) * TAG_BYTES as u64)
}

/// Seals what is written to it, chunk by chunk. Without [`finish`](Self::finish) what was written does not open.
pub struct SealedWriter<W: Write> {
    inner: W,
    sealing: Sealing,
    chunk: Vec<u8>,
    number: u64,
}

impl<W: Write> SealedWriter<W> {
    /// # Errors
    /// Writing the header; the operating system's random numbers.
    pub fn new(mut inner: W, key: &ProjectKey, place: &str) -> io::Result<Self> {
        let header = header(key)?;
        inner.write_all(&header)?;
        Ok(Self { inner, sealing: Sealing::new(key, &header, place), chunk: Vec::new(), number: 0 })
    }

    fn put(&mut self, is_last: bool) -> io::Result<()> {
        self.sealing.seal(self.number, is_last, &mut self.chunk);
        self.number += 1;
        let written = self.inner.write_all(&self.chunk);
        self.chunk.clear();
        written
    }

    /// Seals the last chunk.
    ///
    /// # Errors
    /// What the writer says.
    pub fn finish(mut self) -> io::Result<W> {
        self.put(true)?;
        self.inner.flush()?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for SealedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() == CHUNK_BYTES {
            self.put(false)?;
        }
        let n = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        // A chunk is sealed when it is full, or the last.
        self.inner.flush()
    }
}

impl<W: Write> std::fmt::Debug for SealedWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedWriter").field("chunk", &self.number).finish_non_exhaustive()
    }
}

/// A sealed file, read at any place.
pub struct SealedFile {
    file: File,
    sealing: Sealing,
    n_chunks: u64,
    bytes: u64,
    /// The chunk that was opened last, with its number.
    last: Mutex<(u64, Vec<u8>)>,
}

impl SealedFile {
    /// # Errors
    /// It is no sealed file of this key; what reading says.
    pub fn open(mut file: File, key: &ProjectKey, place: &str) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SealError::NotSealed.into(),
            _ => error,
        })?;
        let header = check(&header, key)?;
        let n_chunks = n_chunks(length - HEADER_BYTES as u64);
        let bytes = plain_bytes(length).filter(|_| n_chunks > 0).ok_or(SealError::Changed)?;
        let sealing = Sealing::new(key, &header, place);
        Ok(Self { file, sealing, n_chunks, bytes, last: Mutex::new((u64::MAX, Vec::new())) })
    }

    /// Plain bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads plain bytes from `at` on; less than asked for at the end of a chunk, none at the end of the file.
    ///
    /// # Errors
    /// The bytes were changed; what reading says.
    pub fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        if at >= self.bytes || into.is_empty() {
            // An empty file is authentic too, or it is none.
            if self.bytes == 0 {
                self.chunk(0, &mut self.last.lock().unwrap_or_else(|p| p.into_inner()))?;
            }
            return Ok(0);
        }
        let (number, within) = (at / CHUNK_BYTES as u64, (at % CHUNK_BYTES as u64) as usize);
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.chunk(number, &mut last)?;
        let found = &last.1[within..];
        let n = found.len().min(into.len());
        into[..n].copy_from_slice(&found[..n]);
        Ok(n)
    }

    fn chunk(&self, number: u64, last: &mut (u64, Vec<u8>)) -> io::Result<()> {
        if last.0 == number {
            return Ok(());
        }
        last.0 = u64::MAX;
        let is_last = number + 1 == self.n_chunks;
        let plain = if is_last { self.bytes - number * CHUNK_BYTES as u64 } else { CHUNK_BYTES as u64 };
        last.1.resize(plain as usize + TAG_BYTES, 0);
        let at = HEADER_BYTES as u64 + number * (CHUNK_BYTES + TAG_BYTES) as u64;
        crate::contents::read_exact_at(&self.file, &mut last.1, at)?;
        self.sealing.open(number, is_last, &mut last.1)?;
        last.0 = number;
        Ok(())
    }
}

impl std::fmt::Debug for SealedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedFile").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Contents;

    fn key() -> ProjectKey {
        ProjectKey::draw().unwrap()
    }

    #[test]
    fn every_length_opens_to_what_was_sealed_and_at_any_place() {
        let (key, dir) = (key(), tempfile::tempdir().unwrap());
        let chunk: usize = 64 << 10;
        for n in [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3 * chunk + 77] {
            let plain: Vec<u8> = (0..n).map(|i| (i % 251) as u8).collect();
            let sealed = seal(&key, "a", &plain).unwrap();
            assert_eq!(plain_bytes(sealed.len() as u64), Some(n as u64));
            assert_eq!(open(&key, "a", &sealed).unwrap(), plain);
            // Written in pieces it has the same form.
            let mut writer = SealedWriter::new(Vec::new(), &key, "a").unwrap();
            plain.chunks(1013).for_each(|piece| writer.write_all(piece).unwrap());
            let path = dir.path().join("file");
            std::fs::write(&path, writer.finish().unwrap()).unwrap();
            let file = Contents::open(&path, Some((&key, "a"))).unwrap();
            let mut whole = Vec::new();
            std::io::Read::read_to_end(&mut file.reader(), &mut whole).unwrap();
            assert_eq!(whole, plain);
            for at in [0, n / 2, n.saturating_sub(1)] {
                let mut piece = vec![0; (n - at).min(chunk + 9)];
                file.read_exact_at(at as u64, &mut piece).unwrap();
                assert_eq!(piece, plain[at..at + piece.len()]);
            }
        }
    }

    #[test]
    fn whatever_is_changed_cut_moved_or_of_another_key_does_not_open() {
        let (key, dir) = (key(), tempfile::tempdir().unwrap());
        let n = (64 << 10) + 500;
        let sealed = seal(&key, "a", &vec![7; n]).unwrap();
        let chunk = (64 << 10) + 16;
        let refused = |bytes: &[u8], why: SealError| {
            assert_eq!(open(&key, "a", bytes).unwrap_err(), why);
            let path = dir.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            let opened = std::fs::File::open(&path).and_then(|file| SealedFile::open(file, &key, "a"));
            let read = opened.and_then(|file| {
                let mut whole = vec![0; n + 64];
                let mut at = 0;
                while let m @ 1.. = file.read_at(at as u64, &mut whole[at..])? {
                    at += m;
                }
                Ok(at)
            });
            assert!(read.is_err(), "read as a file it opens: {why:?}");
        };
        for at in [60, 56 + 100, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            refused(&changed, SealError::Changed);
        }
        let mut of_other = sealed.clone();
        of_other[10] ^= 1;
        refused(&of_other, SealError::OtherKey);
        refused(b"{\"plain\":1}", SealError::NotSealed);
        refused(&sealed[..30], SealError::NotSealed);
        // Cut behind a whole chunk, and within one; chunks in another order; the last one twice.
        refused(&sealed[..56 + chunk], SealError::Changed);
        refused(&sealed[..sealed.len() - 3], SealError::Changed);
        refused(&sealed[..56], SealError::Changed);
        let (head, first, last) = (&sealed[..56], &sealed[56..56 + chunk], &sealed[56 + chunk..]);
        refused(&[head, last, first].concat(), SealError::Changed);
        refused(&[head, first, last, last].concat(), SealError::Changed);
        assert_eq!(open(&key, "b", &sealed).unwrap_err(), SealError::Changed, "another place");
        assert_eq!(open(&self::key(), "a", &sealed).unwrap_err(), SealError::OtherKey);
    }
}
