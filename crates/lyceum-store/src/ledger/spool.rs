//! What a process writes down before it tells the database: one file, a line an event, each with a checksum.
//!
//! ```text
//! DATA_DIR/spool/OWNER.lock       held by the process
//! DATA_DIR/spool/OWNER.N.spool    its lines; a new N begins when the file is long, with what still matters
//! ```
//! A line is in the file when the call returns: it survives the process. It survives the machine after [`Spool::sync`],
//! which is called when the database takes nothing; in between, entries are in the database within milliseconds.
//! A line that was cut by a crash has a wrong checksum and is left out, as is one that was damaged.

use super::desk::Open;
use super::{Class, Counts, Entry, Outcome, Rates, Request};
use crate::files::{LockedFile, create_private_dir, disk, sync_dir, try_lock};
use crate::{Layout, StoreError};
use lyceum_types::clock::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// The open spool of this process.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    owner: String,
    n: u64,
    file: File,
    bytes: u64,
    /// Half a line may stand at the end, which could not be taken back.
    is_cut: bool,
    _lock: LockedFile,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Begun { request: RequestLine, price: i64, rates: Vec<i64> },
    Counted { id: String, counts: Vec<u64> },
    Settled { request: RequestLine, price: i64, outcome: String, counts: Vec<u64>, cost: i64, at: i64 },
    Forgotten { id: String },
}

#[derive(Serialize, Deserialize)]
pub(super) struct RequestLine {
    id: String,
    tenant: String,
    project: String,
    api_key: String,
    model: String,
    model_version: u32,
    route: String,
    class: String,
    at: i64,
}

impl Spool {
    /// A spool of its own for this process.
    pub fn create(layout: &Layout) -> Result<Self, StoreError> {
        let dir = layout.spool();
        create_private_dir(&dir)?;
        let owner = format!("own_{}", uuid::Uuid::now_v7().simple());
        let path = dir.join(format!("{owner}.lock"));
        // Whoever looks for the dead at this very moment holds the lock for an instant: another name is free.
        let Some(lock) = try_lock(&path)? else { return Self::create(layout) };
        let file = create(&segment(&dir, &owner, 0))?;
        Ok(Self { dir, owner, n: 0, file, bytes: 0, is_cut: false, _lock: lock })
    }

    pub fn owner(&self) -> &str {
        &self.owner
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn begun(&mut self, open: &Open) -> Result<(), StoreError> {
        self.append(&begun(open))
    }

    pub fn counted(&mut self, id: &str, counts: &Counts) -> Result<(), StoreError> {
        self.append(&Line::Counted { id: id.to_owned(), counts: numbers(counts) })
    }

    pub fn settled(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.append(&settled(entry))
    }

    pub fn forgotten(&mut self, id: &str) -> Result<(), StoreError> {
        self.append(&Line::Forgotten { id: id.to_owned() })
    }

    /// Flushes what was written to the disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        let path = segment(&self.dir, &self.owner, self.n);
        disk::sync_data(&self.file, &path).map_err(|error| StoreError::file("flush", &path, error))
    }

    /// A handle that can be flushed elsewhere.
    pub fn handle(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }

    /// Begins a new file with what still matters, and removes the old one.
    pub fn begin_anew<'a>(
        &mut self,
        open: impl Iterator<Item = &'a Open>,
        pending: impl Iterator<Item = &'a Entry>,
    ) -> Result<(), StoreError> {
        let path = segment(&self.dir, &self.owner, self.n + 1);
        let mut text = Vec::new();
        for open in open {
            text.extend(line(&begun(open)));
            let counts = numbers(&open.noted);
            text.extend(line(&Line::Counted { id: open.request.id.clone(), counts }));
        }
        pending.for_each(|entry| text.extend(line(&settled(entry))));
        let mut file = create(&path)?;
        let written = disk::write_all(&mut file, &path, &text).and_then(|()| disk::sync_data(&file, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(StoreError::file("write", &path, error));
        }
        let old = segment(&self.dir, &self.owner, self.n);
        (self.file, self.n, self.bytes) = (file, self.n + 1, text.len() as u64);
        self.is_cut = false;
        fs::remove_file(&old).map_err(|error| StoreError::file("remove", &old, error))?;
        sync_dir(&self.dir)
    }

    /// Removes the files: nothing in them is needed any more.
    pub fn remove(self) -> Result<(), StoreError> {
        remove(&self.dir, &self.owner)
    }

    fn append(&mut self, event: &Line) -> Result<(), StoreError> {
        let mut bytes = line(event);
        if self.is_cut {
            bytes.insert(0, b'\n');
        }
        let path = segment(&self.dir, &self.owner, self.n);
        if let Err(error) = disk::write_all(&mut self.file, &path, &bytes) {
            // Half a line must not spoil the next one.
            if disk::set_len(&self.file, &path, self.bytes).is_err() {
                self.is_cut = true;
                self.bytes = self.file.metadata().map_or(self.bytes, |metadata| metadata.len());
            }
            return Err(StoreError::file("write", &path, error));
        }
        self.bytes += bytes.len() as u64;
        self.is_cut = false;
        Ok(())
    }
}

