//! Pulls from a hub on this machine that serves real files and misbehaves in every way that hubs do.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

mod server;
mod tls;

use lyceum_hub::{HubError, Pulled, Settings, pull};
use lyceum_types::control::Control;
use server::{COMMIT, Manners, Server, git, sha256};
use std::path::{Path, PathBuf};

struct House {
    server: Server,
    dir: tempfile::TempDir,
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/encoder").join(name);
    std::fs::read(path).unwrap()
}

/// A model in Hugging Face's layout, a GGUF file, a pickle, and a folder.
fn manners() -> Manners {
    let files = [
        ("config.json", b"{}".to_vec(), false),
        ("tokenizer.json", fixture("tokenizer.json"), false),
        ("1_Pooling/config.json", b"{\"pooling_mode\": \"mean\"}".to_vec(), false),
        ("model.safetensors", fixture("bert.safetensors"), true),
        ("tiny-Q8_0.gguf", [b"GGUF".to_vec(), fixture("roberta.safetensors")].concat(), true),
        ("pytorch_model.bin", b"\x80\x02}".to_vec(), true),
    ];
    let files = files.into_iter().map(|(name, content, is_large)| (name.to_owned(), (content, is_large)));
    Manners { files: files.collect(), ..Manners::default() }
}

impl House {
    fn new(manners: Manners) -> Self {
        House { server: Server::start(manners), dir: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> Settings {
        let (endpoint, cache) = (self.server.url.clone(), self.dir.path().join("hub"));
        Settings { endpoint, token: None, cache, roots: None, offline: false }
    }

    fn pull(&self, reference: &str) -> Result<Pulled, HubError> {
        self.pull_with(reference, &self.settings())
    }

    fn pull_with(&self, reference: &str, settings: &Settings) -> Result<Pulled, HubError> {
        let mut last = 0;
        let mut watch = |p: lyceum_hub::Progress<'_>| {
            assert!(p.done <= p.whole, "{p:?}");
            last = p.done;
        };
        pull(&reference.parse().unwrap(), settings, &Control::new(), &mut watch)
    }

    fn repository(&self) -> PathBuf {
        self.dir.path().join("hub/models--org--tiny")
    }
}

#[test]
fn a_folder_is_fetched_into_the_cache_that_the_hubs_own_tools_share() {
    let house = House::new(manners());
    let pulled = house.pull("hf.co/org/tiny").unwrap();
    let folder = house.repository().join("snapshots").join(COMMIT);
    assert_eq!((&pulled.path, pulled.commit.as_str()), (&folder, COMMIT));
    assert_eq!((pulled.licence.as_deref(), pulled.file), (Some("apache-2.0"), None));
    assert_eq!(std::fs::read_to_string(house.repository().join("refs/main")).unwrap(), COMMIT);
    for name in ["config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"] {
        let (content, is_large) = manners().files[name].clone();
        let hash = if is_large { sha256(&content) } else { git(&content) };
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), content, "{name}");
        assert_eq!(std::fs::read(house.repository().join("blobs").join(hash)).unwrap(), content, "{name}");
        #[cfg(unix)]
        assert!(std::fs::read_link(folder.join(name)).unwrap().starts_with(".."), "{name}");
    }
    assert!(!folder.join("pytorch_model.bin").exists() && !folder.join("tiny-Q8_0.gguf").exists());
    // Again: only hashes are asked for.
    house.server.asked();
    let again = house.pull("org/tiny").unwrap();
    assert_eq!((again.bytes_fetched, again.path), (0, folder));
    assert!(house.server.asked().iter().all(|a| a.method == "HEAD" || a.path.starts_with("/api/")));
    // Without a network, what is there is enough; what is not is said.
    let offline = Settings { offline: true, endpoint: "http://127.0.0.1:9".into(), ..house.settings() };
    assert_eq!(house.pull_with("org/tiny", &offline).unwrap().path, pulled.path);
    assert!(matches!(house.pull_with("org/other", &offline), Err(HubError::Offline { .. })));
    assert!(matches!(house.pull_with("org/tiny:Q8_0", &offline), Err(HubError::Files { .. })));
}

#[test]
fn a_gguf_file_is_chosen_by_its_type_and_the_token_is_shown_to_the_hub_alone() {
    let house = House::new(Manners { token: Some("hf_1".into()), busy: 2, ..manners() });
    let denied = house.pull("org/tiny:q8_0").unwrap_err();
    assert!(matches!(denied, HubError::Denied { status: 401, .. }), "{denied}");
    house.server.asked();
    let settings = Settings { token: Some("hf_1".into()), ..house.settings() };
    let pulled = house.pull_with("org/tiny:q8_0", &settings).unwrap();
    assert_eq!(pulled.file.as_deref(), Some("tiny-Q8_0.gguf"));
    assert_eq!(std::fs::read(&pulled.path).unwrap(), manners().files["tiny-Q8_0.gguf"].0);
    let asked = house.server.asked();
    for a in &asked {
        let expected = if a.path.starts_with("/store/") { None } else { Some("hf_1".to_owned()) };
        assert_eq!(a.token, expected, "{}", a.path);
    }
    assert!(asked.iter().any(|a| a.path.starts_with("/store/")));
}

