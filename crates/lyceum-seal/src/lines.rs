//! Files that grow line by line, such as a job's log: each line is sealed for the byte at which it begins, so one that was
//! moved, or taken out of another file, does not open. Plain files have their lines as they are.

use crate::{KeyedPath, from_hexadecimal, hexadecimal};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Appends lines to one file; one process does at a time.
#[derive(Debug)]
pub struct Lines {
    place: KeyedPath,
    file: io::BufWriter<File>,
    /// Where the next line begins.
    at: u64,
}

impl Lines {
    /// Opens or makes the file. Half a line, which a process left that was killed, is ended: what comes begins a line of
    /// its own.
    ///
    /// # Errors
    /// The disk; the key cannot be opened.
    pub fn append(place: KeyedPath) -> io::Result<Self> {
        place.check()?;
        let mut file = File::options().read(true).append(true).create(true).open(place.lies())?;
        let mut at = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if at > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != *b"\n" {
            file.write_all(b"\n")?;
            at += 1;
        }
        #[cfg(unix)]
        if at == 0
            && let Some(folder) = place.lies().parent()
        {
            // Its name outlives a loss of power as what will stand in it does.
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { place, file: io::BufWriter::new(file), at })
    }

    /// # Errors
    /// The disk.
    pub fn write(&mut self, line: &str) -> io::Result<()> {
        debug_assert!(!line.contains('\n'), "a line is one: bug");
        let form = match self.place.is_sealed() {
            false => format!("{line}\n"),
            true => hexadecimal(&at(&self.place, self.at).form(line.as_bytes())?) + "\n",
        };
        self.file.write_all(form.as_bytes())?;
        self.at += form.len() as u64;
        Ok(())
    }

    /// Makes what was written outlive a loss of power.
    ///
    /// # Errors
    /// The disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// # Errors
    /// The disk.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What a line is sealed for.
fn at(place: &KeyedPath, at: u64) -> KeyedPath {
    place.join(format!("@{at}"))
}

/// The whole lines that begin at `start` or later, of a very long file those of its last `bytes_max` bytes, each with the
/// byte at which it begins. What is half written is left for later, what does not open is left out.
///
/// # Errors
/// There is no such file; the disk; the key cannot be opened.
pub fn read(place: &KeyedPath, start: u64, bytes_max: u64) -> io::Result<Vec<(u64, String)>> {
    place.check()?;
    let mut file = File::open(place.lies())?;
    let end = file.metadata()?.len();
    let start = start.max(end.saturating_sub(bytes_max));
    if start >= end {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(end - start).read_to_end(&mut bytes)?;
    let (mut from, mut found) = (start, Vec::new());
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if let Some(text) = line.strip_suffix(b"\n").and_then(|line| open(place, from, line)) {
            found.push((from, text));
        }
        from += line.len() as u64;
    }
    Ok(found)
}

fn open(place: &KeyedPath, from: u64, line: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?;
    if !place.is_sealed() {
        return Some(line.to_owned());
    }
    String::from_utf8(at(place, from).opened(from_hexadecimal(line)?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProjectKey;

    #[test]
    fn lines_read_as_they_were_written_also_after_a_kill_and_none_opens_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let key = ProjectKey::draw().unwrap();
        for place in
            [KeyedPath::plain(dir.path().join("a")), KeyedPath::sealed(dir.path().join("b"), key, "b")]
        {
            let mut lines = Lines::append(place.clone()).unwrap();
            ["one", "", "three"].iter().for_each(|line| lines.write(line).unwrap());
            lines.flush().unwrap();
            drop(lines);
            let whole = std::fs::read(place.lies()).unwrap();
            std::fs::write(place.lies(), &whole[..whole.len() - 2]).unwrap();
            let mut lines = Lines::append(place.clone()).unwrap();
            lines.write("four").unwrap();
            lines.flush().unwrap();
            let told = |start| -> Vec<String> {
                read(&place, start, u64::MAX).unwrap().into_iter().map(|(_, line)| line).collect()
            };
            let all = told(0);
            assert_eq!(
                (&all[..2], all.last().unwrap().as_str()),
                (&["one".to_owned(), String::new()][..], "four")
            );
            let marks: Vec<u64> = read(&place, 0, u64::MAX).unwrap().into_iter().map(|(at, _)| at).collect();
            assert_eq!(told(marks[1])[0], "");
            if place.is_sealed() {
                assert_eq!(all.len(), 3, "what was cut does not open");
                let text = std::fs::read_to_string(place.lies()).unwrap();
                assert!(!text.contains("one"));
                let swapped: Vec<&str> = text.lines().rev().collect();
                std::fs::write(place.lies(), swapped.join("\n") + "\n").unwrap();
                assert!(told(0).is_empty());
            }
        }
    }
}
