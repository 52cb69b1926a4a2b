//! The tests of this crate are the conformance suite: each is run on SQLite, and once more on PostgreSQL.
//!
//! [`Store::open`](crate::Store::open) asks [`database`] in tests. The test below starts a server of its own on
//! loopback, and this very test program again with the server's address.

use crate::{Database, Layout};
use sha2::{Digest, Sha256};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const VARIABLE: &str = "LYCEUM_TEST_POSTGRES";

/// SQLite, or, where the suite runs on PostgreSQL, a schema that belongs to this data folder.
pub async fn database(layout: &Layout) -> Database {
    let Ok(server) = std::env::var(VARIABLE) else { return Database::Sqlite };
    let root = std::path::absolute(layout.root()).unwrap();
    let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
    let schema: String = digest[..12].iter().fold("t_".to_owned(), |name, byte| format!("{name}{byte:02x}"));
    let options = server.parse::<Database>().unwrap().options(layout).unwrap();
    let mut connection = AnyConnection::connect_with(&options).await.unwrap();
    // Openers of one folder may come at once, and IF NOT EXISTS is no lock.
    let create =
        format!("BEGIN; SELECT pg_advisory_xact_lock(7); CREATE SCHEMA IF NOT EXISTS {schema}; COMMIT");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    format!("{server}?options=-c%20search_path%3D{schema}").parse().unwrap()
}

/// Whether this run of the suite is the one on PostgreSQL.
pub fn on_postgres() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

#[test]
fn every_test_of_this_crate_passes_on_postgresql() {
    if on_postgres() {
        return;
    }
    let Some(bin) = programs() else {
        println!("skipped: PostgreSQL is not installed (Debian: apt-get install postgresql)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&bin, &dir.path().join("data"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--test-threads", "8"])
        .env(VARIABLE, &server.url)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    // A suite that ran nothing proves nothing.
    let n_passed: usize = text
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<usize>().ok())
        .sum();
    assert!(n_passed > 50, "{text}");
}

/// The folder with `initdb` and `postgres`: in `PATH`, or where Debian puts them.
fn programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    folders.into_iter().find(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(bin: &Path, data: &Path) -> Server {
        std::fs::create_dir_all(data).unwrap();
        make_ours_readable(data);
        let run = |name: &str| {
            let mut command = Command::new(bin.join(name));
            command.arg("-D").arg(data).stdin(Stdio::null()).current_dir("/");
            as_another_than_root(&mut command);
            command
        };
        let made = run("initdb")
            .args(["--username=lyceum", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings =
            ["fsync=off", "max_connections=400", "unix_socket_directories=", "listen_addresses=127.0.0.1"];
        let child = run("postgres")
            .args(["-p", &port.to_string()])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, url: format!("postgres://lyceum@127.0.0.1:{port}/postgres") };
        let began = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = server.url.parse::<Database>().unwrap().options(&Layout::new("unused")).unwrap();
        while runtime.block_on(AnyConnection::connect_with(&options)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "the server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// PostgreSQL refuses to run as root: then it runs as nobody.
#[cfg(unix)]
const NOBODY: u32 = 65_534;

#[cfg(unix)]
fn is_root(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(dir).unwrap().uid() == 0
}

#[cfg(unix)]
fn make_ours_readable(data: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if is_root(data) {
        let parent = data.parent().unwrap();
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(data, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

#[cfg(unix)]
fn as_another_than_root(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    if is_root(Path::new("/proc/self")) {
        command.uid(NOBODY).gid(NOBODY);
    }
}

#[cfg(not(unix))]
fn make_ours_readable(_data: &Path) {}

#[cfg(not(unix))]
fn as_another_than_root(_command: &mut Command) {}
