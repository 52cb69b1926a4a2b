//! A job's lock in two processes. It is alone in its binary: between fork and exec a child holds copies of all open
//! files, so tests beside it would see locks that their owners have dropped.

use lyceum_store::Layout;
use lyceum_store::files::JobLock;
use lyceum_types::ids::JobId;

/// The same test in two processes: the child takes the lock and waits to be killed.
#[test]
fn a_killed_process_gives_its_job_free_at_once() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    const CHILD: &str = "LYCEUM_TEST_LOCK_IN";
    let id = JobId::from_bits(3);
    if let Some(root) = std::env::var_os(CHILD) {
        let lock = JobLock::try_acquire(&Layout::new(root), &id).unwrap();
        eprintln!("{}", if lock.is_some() { "locked" } else { "refused" });
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_gives_its_job_free_at_once", "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "locked"));
    assert!(JobLock::try_acquire(&layout, &id).unwrap().is_none(), "the child owns it");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(JobLock::try_acquire(&layout, &id).unwrap().is_some(), "the dead own nothing");
}
