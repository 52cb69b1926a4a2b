use super::*;
use lyceum_language::template::ChatTemplate;
use serde_json::{Map, json};
use words::{CHATML, tokenizer};

#[path = "../../tests/tiny/words.rs"]
mod words;

fn judged(text: &str) -> (Option<Format>, Vec<Line>, Report) {
    let mut report = Report::default();
    let (format, lines) = judge(text.as_bytes(), "a.jsonl", &Control::new(), &mut report).unwrap();
    (format, lines, report)
}

/// `code@pointer` of each error of a line.
fn codes(line: &str) -> Vec<String> {
    let (_, _, report) = judged(line);
    report.errors.iter().map(|e| format!("{}@{}", e.code, e.pointer.as_deref().unwrap_or_default())).collect()
}

/// The tokens of a line, those that are learnt in brackets.
fn masked(line: &str) -> Result<Vec<String>, Problem> {
    let (_, lines, report) = judged(line);
    assert!(report.is_empty(), "{report}");
    let (tokenizer, template) = (tokenizer(), ChatTemplate::new(CHATML, Map::new()).unwrap());
    let words = Words { tokenizer: &tokenizer, template: Some(&template), now: 0 };
    let shown = |rendered: &Rendered| {
        let mut text = String::new();
        let mut inside = false;
        for (&id, &has_loss) in rendered.ids.iter().zip(&rendered.has_loss) {
            if has_loss != inside {
                text.push(if has_loss { '[' } else { ']' });
                inside = has_loss;
            }
            text.push_str(&String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap()));
        }
        if inside { text + "]" } else { text }
    };
    render::sequences(&lines[0], words).map(|all| all.iter().map(shown).collect())
}

use render::Problem;

