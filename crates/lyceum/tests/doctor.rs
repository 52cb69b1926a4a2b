//! `lyceum doctor` on a healthy folder, and on the same folder with each of the faults that a machine or a person
//! makes: it names the place and what mends it, and nothing else is called wrong.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;

use program::server::{SERVE, Server};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

const SPEC: &str = r#"
name = "points"
task = "classification"
seed = 3
[data]
train = "rows.csv"
valid_fraction = 0.25
target = "label"
[model]
family = "mlp"
hidden = [4]
[train]
epochs = 2
batch_size = 8
optimizer = { name = "adam", lr = 0.02 }
"#;

/// A folder with a trained model and a key, which each test copies.
static HEALTHY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize| format!("{},{}\n", i % 7, if i % 7 > 3 { "much" } else { "little" });
    let rows: String = (0..60).map(row).collect();
    std::fs::write(folder.path().join("rows.csv"), format!("x,label\n{rows}")).unwrap();
    std::fs::write(folder.path().join("spec.toml"), SPEC).unwrap();
    for arguments in [&["train", "spec.toml"][..], &["keys", "create"]] {
        let output = command(folder.path(), arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    folder
});

struct Folder(tempfile::TempDir);

impl Folder {
    fn healthy() -> Folder {
        let folder = tempfile::tempdir().unwrap();
        let copied =
            Command::new("cp").arg("-a").arg(HEALTHY.path().join("data")).arg(folder.path()).status();
        assert!(copied.unwrap().success());
        Folder(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sql(&self, statement: &'static str) {
        let url = format!("sqlite://{}", self.path("data/lyceum.db").display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            sqlx::any::install_default_drivers();
            let mut connection = <sqlx::AnyConnection as sqlx::Connection>::connect(&url).await.unwrap();
            let done = sqlx::query(statement).execute(&mut connection).await.unwrap();
            assert!(done.rows_affected() > 0, "{statement}");
            sqlx::Connection::close(connection).await.unwrap();
        });
    }

    fn doctor(&self, variables: &[(&str, &str)]) -> Output {
        let mut command = command(self.0.path(), &["doctor", "--json"]);
        command.envs(variables.iter().copied()).output().unwrap()
    }

    /// Exactly this check is wrong, with this code; place and fix hold these texts.
    #[track_caller]
    fn is_wrong(&self, variables: &[(&str, &str)], name: &str, code: &str, place: &str, fix: &str) {
        let output = self.doctor(variables);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "doctor is content");
        let checks = checks(&output);
        let wrong: Vec<&Value> = checks.iter().filter(|check| check["ok"] == false).collect();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        let wrong = wrong[0];
        assert_eq!((wrong["name"].as_str(), wrong["code"].as_str()), (Some(name), Some(code)), "{wrong}");
        let is_named = ["file", "key", "found"].iter().any(|field| wrong[*field].to_string().contains(place));
        assert!(is_named, "{place} in {wrong}");
        assert!(wrong["fix"].as_str().unwrap().contains(fix), "{fix} in {wrong}");
        // The last line of stderr says the same to scripts.
        let last: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        assert_eq!((&last["error"]["code"], &last["error"]["fix"]), (&wrong["code"], &wrong["fix"]));
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = program::command(folder, arguments);
    command.env("LYCEUM_PORT", "0");
    command
}

fn checks(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let report: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap();
    report["checks"].as_array().unwrap().clone()
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_healthy_folder_is_all_well() {
    let folder = Folder::healthy();
    let output = folder.doctor(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checks = checks(&output);
    assert!(checks.len() >= 14 && checks.iter().all(|check| check["ok"] == true), "{checks:?}");
    let found = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        check["found"].as_str().unwrap().to_owned()
    };
    assert!(found("models").starts_with("1 version"), "{}", found("models"));
    assert!(found("jobs").starts_with("1 job"), "{}", found("jobs"));
    let text = command(folder.0.path(), &["doctor"]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("audit log") && !text.contains("wrong"), "{text}");
}

#[test]
fn faults_of_the_configuration_are_named_where_they_stand() {
    let folder = Folder::healthy();
    folder.is_wrong(
        &[("LYCEUM_CPU", "quantum")],
        "processor",
        "invalid_config",
        "LYCEUM_CPU",
        "unset LYCEUM_CPU",
    );
    folder.is_wrong(
        &[("LYCEUM_KV_CACHE_MIB", "16000000")],
        "memory",
        "invalid_config",
        "kv_cache_mib",
        "set kv_cache_mib to less",
    );
    folder.is_wrong(&[("LYCEUM_HOST", "example.org")], "port", "invalid_config", "host", "127.0.0.1");
    std::fs::write(folder.path("lyceum.toml"), "threads = 2\nport = 123456\n").unwrap();
    folder.is_wrong(&[], "configuration", "invalid_config", "lyceum.toml", "lyceum config show --origin");
    let checks = checks(&folder.doctor(&[]));
    assert_eq!(checks[0]["line"], 2, "{checks:?}");
    // Not only doctor says so: nothing is computed by other instructions than were asked for.
    let other = Folder::healthy();
    let ls = command(other.0.path(), &["ls"]).env("LYCEUM_CPU", "quantum").output().unwrap();
    assert_eq!(ls.status.code(), Some(2));
}

#[test]
fn a_folder_that_cannot_be_written_or_that_others_read_is_named() {
    let folder = Folder::healthy();
    let below_a_file = HEALTHY.path().join("rows.csv/data");
    let below = below_a_file.to_str().unwrap();
    let output = folder.doctor(&[("LYCEUM_DATA_DIR", below)]);
    let wrong: Vec<Value> = checks(&output).into_iter().filter(|check| check["ok"] == false).collect();
    assert_eq!(wrong[0]["name"], "writing", "{wrong:?}");
    assert!(wrong[0].to_string().contains(below), "{wrong:?}");

    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder.path("data/lyceum.db"), PermissionsExt::from_mode(0o644)).unwrap();
    folder.is_wrong(&[], "permissions", "open_to_others", "lyceum.db", "chmod 600");
    std::fs::set_permissions(folder.path("data/lyceum.db"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(folder.path("data"), PermissionsExt::from_mode(0o755)).unwrap();
    folder.is_wrong(&[], "permissions", "open_to_others", "data", "chmod 700");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_without_room_is_named() {
    // A small file system needs a namespace of its own, which not every machine gives.
    let folder = tempfile::tempdir().unwrap();
    let probe = Command::new("unshare").args(["-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine lets no test mount a small file system (unshare -rm)");
        return;
    }
    std::fs::create_dir(folder.path().join("data")).unwrap();
    for (size, why) in [("3m", "a server wants at least"), ("500k", "No space left")] {
        let script =
            format!("mount -t tmpfs -o size={size},mode=700 tmpfs data && exec \"$LYCEUM\" doctor --json");
        let mut shell = Command::new("unshare");
        shell.args(["-rm", "sh", "-c", &script]).current_dir(folder.path());
        shell.env("LYCEUM", env!("CARGO_BIN_EXE_lyceum")).env("LYCEUM_DATA_DIR", "data");
        shell.env("LYCEUM_THREADS", "2").env("LYCEUM_CONFIG", "none.toml").env("LYCEUM_PORT", "0");
        let checks = checks(&shell.output().unwrap());
        let wrong = checks.iter().find(|check| check["ok"] == false).unwrap();
        assert_eq!(
            (wrong["name"].as_str(), wrong["code"].as_str()),
            (Some("writing"), Some("disk_full")),
            "{wrong}"
        );
        assert!(wrong["why"].as_str().unwrap().contains(why), "{wrong}");
        assert!(wrong["fix"].as_str().unwrap().contains("free some space"), "{wrong}");
    }
}

#[test]
fn a_database_that_does_not_open_is_named_and_what_hangs_on_it_is_left_out() {
    let folder = Folder::healthy();
    folder.sql("INSERT INTO schema_versions (version, applied_at) VALUES (999, 0)");
    folder.is_wrong(&[], "database", "newer_schema", "lyceum.db", "use a newer lyceum");
    let left_out = checks(&folder.doctor(&[])).iter().filter(|check| check["ok"].is_null()).count();
    assert_eq!(left_out, 7);
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://ann:secret@127.0.0.1:{port}/lyceum");
    let other = Folder::healthy();
    other.is_wrong(
        &[("LYCEUM_DATABASE", &url)],
        "database",
        "no_database",
        "postgres://ann@127.0.0.1",
        "start that server",
    );
    let output = other.doctor(&[("LYCEUM_DATABASE", &url)]);
    for text in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(text).contains("secret"));
    }
}

#[test]
fn a_database_whose_pages_were_changed_under_it_is_named() {
    let folder = Folder::healthy();
    let database = folder.path("data/lyceum.db");
    let mut bytes = std::fs::read(&database).unwrap();
    // Of the second page's header: bytes in fragments, which nothing but a check of the whole looks at.
    bytes[4096 + 7] ^= 5;
    std::fs::write(&database, bytes).unwrap();
    folder.is_wrong(&[], "database", "damaged_database", "lyceum.db", "lyceum backup verify");
}

#[test]
fn a_model_whose_files_are_damaged_or_gone_is_named() {
    let folder = Folder::healthy();
    let of = |name: &str| folder.path("data/models/points/1").join(name);
    flip(&of("model.safetensors"));
    folder.is_wrong(&[], "models", "damaged_model", "models/points/1", "lyceum rm points@1");
    flip(&of("model.safetensors"));
    flip(&of("manifest.json"));
    folder.is_wrong(&[], "models", "damaged_model", "models/points/1", "lyceum backup restore");
    flip(&of("manifest.json"));
    std::fs::remove_file(of("model.safetensors")).unwrap();
    folder.is_wrong(&[], "models", "damaged_model", "models/points/1", "lyceum backup restore");
}

#[test]
fn files_jobs_logs_and_spools_that_are_not_what_they_were_are_named() {
    let folder = Folder::healthy();
    folder.sql(
        "INSERT INTO data_files (id, tenant, project, name, purpose, bytes, sha256, created_at) \
         VALUES ('file_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5', 'default', 'default', 'a.csv', 'user_data', 7, 'x', 1)",
    );
    folder.is_wrong(
        &[],
        "files",
        "damaged_file",
        "files/file_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5",
        "lyceum backup",
    );

    let folder = Folder::healthy();
    folder.sql("UPDATE jobs SET state = 'running', finished_at = NULL");
    folder.is_wrong(&[], "jobs", "job_broken_off", "owner.lock", "lyceum jobs resume");

    let folder = Folder::healthy();
    folder.sql("UPDATE audit_logs SET resource = 'somebody' WHERE seq = 1");
    folder.is_wrong(&[], "audit log", "audit_broken", "default", "lyceum audit verify");

    let folder = Folder::healthy();
    std::fs::create_dir_all(folder.path("data/spool")).unwrap();
    std::fs::write(folder.path("data/spool/own_1.lock"), "").unwrap();
    std::fs::write(folder.path("data/spool/own_1.0.spool"), "what is no line of ours\n").unwrap();
    folder.is_wrong(&[], "ledger", "damaged_spool", "data/spool", "own_1.*");
}

#[test]
fn a_clock_that_went_back_is_named() {
    let folder = Folder::healthy();
    folder.sql("UPDATE model_versions SET created_at = 4102444800000");
    folder.is_wrong(&[], "clock", "wrong_clock", "2100-01-01", "set the clock");
}

/// A certificate with its key, as files.
fn certificate(folder: &Folder, name: &str, until: i32) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let made = params.self_signed(&key).unwrap();
    let file = |end: &str, text: String| {
        let path = folder.path(&format!("{name}.{end}"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (file("pem", made.pem()), file("key", key.serialize_pem()))
}

#[test]
fn a_certificate_that_has_ended_or_is_not_the_keys_is_named() {
    let folder = Folder::healthy();
    let (good, key) = certificate(&folder, "good", 2099);
    let (old, of_old) = certificate(&folder, "old", 2021);
    let told = |cert: &str, key: &str, place: &str, fix: &str| {
        let variables = [("LYCEUM_TLS_CERT", cert), ("LYCEUM_TLS_KEY", key)];
        folder.is_wrong(&variables, "certificate", "invalid_tls", place, fix);
    };
    told(&old, &of_old, "old.pem", "renew it");
    told(&good, &of_old, "old.key", "the certificate's own key");
    told(&good, "nowhere.key", "nowhere.key", "the certificate's own key");
    folder.is_wrong(&[("LYCEUM_TLS_CERT", &good)], "certificate", "invalid_tls", "tls_key", "or neither");
    let output = folder.doctor(&[("LYCEUM_TLS_CERT", &good), ("LYCEUM_TLS_KEY", &key)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_port_that_another_program_has_is_named_and_one_that_we_serve_at_is_well() {
    let folder = Folder::healthy();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    folder.is_wrong(&[("LYCEUM_PORT", &port)], "port", "cannot_listen", &port, "end the other program");

    let mut server = command(folder.0.path(), &["serve", "--port", "0", "--json"]);
    let mut server = server.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(server.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    let port = listening["url"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let output = folder.doctor(&[("LYCEUM_PORT", &port)]);
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checks = checks(&output);
    let found = checks.iter().find(|check| check["name"] == "port").unwrap();
    assert!(found["found"].as_str().unwrap().contains("a lyceum serves"), "{found}");
}

/// What `doctor` says of a server: its exit, and every check by its name.
fn of_server(folder: &Path, url: &str, key: Option<&str>) -> (i32, HashMap<String, Value>) {
    let mut command = command(folder, &["doctor", "--json", "--url", url]);
    if let Some(key) = key {
        command.env("LYCEUM_API_KEY", key);
    }
    let output = command.output().unwrap();
    if let Some(key) = key {
        assert!(!format!("{output:?}").contains(key), "a key is told to nobody");
    }
    let all = checks(&output).into_iter().map(|check| (check["name"].as_str().unwrap().to_owned(), check));
    (output.status.code().unwrap(), all.collect())
}

#[test]
fn a_server_elsewhere_is_looked_at_from_here() {
    let folder = Folder::healthy();
    let output =
        command(folder.0.path(), &["keys", "create", "--scope", "inference", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let asks = made["key"].as_str().unwrap().to_owned();
    let output =
        command(folder.0.path(), &["keys", "create", "--scope", "admin", "--json"]).output().unwrap();
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let server = Server::start(command(folder.0.path(), &SERVE), made["key"].as_str().map(str::to_owned));
    // What was asked is loaded.
    server.post("/v1/models/points:predict", &serde_json::json!({"instances": [{"x": 1}]}));
    let elsewhere = tempfile::tempdir().unwrap();
    let of = |key: Option<&str>| of_server(elsewhere.path(), &server.url, key);
    let found = |all: &HashMap<String, Value>, name: &str| all[name]["found"].as_str().unwrap().to_owned();

    let (exit, all) = of(Some(&server.key));
    assert_eq!((exit, all.len()), (0, 9), "{all:?}");
    assert!(all.values().all(|check| check["ok"] == true), "{all:?}");
    assert!(
        found(&all, "address").contains("127.0.0.1") && found(&all, "round trip").contains("median of 5")
    );
    assert!(
        found(&all, "server").contains("as this program") && found(&all, "certificate").starts_with("none")
    );
    assert!(found(&all, "key").ends_with("inference, metrics, admin"), "{all:?}");
    assert!(found(&all, "ready").contains("each of 1 loaded models"), "{all:?}");
    assert!(
        found(&all, "models").ends_with("this key may ask")
            && found(&all, "rate limits").contains("requests a minute")
    );

    // A key that may less, one that is none, and none.
    let (exit, all) = of(Some(&asks));
    assert!(exit == 0 && found(&all, "key").ends_with("scopes: inference"), "{all:?}");
    assert!(all["ready"]["ok"].is_null() && all["models"]["ok"] == true, "{all:?}");
    let (exit, all) = of(Some("sk-000000000000000000000000000000000000000000000000"));
    assert_eq!((exit, &all["key"]["code"]), (4, &"invalid_api_key".into()), "{all:?}");
    assert!(all["server"]["ok"] == true && all["models"]["ok"].is_null(), "{all:?}");
    let (exit, all) = of(None);
    assert_eq!((exit, &all["key"]["code"]), (4, &"missing_api_key".into()), "{all:?}");
    assert!(!elsewhere.path().join("data").exists(), "nothing is made here");
}

#[test]
fn where_no_lyceum_answers_no_key_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let key = "sk-111111111111111111111111111111111111111111111111";
    // Nobody listens where somebody did.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (exit, all) = of_server(folder.path(), &format!("http://{address}"), Some(key));
    assert_eq!((exit, &all["address"]["code"]), (7, &"unreachable".into()), "{all:?}");
    assert!(all["address"]["found"].as_str().unwrap().contains(&address.to_string()), "{all:?}");
    assert!(all.iter().all(|(name, check)| name == "address" || check["ok"].is_null()), "{all:?}");

    // Another program answers every path, and writes down what it was told.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let told = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let hears = told.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let hears = hears.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                let n = std::io::Read::read(&mut stream, &mut bytes).unwrap_or(0);
                hears.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
                let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
            });
        }
    });
    let (exit, all) = of_server(folder.path(), &format!("http://{address}"), Some(key));
    assert_eq!((exit, &all["server"]["code"]), (7, &"not_lyceum".into()), "{all:?}");
    assert!(all["address"]["ok"] == true && all["key"]["ok"].is_null(), "{all:?}");
    let told = told.lock().unwrap().clone();
    assert!(told.contains("GET /health") && !told.contains(key), "{told}");
    // Nor is TLS spoken there.
    let (exit, all) = of_server(folder.path(), &format!("https://{address}"), Some(key));
    assert_eq!((exit, &all["certificate"]["code"]), (7, &"invalid_tls".into()), "{all:?}");
    assert!(all["key"]["ok"].is_null(), "{all:?}");
}
