//! A repository's list, and its files: each is asked for its hash first, resumed where it broke off, and kept only when
//! its bytes have that hash.

use crate::cache::{Cache, is_hash};
use crate::http::{Http, Reply, network};
use crate::{HubError, Listed, Reference};
use lyceum_types::control::Control;
use lyceum_types::limits;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// Times that a file is asked for again after its connection broke or the hub was busy.
const TRIES: u32 = 5;
const WAIT: Duration = Duration::from_millis(200);
/// Files of one repository.
const FILES_MAX: usize = 10_000;

pub(crate) struct Repository {
    pub id: String,
    pub commit: String,
    pub licence: Option<String>,
    pub files: Vec<Listed>,
}

pub(crate) struct Got {
    pub bytes: u64,
    pub bytes_fetched: u64,
}

/// The newest commit of the main branch.
pub(crate) fn repository(http: &Http, reference: &Reference) -> Result<Repository, HubError> {
    let id = reference.id();
    let url = format!("{}/api/models/{id}/revision/main?blobs=true", http.endpoint);
    let reply = again(|| http.get(&url, 0))?;
    allowed(http, &id, &url, &reply)?;
    let list = http.json(reply, &url)?;
    let commit = list["sha"].as_str().filter(|sha| is_hash(sha));
    let commit = commit.ok_or_else(|| network(&url, "its answer names no commit"))?.to_owned();
    let siblings = list["siblings"].as_array().ok_or_else(|| network(&url, "its answer lists no files"))?;
    if siblings.len() > FILES_MAX {
        return Err(HubError::Files { id, problem: format!("it has more than {FILES_MAX} files") });
    }
    let text = |value: &Value| value.as_str().filter(|hash| is_hash(hash)).map(str::to_owned);
    let listed = |file: &Value| {
        // A name that could lead elsewhere is no file of a model.
        let name = file["rfilename"].as_str().filter(|name| is_plain(name))?.to_owned();
        let sha256 = text(&file["lfs"]["sha256"]);
        let bytes = file["lfs"]["size"].as_u64().or(file["size"].as_u64());
        Some(Listed { name, bytes, sha256, blob: text(&file["blobId"]) })
    };
    let files = siblings.iter().filter_map(listed).collect();
    Ok(Repository { id, commit, licence: licence(&list), files })
}

/// The card's word, or the tag that the hub made of it.
fn licence(list: &Value) -> Option<String> {
    let card = list["cardData"]["license"].as_str().map(str::to_owned);
    card.or_else(|| {
        let tags = list["tags"].as_array()?;
        tags.iter().find_map(|tag| tag.as_str()?.strip_prefix("license:")).map(str::to_owned)
    })
}

fn is_plain(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.len() <= 512 && !name.contains(['\\', '\0', ':']) && name.split('/').all(part)
}

/// Tells what a status means; an answer with the thing itself passes.
fn allowed(http: &Http, id: &str, url: &str, reply: &Reply) -> Result<(), HubError> {
    let (hub, id) = (http.endpoint.clone(), id.to_owned());
    let status = reply.status().as_u16();
    match status {
        200..=399 => Ok(()),
        // A hub says 401 for what does not exist, too, so that nobody learns of private models.
        401 if reply.header("x-error-code") == Some("RepoNotFound") => Err(HubError::NotFound { hub, id }),
        401 | 403 => Err(HubError::Denied { hub, id, status }),
        404 => Err(HubError::NotFound { hub, id }),
        _ => Err(network(url, format!("status {status}"))),
    }
}

/// Asks until the hub is not busy and the network holds.
fn again(ask: impl Fn() -> Result<Reply, HubError>) -> Result<Reply, HubError> {
    let mut tried = 0;
    loop {
        tried += 1;
        let reply = ask();
        let is_passing = match &reply {
            Ok(reply) => matches!(reply.status().as_u16(), 429 | 500 | 502 | 503 | 504),
            Err(error) => matches!(error, HubError::Network { .. }),
        };
        if !is_passing || tried == TRIES {
            return reply;
        }
        std::thread::sleep(WAIT * 2u32.pow(tried - 1));
    }
}

/// What the bytes must be.
struct Expected {
    /// sha256 (64 digits) of a large file, git's hash (40) of a small one; also the blob's name.
    hash: String,
    bytes: u64,
}

fn expected(http: &Http, repository: &Repository, file: &Listed, url: &str) -> Result<Expected, HubError> {
    let reply = again(|| http.head(url))?;
    allowed(http, &repository.id, url, &reply)?;
    let tag = reply.header("x-linked-etag").or_else(|| reply.header("etag"));
    let tag = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
    let listed = file.sha256.clone().or_else(|| file.blob.clone());
    let hash = match (tag.filter(|tag| is_hash(tag)), listed) {
        (Some(tag), Some(listed)) if tag.len() == listed.len() && tag != listed => {
            let (file, kind) = (file.name.clone(), "hash by its header");
            return Err(HubError::WrongHash { file, kind, found: tag, expected: listed });
        }
        (Some(tag), _) => tag,
        (None, Some(listed)) => listed,
        (None, None) => return Err(network(url, "the hub says no hash of it, so it cannot be verified")),
    };
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    let bytes = number(reply.header("x-linked-size")).or(file.bytes).or(match reply.status().is_success() {
        true => number(reply.last_header("content-length")),
        false => None,
    });
    let bytes: u64 = bytes.ok_or_else(|| network(url, "the hub does not say how long it is"))?;
    if bytes > limits::WEIGHT_FILE_BYTES_MAX {
        let problem = format!("{} has {bytes} bytes, more than {}", file.name, limits::WEIGHT_FILE_BYTES_MAX);
        return Err(HubError::Files { id: repository.id.clone(), problem });
    }
    Ok(Expected { hash, bytes })
}

