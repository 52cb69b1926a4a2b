//! Each operation by which something durable comes to be, so that a test can make any of them fail: what a worn disk
//! (EIO) or a full one (ENOSPC) does. Outside tests there is nothing between a call and the operating system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Where a fault strikes, in the tests of this crate.
#[cfg(test)]
fn fault(path: &Path) -> io::Result<()> {
    faults::next(path).map_or(Ok(()), Err)
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it fails")]
#[inline(always)]
fn fault(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(crate) fn create_dir(builder: &DirBuilder, path: &Path) -> io::Result<()> {
    fault(path)?;
    builder.create(path)
}

pub(crate) fn create(options: &OpenOptions, path: &Path) -> io::Result<File> {
    fault(path)?;
    options.open(path)
}

/// A fault leaves half of it written, as a disk may that fills up.
pub(crate) fn write_all(file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Err(error) = fault(path) {
        file.write_all(&bytes[..bytes.len() / 2])?;
        return Err(error);
    }
    file.write_all(bytes)
}

pub(crate) fn set_len(file: &File, path: &Path, length: u64) -> io::Result<()> {
    fault(path)?;
    file.set_len(length)
}

pub(crate) fn sync_all(file: &File, path: &Path) -> io::Result<()> {
    fault(path)?;
    file.sync_all()
}

pub(crate) fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    fault(path)?;
    file.sync_data()
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fault(to)?;
    fs::rename(from, to)
}

/// Faults of the tests: each strikes once, below one folder, so that tests beside each other do not meet.
#[cfg(test)]
pub(crate) mod faults {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    struct Plan {
        root: PathBuf,
        /// Operations that still succeed.
        left: u64,
        code: i32,
        has_struck: bool,
    }

    static PLANS: Mutex<Vec<Plan>> = Mutex::new(Vec::new());

    /// After `left` more operations below `root`, one fails with the operating system's `code`.
    pub(crate) fn strike(root: &Path, left: u64, code: i32) {
        end(root);
        PLANS.lock().unwrap().push(Plan { root: root.to_owned(), left, code, has_struck: false });
    }

    /// Ends the plan; whether its fault struck.
    pub(crate) fn end(root: &Path) -> bool {
        let mut plans = PLANS.lock().unwrap();
        let at = plans.iter().position(|plan| plan.root == root);
        at.is_some_and(|at| plans.remove(at).has_struck)
    }

    /// What has not struck by now does not.
    pub(crate) fn spend(root: &Path) {
        for plan in PLANS.lock().unwrap().iter_mut().filter(|plan| plan.root == root) {
            plan.left = u64::MAX;
        }
    }

    pub(super) fn next(path: &Path) -> Option<io::Error> {
        let mut plans = PLANS.lock().unwrap();
        let plan = plans.iter_mut().find(|plan| !plan.has_struck && path.starts_with(&plan.root))?;
        if plan.left > 0 {
            plan.left = plan.left.saturating_sub(u64::from(plan.left < u64::MAX));
            return None;
        }
        plan.has_struck = true;
        Some(io::Error::from_raw_os_error(plan.code))
    }
}
