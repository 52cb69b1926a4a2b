//! `lyceum import` of other programs' files: what it refuses, and what it does not bring in a second time.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

mod program;

use program::{command, done, lyceum, refusal};

#[test]
fn a_context_that_the_model_cannot_read_is_refused_with_its_own_limit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    let limit = done(&lyceum(folder, &["import", "tiny.gguf"]))["context"].as_u64().unwrap();
    program::encoder::folder(&folder.join("bert"), "bert");
    let encoder_limit = done(&lyceum(folder, &["import", "bert"]))["context"].as_u64().unwrap();

    for (path, limit) in [("tiny.gguf", limit), ("bert", encoder_limit)] {
        for asked in ["0", "99999"] {
            let (status, error) = refusal(&lyceum(folder, &["import", path, "--context", asked]));
            assert_eq!(status, 2, "{error}");
            assert!(error["why"].as_str().unwrap().contains(&format!("between 1 and {limit} ")), "{error}");
            assert!(error["fix"].as_str().unwrap().contains(&format!("--context {limit} ")), "{error}");
        }
    }
    let shorter = done(&lyceum(folder, &["import", "tiny.gguf", "--context", "8"]));
    assert_eq!((shorter["model"].as_str(), shorter["context"].as_u64()), (Some("tiny@2"), Some(8)));
}

#[test]
fn what_cannot_be_opened_is_named_as_it_was_given_and_the_help_names_the_families() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("broken")).unwrap();
    std::fs::write(folder.join("broken/config.json"), "{").unwrap();
    std::fs::write(folder.join("broken/model.safetensors"), "").unwrap();
    let (_, error) = refusal(&lyceum(folder, &["import", "broken"]));
    assert_eq!(error["file"], "broken/config.json", "{error}");

    std::fs::write(folder.join("vocab.txt"), "a\nb\n").unwrap();
    let (_, error) = refusal(&lyceum(folder, &["import", "vocab.txt"]));
    assert_eq!(error["message"], "vocab.txt is no model by itself", "{error}");
    assert!(error["fix"].as_str().unwrap().contains("a GGUF file; a folder with config.json"), "{error}");

    let help = command(folder, &["import", "--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    for family in ["llama", "gemma3", "bert", "xlm-roberta"] {
        assert!(help.contains(family), "{family} in {help}");
    }
}

#[test]
fn the_same_bytes_under_one_name_are_one_version() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    std::fs::copy(folder.join("tiny.gguf"), folder.join("copy.gguf")).unwrap();
    let import = |path: &str, options: &[&str]| {
        let made = done(&lyceum(folder, &[&["import", path, "--name", "tiny"], options].concat()));
        (made["model"].as_str().unwrap().to_owned(), made["already_there"].as_bool().unwrap())
    };
    assert_eq!(import("tiny.gguf", &[]), ("tiny@1".into(), false));
    assert_eq!(import("copy.gguf", &[]), ("tiny@1".into(), true));
    // Another layout is another version, and is there the second time.
    for (options, id) in [(["--quant", "q8_0"], "tiny@2"), (["--context", "8"], "tiny@3")] {
        assert_eq!(import("tiny.gguf", &options), (id.into(), false));
        assert_eq!(import("tiny.gguf", &options), (id.into(), true));
    }
    assert_eq!(done(&lyceum(folder, &["import", "tiny.gguf", "--name", "other"]))["model"], "other@1");
    let said = command(folder, &["import", "tiny.gguf", "--name", "tiny"]).output().unwrap().stdout;
    assert!(String::from_utf8_lossy(&said).starts_with("already there as tiny@1"), "{said:?}");

    // A copy that was deleted or damaged is none.
    done(&lyceum(folder, &["rm", "tiny@2"]));
    assert_eq!(import("tiny.gguf", &["--quant", "q8_0"]), ("tiny@4".into(), false));
    let first = done(&lyceum(folder, &["import", "tiny.gguf", "--name", "tiny"]));
    let weights = std::path::Path::new(first["path"].as_str().unwrap()).join("model.gguf");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    assert_eq!(import("tiny.gguf", &[]), ("tiny@5".into(), false));
}
