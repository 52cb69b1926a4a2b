//! Files that the user names, read with a bound.

use crate::failure::{Exit, Failure};
use lyceum_store::vault::KeyedPath;
use std::io::Read;

/// The text of a file of at most `bytes_max` bytes.
pub fn read_text(path: impl Into<KeyedPath>, bytes_max: u64) -> Result<String, Failure> {
    let path = path.into();
    let bytes = read_bytes(&path, bytes_max)?;
    String::from_utf8(bytes).map_err(|error| {
        let message = format!("{} is not UTF-8 text", path.display());
        let why = format!("byte {} is none of a text", error.utf8_error().valid_up_to());
        let mut failure = Failure::new(Exit::Failed, "not_utf8", message, why, "save it as UTF-8");
        failure.place.file = Some(path.display().to_string());
        failure
    })
}

/// The bytes of a file of at most `bytes_max` bytes.
pub fn read_bytes(path: impl Into<KeyedPath>, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let path = path.into();
    let failed = |error: std::io::Error| Failure::file("read", path.path(), &error);
    let file = path.open().map_err(failed)?;
    let mut bytes = Vec::new();
    file.reader().take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        let message = format!("{} is larger than {bytes_max} bytes", path.display());
        let why = "nothing of this kind is that large";
        return Err(Failure::new(Exit::Failed, "too_large", message, why, "check that it is the right file"));
    }
    Ok(bytes)
}
