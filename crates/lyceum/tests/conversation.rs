//! `lyceum run` with an imported language model, as a program.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

mod program;

use program::{last, lyceum, refusal};

#[test]
fn a_prompt_is_answered_and_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    assert!(lyceum(folder, &["import", "tiny.gguf", "--name", "tiny"]).status.success());

    // Nothing on stdin, nothing typed, or blanks: there is nothing to answer.
    for prompt in [&[][..], &[""], &[" \n"]] {
        let asked = lyceum(folder, &[&["run", "tiny"], prompt].concat());
        let (status, error) = refusal(&asked);
        assert_eq!((status, &error["message"]), (2, &"the prompt is empty".into()), "{prompt:?}");
        assert!(asked.stdout.is_empty());
    }

    let asked = ["run", "tiny", "hello", "--max-tokens", "3", "--logprobs", "2"];
    let whole = last(&lyceum(folder, &asked));
    let tokens = whole["logprobs"].as_array().unwrap();
    assert_eq!(tokens.len(), 3, "{whole}");
    // For people the same numbers stand below the answer.
    let shown = program::command(folder, &asked).output().unwrap().stdout;
    let shown = String::from_utf8_lossy(&shown);
    for token in tokens {
        let number = format!("{:.4}", token["logprob"].as_f64().unwrap());
        assert!(shown.contains(&number), "{number} in {shown}");
    }
}

#[test]
fn what_is_piped_in_follows_the_prompt_and_has_to_be_text() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    assert!(lyceum(folder, &["import", "tiny.gguf", "--name", "tiny"]).status.success());

    let asked = |arguments: &[&str], piped: &[u8]| {
        std::fs::write(folder.join("piped"), piped).unwrap();
        let arguments = [&["run", "tiny", "--max-tokens", "3", "--json"], arguments].concat();
        let stdin = std::fs::File::open(folder.join("piped")).unwrap();
        program::command(folder, &arguments).stdin(stdin).output().unwrap()
    };
    let whole = last(&asked(&["he\n\nllo"], b""));
    assert_eq!(last(&asked(&["he"], b"llo\n")), whole, "both make one prompt");
    assert_eq!(last(&asked(&[], b"he\n\nllo\n")), whole, "either is one alone");

    let (status, error) = refusal(&asked(&["he"], b"ll\xffo"));
    assert_eq!((status, &error["message"]), (2, &"stdin is not UTF-8 at byte 2".into()), "{error}");
}