/// What a spool says: entries, and requests that were under way.
#[derive(Debug, Default)]
pub struct Replay {
    pub settled: Vec<Entry>,
    /// With what was last noted of them.
    pub open: Vec<Open>,
    /// Lines that cannot be read.
    pub n_damaged: u64,
}

/// A process that is gone, held so that nobody else settles for it.
#[derive(Debug)]
pub struct Dead {
    dir: PathBuf,
    pub owner: String,
    _lock: LockedFile,
}

impl Dead {
    /// Those whose processes are gone.
    pub fn find(layout: &Layout) -> Result<Vec<Self>, StoreError> {
        let dir = layout.spool();
        create_private_dir(&dir)?;
        let mut dead = Vec::new();
        for path in paths(&dir, "lock")? {
            let Some(owner) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            if let Some(lock) = try_lock(&path)? {
                dead.push(Dead { dir: dir.clone(), owner: owner.to_owned(), _lock: lock });
            }
        }
        Ok(dead)
    }

    pub fn read(&self) -> Result<Replay, StoreError> {
        let mut segments = paths(&self.dir, "spool")?;
        segments.retain(|path| name_of(path).starts_with(&format!("{}.", self.owner)));
        segments.sort_by_key(|path| number_of(path));
        let mut text = Vec::new();
        for path in segments {
            text.extend(fs::read(&path).map_err(|error| StoreError::file("read", &path, error))?);
            text.push(b'\n');
        }
        Ok(replay(&text))
    }

    /// Removes its files.
    pub fn remove(self) -> Result<(), StoreError> {
        remove(&self.dir, &self.owner)
    }
}

/// Reads lines; later ones of a request stand above earlier ones.
pub(super) fn replay(text: &[u8]) -> Replay {
    let mut found = Replay::default();
    let mut open: BTreeMap<String, Open> = BTreeMap::new();
    let mut settled: BTreeMap<String, Entry> = BTreeMap::new();
    for bytes in text.split(|&byte| byte == b'\n').filter(|bytes| !bytes.is_empty()) {
        let Some(event) = parse(bytes) else {
            found.n_damaged += 1;
            continue;
        };
        match event {
            Event::Begun(begun) => drop(open.insert(begun.request.id.clone(), begun)),
            Event::Counted(id, counts) => {
                if let Some(open) = open.get_mut(&id) {
                    open.noted = counts;
                }
            }
            Event::Settled(entry) => {
                open.remove(&entry.request.id);
                settled.insert(entry.request.id.clone(), entry);
            }
            Event::Forgotten(id) => drop(open.remove(&id)),
        }
    }
    found.open = open.into_values().filter(|open| !settled.contains_key(&open.request.id)).collect();
    found.settled = settled.into_values().collect();
    found
}

enum Event {
    Begun(Open),
    Counted(String, Counts),
    Settled(Entry),
    Forgotten(String),
}

fn parse(bytes: &[u8]) -> Option<Event> {
    let (sum, json) = bytes.split_at_checked(CHECKSUM_CHARS)?;
    let json = json.strip_prefix(b" ")?;
    if checksum(json).as_bytes() != sum {
        return None;
    }
    Some(match serde_json::from_slice(json).ok()? {
        Line::Begun { request, price, rates } => {
            let (rates, request) = (rates_of(&rates), request.parse()?);
            Event::Begun(Open { request, price, rates, holds: vec![], noted: Counts::default() })
        }
        Line::Counted { id, counts } => Event::Counted(id, counts_of(&counts)),
        Line::Settled { request, price, outcome, counts, cost, at } => Event::Settled(Entry {
            request: request.parse()?,
            outcome: Outcome::parse(&outcome)?,
            counts: counts_of(&counts),
            price,
            cost,
            settled_at: Timestamp::from_millis(at),
        }),
        Line::Forgotten { id } => Event::Forgotten(id),
    })
}