#[test]
fn the_assistants_words_and_the_end_of_its_turn_are_learnt_and_nothing_else() {
    let line = r#"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"user","content":"V"},{"role":"assistant","content":"B"}]}"#;
    assert_eq!(
        masked(line).unwrap(),
        [
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n[A<|im_end|>]\n\
          <|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n[B<|im_end|>]\n"
        ]
    );
    // A weight of 0 is read and not learnt.
    let unweighted = line.replace(r#""content":"A""#, r#""content":"A","weight":0"#);
    let text = masked(&unweighted).unwrap().remove(0);
    assert!(text.contains("assistant\nA<|im_end|>\n") && text.ends_with("[B<|im_end|>]\n"), "{text}");
}

#[test]
fn what_a_user_writes_is_no_special_token() {
    let line = r#"{"messages":[{"role":"user","content":"<|im_end|>"},{"role":"assistant","content":"A"}]}"#;
    let (_, lines, _) = judged(line);
    let (tokenizer, template) = (tokenizer(), ChatTemplate::new(CHATML, Map::new()).unwrap());
    let words = Words { tokenizer: &tokenizer, template: Some(&template), now: 0 };
    let rendered = render::sequences(&lines[0], words).unwrap().remove(0);
    assert_eq!(rendered.ids.iter().filter(|&&id| id == 257).count(), 2);
}

#[test]
fn completions_are_learnt_with_their_end_and_preferences_twice() {
    assert_eq!(masked(r#"{"prompt":"ab","completion":"cd"}"#).unwrap(), ["ab[cd<|im_end|>]"]);
    let line = r#"{"input":{"messages":[{"role":"user","content":"U"}]},"preferred_output":[{"role":"assistant","content":"A"}],"non_preferred_output":[{"role":"assistant","content":"B"}]}"#;
    let start = "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n";
    let want: Vec<String> = ["A", "B"].map(|answer| format!("{start}[{answer}<|im_end|>]\n")).to_vec();
    assert_eq!(masked(line).unwrap(), want);
}

#[test]
fn a_template_that_refuses_or_is_not_there_is_said_at_the_line() {
    let twice = r#"{"messages":[{"role":"user","content":"U"},{"role":"user","content":"V"},{"role":"assistant","content":"A"}]}"#;
    assert_eq!(masked(twice).unwrap_err().code, "template_refused");
    let (_, lines, _) =
        judged(r#"{"messages":[{"role":"user","content":"U"},{"role":"assistant","content":"A"}]}"#);
    let tokenizer = tokenizer();
    let words = Words { tokenizer: &tokenizer, template: None, now: 0 };
    assert_eq!(render::sequences(&lines[0], words).unwrap_err().code, "no_template");
}

#[test]
fn each_bad_line_is_told_with_its_pointer_and_code() {
    let user = r#"{"role":"user","content":"U"}"#;
    let chat = |messages: &str| format!(r#"{{"messages":[{messages}]}}"#);
    let answer = r#"{"role":"assistant","content":"A"}"#;
    let call = r#"{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}"#;
    let called = |at_once: &str| {
        format!(
            r#"{{"messages":[{user},{{"role":"assistant","tool_calls":[{call},{call}]}}],"parallel_tool_calls":{at_once}}}"#
        )
    };
    let cases: Vec<(String, &[&str])> = vec![
        (chat(&format!("{user},{answer}")), &[]),
        (chat(user), &["no_assistant_message@/messages"]),
        (chat(&format!(r#"{user},{{"role":"asistant","content":"A"}},{answer}"#)), &["wrong_role@/messages/1/role"]),
        (chat(&format!(r#"{user},{{"role":"assistant"}}"#)), &["missing_content@/messages/1/content"]),
        (chat(&format!(r#"{user},{{"role":"assistant","content":""}}"#)), &["empty_answer@/messages/1/content"]),
        (chat(&format!("{answer},{user}")), &["last_message_not_assistant@/messages/1"]),
        (
            chat(&format!(r#"{user},{{"role":"assistant","content":"A","weight":0}}"#)),
            &["nothing_to_learn@/messages"],
        ),
        (
            chat(&format!(r#"{user},{{"role":"assistant","content":"A","weight":0.5}}"#)),
            &["wrong_weight@/messages/1/weight"],
        ),
        (
            chat(&format!(r#"{{"role":"user","content":"U","weight":1}},{answer}"#)),
            &["misplaced_weight@/messages/0/weight"],
        ),
        (
            chat(&format!(r#"{{"role":"user","content":[{{"type":"image_url"}}]}},{answer}"#)),
            &["unsupported_content@/messages/0/content/0"],
        ),
        (
            chat(&format!(r#"{user},{{"role":"tool","content":"4"}},{answer}"#)),
            &["missing_tool_call_id@/messages/1/tool_call_id"],
        ),
        (
            chat(&format!(r#"{user},{{"role":"assistant","tool_calls":[{{"function":{{"name":"f","arguments":"{{"}}}}]}}"#)),
            &["wrong_tool_call@/messages/1/tool_calls/0"],
        ),
        (r#"{"messages":[]}"#.into(), &["missing_messages@/messages"]),
        (r#"{"messages":[{"role":"user","content":"U"},{"role":"assistant","content":"A"}],"function":[]}"#.into(), &["unknown_key@/function"]),
        (called("null"), &[]),
        (called("true"), &[]),
        (called("false"), &["parallel_tool_calls@/messages/1/tool_calls"]),
        (called("\"no\""), &["wrong_parallel_tool_calls@/parallel_tool_calls"]),
        (r#"{"prompt":"a"}"#.into(), &["missing_completion@/completion"]),
        (r#"{"prompt":"a","completion":""}"#.into(), &["empty_completion@/completion"]),
        (r#"{"text":"a"}"#.into(), &["unknown_format@"]),
        (
            r#"{"messages":[{"role":"user","content":"U"}],"messages":[{"role":"user","content":"U"},{"role":"assistant","content":"A","content":"B"}]}"#.into(),
            &["duplicate_key@/messages/1/content", "duplicate_key@/messages"],
        ),
        ("[1]".into(), &["not_an_object@"]),
        (r#"{"messages": nope}"#.into(), &["invalid_json@"]),
        (
            r#"{"input":{"messages":[{"role":"user","content":"U"}]},"preferred_output":[{"role":"assistant","content":"A"}],"non_preferred_output":[{"role":"assistant","content":"A"}]}"#.into(),
            &["same_outputs@/non_preferred_output"],
        ),
    ];
    for (line, want) in cases {
        assert_eq!(codes(&line), want, "{line}");
    }
}

#[test]
fn a_file_is_judged_whole() {
    let good = r#"{"messages":[{"role":"user","content":"U"},{"role":"assistant","content":"A"}]}"#;
    let file =
        format!("\u{feff}{good}\n\n{good}\n{{\"messages\": [}}\n{{\"prompt\":\"a\",\"completion\":\"b\"}}\n");
    let (format, lines, report) = judged(&file);
    assert_eq!(
        (format, lines.iter().map(|l| l.number).collect::<Vec<_>>()),
        (Some(Format::Chat), vec![1, 3])
    );
    let found: Vec<(Option<u64>, &str)> = report.errors.iter().map(|e| (e.line, e.code.as_str())).collect();
    let want = [
        (Some(1), "byte_order_mark"),
        (Some(2), "blank_line"),
        (Some(4), "invalid_json"),
        (Some(5), "mixed_formats"),
    ];
    assert_eq!(found, want);
    assert!(report.errors[2].message.contains("byte 14 of the line"), "{}", report.errors[2].message);
}

#[test]
fn of_ten_thousand_bad_lines_a_hundred_are_listed_and_all_are_counted() {
    let mut file = String::new();
    for i in 0..10_000 {
        file += match i % 2 {
            0 => "{\"messages\":[{\"role\":\"user\",\"content\":\"U\"}]}\n",
            _ => "{\"messages\"\n",
        };
    }
    let (_, lines, report) = judged(&file);
    assert!(lines.is_empty());
    assert_eq!((report.errors.len(), report.n_errors()), (100, 10_000));
    assert_eq!(report.counts["no_assistant_message"], 5000);
    assert!(report.to_string().contains("and 9900 more (5000 invalid_json, 5000 no_assistant_message)"));
}

fn spec(data: &str) -> TuneSpec {
    let text = format!(
        "name = \"bot\"\nseed = 3\n[data]\ntrain = \"a.jsonl\"\n{data}\n[model]\nfamily = \"base\"\n"
    );
    match lyceum_types::spec::parse::Job::from_toml(&text, "spec.toml").unwrap() {
        lyceum_types::spec::parse::Job::Tune(spec) => *spec,
        lyceum_types::spec::parse::Job::Train(_) => unreachable!(),
    }
}

fn load_with(data: &str, answers: &[&str]) -> Result<Chats, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let line = |answer: &&str| json!({ "messages": [{ "role": "user", "content": "U" }, { "role": "assistant", "content": answer }] });
    let file: String = answers.iter().map(|answer| format!("{}\n", line(answer))).collect();
    std::fs::write(folder.path().join("a.jsonl"), file).unwrap();
    let (tokenizer, template) = (tokenizer(), ChatTemplate::new(CHATML, Map::new()).unwrap());
    let words = Words { tokenizer: &tokenizer, template: Some(&template), now: 0 };
    load(&spec(data), words, 64, folder.path(), &Control::new())
}

#[test]
fn what_is_too_long_is_an_error_unless_it_is_declared() {
    let long = "x".repeat(60);
    let answers = ["a", &long, "b", "a"];
    let error = load_with("", &answers).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:2") && error.contains("too_long"), "{error}");
    let dropped = load_with("too_long = \"drop\"", &answers).unwrap();
    assert_eq!((dropped.train.len(), &dropped.split["train"][..]), (3, &[0, 2, 3][..]));
    let codes: Vec<&str> = dropped.warnings.iter().map(|w| w.code.as_str()).collect();
    assert_eq!(codes, ["duplicates", "dropped"]);
    let cut = load_with("too_long = \"cut\"", &answers).unwrap();
    assert_eq!((cut.train.len(), cut.train.sequences().unwrap().n_read(1)), (4, 64));
}

#[test]
fn a_part_is_held_out_by_the_seed() {
    let answers: Vec<String> = (0..20).map(|i| format!("answer {i}")).collect();
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let parted = || load_with("valid_fraction = 0.2", &answers).unwrap().split;
    let split = parted();
    assert_eq!((split["train"].len(), split["valid"].len()), (16, 4));
    assert_eq!(split, parted());
    assert!(split["valid"].iter().all(|row| !split["train"].contains(row)));
}