#[test]
fn what_broke_off_is_continued_where_it_broke_off() {
    let house = House::new(Manners { cut: Some(1000), ..manners() });
    house.pull("org/tiny").unwrap();
    let ranges: Vec<_> = house.server.asked().into_iter().filter_map(|asked| asked.range).collect();
    assert!(!ranges.is_empty() && ranges.iter().all(|range| range == "bytes=1000-"), "{ranges:?}");

    // Always cut: it says so and keeps what came, and the next pull goes on from there.
    let house = House::new(Manners { cut: Some(1000), cut_always: true, ..manners() });
    let error = house.pull("org/tiny").unwrap_err();
    let content = manners().files["model.safetensors"].0.clone();
    let expected = content.len() as u64;
    assert!(matches!(error, HubError::Truncated { got: 5000, expected: e, .. } if e == expected), "{error}");
    let partial = house.repository().join("blobs").join(format!("{}.incomplete", sha256(&content)));
    assert_eq!(std::fs::read(&partial).unwrap(), content[..5000]);
    house.server.manners.lock().unwrap().cut = None;
    house.server.asked();
    let pulled = house.pull("org/tiny").unwrap();
    assert!(house.server.asked().iter().any(|asked| asked.range.as_deref() == Some("bytes=5000-")));
    assert_eq!(std::fs::read(pulled.path.join("model.safetensors")).unwrap(), content);
    assert!(!partial.exists());

    // A hub without ranges gives all of it again.
    let house = House::new(Manners { cut: Some(1000), no_ranges: true, ..manners() });
    let pulled = house.pull("org/tiny").unwrap();
    assert_eq!(std::fs::read(pulled.path.join("model.safetensors")).unwrap(), content);
}

#[test]
fn bytes_that_are_not_those_announced_are_not_kept() {
    let house = House::new(Manners { lies: true, ..manners() });
    let error = house.pull("org/tiny").unwrap_err();
    let HubError::WrongHash { file, kind, expected, .. } = &error else { panic!("{error}") };
    let content = &manners().files["model.safetensors"].0;
    assert_eq!((file.as_str(), *kind, expected), ("model.safetensors", "sha256", &sha256(content)));
    let blobs = house.repository().join("blobs");
    let left = std::fs::read_dir(blobs).unwrap().flatten().filter(|e| e.metadata().unwrap().len() > 30_000);
    assert_eq!(left.count(), 0);
    assert!(!house.repository().join("refs/main").exists());

    // A partial file with other bytes in it: thrown away, so that the next pull is whole.
    let house = House::new(manners());
    let partial = house.repository().join("blobs").join(format!("{}.incomplete", sha256(content)));
    std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
    std::fs::write(&partial, vec![7; 500]).unwrap();
    assert!(matches!(house.pull("org/tiny"), Err(HubError::WrongHash { .. })));
    assert_eq!(
        std::fs::read(house.pull("org/tiny").unwrap().path.join("model.safetensors")).unwrap(),
        *content
    );

    // Damage in the cache is noticed and mended.
    let blob = house.repository().join("blobs").join(sha256(content));
    std::fs::write(&blob, b"damaged").unwrap();
    let pulled = house.pull("org/tiny").unwrap();
    assert_eq!(std::fs::read(pulled.path.join("model.safetensors")).unwrap(), *content);
}

#[test]
fn what_a_hub_does_not_give_is_said_with_its_reason() {
    let house = House::new(manners());
    assert!(matches!(house.pull("org/nobody"), Err(HubError::NotFound { .. })));
    assert!(matches!(house.pull("org/private"), Err(HubError::Denied { status: 403, .. })));
    let mut only_pickle = manners();
    only_pickle.files.retain(|name, _| name == "pytorch_model.bin" || name == "config.json");
    let house = House::new(only_pickle);
    assert!(house.pull("org/tiny").unwrap_err().to_string().contains("pickle"));
    assert!(house.server.asked().iter().all(|asked| !asked.path.contains(".bin")));
    let dead = Settings { endpoint: "http://127.0.0.1:9".into(), ..house.settings() };
    assert!(matches!(house.pull_with("org/tiny", &dead), Err(HubError::Network { .. })));
}

#[test]
fn a_pull_that_is_cancelled_ends_and_keeps_what_came() {
    let house = House::new(manners());
    let control = Control::new();
    let mut cancel = |_: lyceum_hub::Progress<'_>| control.cancel();
    let result = pull(&"org/tiny".parse().unwrap(), &house.settings(), &control, &mut cancel);
    assert!(matches!(result, Err(HubError::Stopped(_))));
}