impl RequestLine {
    fn of(request: &Request) -> Self {
        RequestLine {
            id: request.id.clone(),
            tenant: request.tenant.clone(),
            project: request.project.clone(),
            api_key: request.api_key.clone(),
            model: request.model.clone(),
            model_version: request.model_version,
            route: request.route.clone(),
            class: request.class.as_str().to_owned(),
            at: request.started_at.millis(),
        }
    }

    fn parse(self) -> Option<Request> {
        Some(Request {
            class: Class::parse(&self.class)?,
            id: self.id,
            tenant: self.tenant,
            project: self.project,
            api_key: self.api_key,
            model: self.model,
            model_version: self.model_version,
            route: self.route,
            started_at: Timestamp::from_millis(self.at),
        })
    }
}

pub(super) fn begun(open: &Open) -> Line {
    let Rates { input, cached_input, output, training, training_row, cpu_second, pass } = open.rates;
    let rates = vec![input, cached_input, output, training, pass, training_row, cpu_second];
    Line::Begun { request: RequestLine::of(&open.request), price: open.price, rates }
}

pub(super) fn settled(entry: &Entry) -> Line {
    Line::Settled {
        request: RequestLine::of(&entry.request),
        price: entry.price,
        outcome: entry.outcome.as_str().to_owned(),
        counts: numbers(&entry.counts),
        cost: entry.cost,
        at: entry.settled_at.millis(),
    }
}

pub(super) fn numbers(counts: &Counts) -> Vec<u64> {
    let Counts {
        input_tokens,
        cached_tokens,
        output_tokens,
        training_tokens,
        training_rows,
        cpu_seconds,
        passes,
    } = *counts;
    vec![input_tokens, cached_tokens, output_tokens, training_tokens, passes, training_rows, cpu_seconds]
}

/// A line of an older release has fewer numbers.
fn counts_of(numbers: &[u64]) -> Counts {
    let at = |i: usize| numbers.get(i).copied().unwrap_or(0);
    Counts {
        input_tokens: at(0),
        cached_tokens: at(1),
        output_tokens: at(2),
        training_tokens: at(3),
        passes: at(4),
        training_rows: at(5),
        cpu_seconds: at(6),
    }
}

fn rates_of(numbers: &[i64]) -> Rates {
    let at = |i: usize| numbers.get(i).copied().unwrap_or(0);
    Rates {
        input: at(0),
        cached_input: at(1),
        output: at(2),
        training: at(3),
        pass: at(4),
        training_row: at(5),
        cpu_second: at(6),
    }
}

/// Hexadecimal digits of a line's checksum: the first 64 bits of the sha256 of its JSON.
const CHECKSUM_CHARS: usize = 16;

fn checksum(json: &[u8]) -> String {
    Sha256::digest(json)[..CHECKSUM_CHARS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn line(event: &Line) -> Vec<u8> {
    let json = serde_json::to_vec(event).expect("a line is plain data: bug");
    let mut bytes = checksum(&json).into_bytes();
    bytes.push(b' ');
    bytes.extend(json);
    bytes.push(b'\n');
    bytes
}

fn segment(dir: &Path, owner: &str, n: u64) -> PathBuf {
    dir.join(format!("{owner}.{n}.spool"))
}

fn create(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.append(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    disk::create(&options, path).map_err(|error| StoreError::file("create", path, error))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn number_of(path: &Path) -> u64 {
    name_of(path).split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn paths(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| StoreError::file("list", dir, error))? {
        let path = entry.map_err(|error| StoreError::file("list", dir, error))?.path();
        if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    Ok(found)
}

fn remove(dir: &Path, owner: &str) -> Result<(), StoreError> {
    let mut all = paths(dir, "spool")?;
    all.retain(|path| name_of(path).starts_with(&format!("{owner}.")));
    // The lock goes last: until then nobody takes it for one without a spool.
    all.push(dir.join(format!("{owner}.lock")));
    for path in all {
        fs::remove_file(&path).map_err(|error| StoreError::file("remove", &path, error))?;
    }
    Ok(())
}