/// Brings one file into the cache unless it is there; `report` is told how many of its bytes are.
pub(crate) fn file(
    http: &Http,
    cache: &Cache,
    repository: &Repository,
    file: &Listed,
    control: &Control,
    report: &mut dyn FnMut(u64),
) -> Result<Got, HubError> {
    let url =
        format!("{}/{}/resolve/{}/{}", http.endpoint, repository.id, repository.commit, encoded(&file.name));
    let expected = expected(http, repository, file, &url)?;
    let _held = cache.lock(&expected.hash)?;
    let (blob, partial) = (cache.blob(&expected.hash), cache.incomplete(&expected.hash));
    let mut bytes_fetched = 0;
    // What another program left there is held to its name like what comes now.
    let is_there = blob.is_file() && check(&blob, &file.name, &expected, control).is_ok();
    control.check()?;
    if !is_there {
        for tried in 1.. {
            let result = part(http, &url, &partial, &expected, control, report);
            let length = fs::metadata(&partial).map_or(0, |metadata| metadata.len());
            match result {
                Ok(n) => bytes_fetched += n,
                Err(error @ HubError::Network { .. }) if tried == TRIES => return Err(error),
                Err(HubError::Network { .. }) => {}
                Err(error) => return Err(error),
            }
            if length == expected.bytes {
                break;
            }
            if tried == TRIES {
                let (file, got, expected) = (file.name.clone(), length, expected.bytes);
                return Err(HubError::Truncated { file, got, expected });
            }
            std::thread::sleep(WAIT * 2u32.pow(tried - 1));
        }
        if let Err(error) = check(&partial, &file.name, &expected, control) {
            if matches!(error, HubError::WrongHash { .. }) {
                fs::remove_file(&partial).map_err(HubError::file("remove", &partial))?;
            }
            return Err(error);
        }
        fs::rename(&partial, &blob).map_err(HubError::file("rename", &partial))?;
    }
    cache.link(&repository.commit, &file.name, &expected.hash)?;
    report(expected.bytes);
    Ok(Got { bytes: expected.bytes, bytes_fetched })
}

/// Continues a partial file with what one answer brings; how many bytes came.
fn part(
    http: &Http,
    url: &str,
    partial: &Path,
    expected: &Expected,
    control: &Control,
    report: &mut dyn FnMut(u64),
) -> Result<u64, HubError> {
    let open = OpenOptions::new().create(true).append(true).open(partial);
    let mut file = open.map_err(HubError::file("open", partial))?;
    let failed = || HubError::file("write", partial);
    let mut length = file.metadata().map_err(failed())?.len();
    if length > expected.bytes {
        file.set_len(0).map_err(failed())?;
        length = 0;
    }
    if length == expected.bytes {
        return Ok(0);
    }
    let reply = http.get(url, length)?;
    let status = reply.status().as_u16();
    match status {
        206 if starts_at(&reply) == Some(length) => {}
        // Not what was asked for: all of it, from the beginning.
        200 if length > 0 => {
            file.set_len(0).map_err(failed())?;
            length = 0;
        }
        200 => {}
        206 | 416 => {
            file.set_len(0).map_err(failed())?;
            return Err(network(url, format!("status {status} does not continue at byte {length}")));
        }
        _ => return Err(network(url, format!("status {status}"))),
    }
    let begun = length;
    // One byte more than it may have, so that too long a file is noticed.
    let mut body = reply.response.into_body().into_reader().take(expected.bytes - length + 1);
    let mut buffer = vec![0; 1 << 20];
    loop {
        control.check()?;
        report(length.min(expected.bytes));
        // A connection that breaks leaves what came; the next try continues there.
        let n = match body.read(&mut buffer) {
            Ok(0) | Err(_) => return Ok(length - begun),
            Ok(n) => n,
        };
        file.write_all(&buffer[..n]).map_err(failed())?;
        length += n as u64;
    }
}

/// The first byte of a `Content-Range: bytes 5-9/10`.
fn starts_at(reply: &Reply) -> Option<u64> {
    let range = reply.last_header("content-range")?.strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok()
}

/// Holds a file to its length and its hash.
fn check(path: &Path, name: &str, expected: &Expected, control: &Control) -> Result<(), HubError> {
    let failed = || HubError::file("read", path);
    let mut file = File::open(path).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len();
    let is_git = expected.hash.len() == 40;
    let (mut sha256, mut git) = (Sha256::new(), sha1::Sha1::new());
    git.update(format!("blob {length}\0"));
    let mut buffer = vec![0; 1 << 20];
    loop {
        control.check()?;
        match file.read(&mut buffer).map_err(failed())? {
            0 => break,
            n if is_git => git.update(&buffer[..n]),
            n => sha256.update(&buffer[..n]),
        }
    }
    let (kind, found) = match is_git {
        true => ("git hash", hexadecimal(&git.finalize())),
        false => ("sha256", hexadecimal(&sha256.finalize())),
    };
    if found == expected.hash && length == expected.bytes {
        return Ok(());
    }
    Err(HubError::WrongHash { file: name.to_owned(), kind, found, expected: expected.hash.clone() })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file's name as a part of a URL.
fn encoded(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
