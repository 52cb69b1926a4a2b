//! The chat templates of real models give the texts that transformers gives
//! (`fixtures/scripts/templates.py`).

use crate::{asset, gguf};
use lyceum_language::LanguageError;
use lyceum_language::template::{ChatTemplate, Conversation, End, openai_messages};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const CASES: &str = include_str!("../../../../fixtures/language/templates.json");
const ROWS: &str = include_str!("../../../../fixtures/language/templates_real.json");

fn render(source: &str, fixture: &Value, case: &str) -> Result<String, LanguageError> {
    let template = ChatTemplate::new(source, fixture["special_tokens"].as_object().unwrap().clone())?;
    let case = &fixture["cases"][case];
    let list = |name: &str| case[name].as_array().map(Vec::as_slice);
    let messages = openai_messages(list("messages").unwrap())?;
    template.render(&Conversation {
        messages: &messages,
        tools: list("tools"),
        documents: list("documents"),
        end: match (case["add_generation_prompt"] == true, case["continue_final_message"] == true) {
            (true, _) => End::GenerationPrompt,
            (_, true) => End::ContinueFinalMessage,
            _ => End::AfterMessages,
        },
        variables: case["variables"].as_object().cloned().unwrap_or_else(Map::new),
        now: fixture["now"].as_i64().unwrap(),
        ..Conversation::default()
    })
}

/// A template from its model's own files; `None` where they are absent.
fn source(name: &str) -> Option<String> {
    if name == "smollm2" {
        let metadata = gguf::metadata(&asset("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")?);
        return gguf::text(&metadata, "tokenizer.chat_template");
    }
    if name == "qwen3" || name == "gemma3" {
        let config = std::fs::read(asset(&format!("tokenizers/{name}/tokenizer_config.json"))?).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        return config["chat_template"].as_str().map(str::to_owned);
    }
    Some(std::fs::read_to_string(asset(&format!("vocabularies/templates/{name}.jinja"))?).unwrap())
}

#[test]
fn real_templates_agree_with_transformers() {
    let fixture: Value = serde_json::from_str(CASES).unwrap();
    let rows: Vec<Value> = serde_json::from_str(ROWS).unwrap();
    let (mut wrong, mut n_kinder) = (Vec::new(), 0);
    for row in &rows {
        let (name, case) = (row["template"].as_str().unwrap(), row["case"].as_str().unwrap());
        let Some(source) = source(name) else { return };
        let ours = render(&source, &fixture, case);
        match (&ours, row["sha256"].as_str()) {
            // Python's Markup escapes what is added to it, which its author cannot have meant.
            _ if name == "meetkai-functionary-medium-v3.1" && ["tools", "called"].contains(&case) => {}
            (Ok(text), Some(hash)) => {
                let ours: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
                if ours != hash {
                    wrong.push(format!("{name} {case}: {} bytes, expected {}", text.len(), row["n_bytes"]));
                    if let Ok(folder) = std::env::var("LYCEUM_TEMPLATES_OUT") {
                        std::fs::write(format!("{folder}/{name}.{case}"), text).unwrap();
                    }
                }
            }
            (Err(_), None) => {}
            // Jinja trips over none and generators; here nothing is iterated, and an iterator is a list.
            (Ok(_), None) if row["error"].as_str().unwrap().starts_with("TypeError") => n_kinder += 1,
            (Ok(_), None) => wrong.push(format!("{name} {case}: expected an error, {}", row["error"])),
            (Err(error), Some(_)) => wrong.push(format!("{name} {case}: {error}")),
        }
    }
    assert!(n_kinder < 35, "{n_kinder} conversations are rendered that transformers refuses");
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
