use super::*;
use crate::tools::{ToolChoice, callable, openai_tool_choice, openai_tools};
use proptest::prelude::*;
use serde_json::json;

fn tools() -> Vec<Tool> {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
    openai_tools(&[tool("get_weather"), tool("add")]).unwrap()
}

/// Events of a text that comes in these pieces; neighbouring contents are one.
fn events(format: ToolFormat, calls: Calls, pieces: &[&str]) -> Vec<Event> {
    let mut parser = ToolParser::new(format, &tools(), calls, 7);
    let mut all: Vec<Event> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    all.extend(parser.finish());
    let mut merged: Vec<Event> = Vec::new();
    for event in all {
        match (merged.last_mut(), event) {
            (Some(Event::Content(before)), Event::Content(text)) => before.push_str(&text),
            (_, event) => merged.push(event),
        }
    }
    merged
}

/// `name(arguments)` for calls, the text for contents.
fn told(format: ToolFormat, text: &str) -> Vec<String> {
    let told = |event| match event {
        Event::Content(text) => text,
        Event::Call(call) => format!("{}({})", call.name, call.arguments),
    };
    events(format, Calls::Any, &[text]).into_iter().map(told).collect()
}

const PARIS: &str = r#"{"name": "get_weather", "arguments": {"city": "Pa}r\"is</tool_call>", "days": 1.50}}"#;
const CALLED: &str = r#"get_weather({"city":"Pa}r\"is</tool_call>","days":1.5})"#;

#[test]
fn each_family_writes_calls_in_its_way() {
    use ToolFormat::{Hermes, Json, Llama3, Mistral, Pythonic, ToolCode};
    let add = r#"{"name":"add","parameters":{"a":1,"b":2}}"#;
    let added = r#"add({"a":1,"b":2})"#;
    for (format, text, expected) in [
        (Hermes, format!("<tool_call>\n{PARIS}\n</tool_call>"), vec![CALLED]),
        (
            Hermes,
            format!("Sure.\n<tool_call>{PARIS}</tool_call>\n<tool_call>{add}</tool_call>\n"),
            vec!["Sure.", CALLED, added],
        ),
        (Hermes, format!("<tool_call>[{PARIS}, {add}]</tool_call>"), vec![CALLED, added]),
        (Hermes, format!("<tool_call>{add}"), vec![added]),
        (Hermes, "plain <tool_ text ".into(), vec!["plain <tool_ text "]),
        (Hermes, " ".into(), vec![" "]),
        (Llama3, add.into(), vec![added]),
        (Llama3, format!("<|python_tag|>{add}; {add}"), vec![added, added]),
        (Llama3, format!(" {add}\n"), vec![added]),
        (Llama3, format!("{add} and text"), vec![added, " and text"]),
        (Llama3, format!("see {add}"), vec![&format!("see {add}")]),
        (Mistral, format!("[TOOL_CALLS][{PARIS},{add}]"), vec![CALLED, added]),
        (
            Mistral,
            r#"hm [TOOL_CALLS]add[ARGS]{"a":1,"b":2}[TOOL_CALLS]add[CALL_ID]x[ARGS]{}"#.into(),
            vec!["hm", added, "add({})"],
        ),
        (Mistral, r#"[TOOL_CALLS]add{"a": 1, "b": 2}"#.into(), vec![added]),
        (Json, format!("```json\n{add}\n```\n"), vec![added]),
        (Json, format!("[{add},{PARIS}]"), vec![added, CALLED]),
        (Json, "```python\nprint(1)\n```".into(), vec!["```python\nprint(1)\n```"]),
        (Llama3, "[add(a=1, b=2)]".into(), vec![added]),
        (
            Pythonic,
            r#"[add(a=1,b=2), get_weather(city='Pa}r"is</tool_call>', days=1.50)]"#.into(),
            vec![added, CALLED],
        ),
        (Pythonic, format!("[{add}]"), vec![added]),
        (Json, "```tool_code\nadd(a=1,\n  b=2)\n```".into(), vec![added]),
        (ToolCode, "```tool_code\nadd(a=1, b=2)\nadd()\n```\n".into(), vec![added, "add({})"]),
        (ToolCode, "```python\nadd(a=1, b=2)".into(), vec![added]),
        (
            ToolCode,
            "```tool_code\nadd(a=\"```\", b=2)\n``` text".into(),
            vec![r#"add({"a":"```","b":2})"#, " text"],
        ),
        (
            Json,
            r#"{"type":"function","function":{"name":"add","arguments":"{\"a\":1}"}}"#.into(),
            vec![r#"add({"a":1})"#],
        ),
    ] {
        assert_eq!(told(format, &text), expected, "{format:?} {text}");
    }
}

#[test]
fn what_is_no_call_is_content_letter_by_letter() {
    use ToolFormat::{Hermes, Json, Llama3, Mistral, Pythonic, ToolCode};
    for (format, text) in [
        (Pythonic, "[add(1, 2)]"),
        (Pythonic, "[add(a=1), sub(a=1)]"),
        (Pythonic, "[addition] and [add("),
        (Pythonic, "add(a=1)"),
        (ToolCode, "```tool_code\nadd(a=x)\n```"),
        (ToolCode, "```python\nadditions = add(a=1)\n```"),
        (Llama3, "[1, 2]"),
        (Hermes, r#"<tool_call>{"name": "unknown", "arguments": {}}</tool_call>"#),
        (Hermes, r#"a <tool_call>{"name": "add", "argu"#),
        (Hermes, "x\n<tool_call> hello </tool_call> y"),
        (Hermes, r#"<tool_call>{"name": "add", "arguments": [1]}</tool_call>"#),
        (Hermes, r#"<tool_call>{name: add}</tool_call>"#),
        (Llama3, r#"{"answer": 42}"#),
        (Llama3, r#"<|python_tag|>print(1)"#),
        (Mistral, "[TOOL_CALLS]"),
        (Mistral, r#"[TOOL_CALLS]sub{"a":1}"#),
        (Json, r#"[1, 2]"#),
        (Json, "```json\n{\"a\": 1}\n```"),
    ] {
        assert_eq!(told(format, text), [text], "{format:?}");
    }
    assert!(told(ToolFormat::Hermes, "").is_empty());
}

#[test]
fn one_call_is_one_call() {
    let text = format!("<tool_call>{PARIS}</tool_call><tool_call>{PARIS}</tool_call>");
    let mut parser = ToolParser::new(ToolFormat::Hermes, &tools(), Calls::One, 7);
    assert_eq!(parser.push(&text).len(), 1);
    assert!(parser.is_done() && parser.finish().is_empty());
    assert_eq!(events(ToolFormat::Hermes, Calls::Any, &[&text]).len(), 2);
}

#[test]
fn ids_are_drawn_from_the_seed() {
    let text = format!("<tool_call>{PARIS}</tool_call><tool_call>{PARIS}</tool_call>");
    let ids = |format, text: &str| -> Vec<String> {
        let id = |event| match event {
            Event::Call(call) => call.id,
            Event::Content(text) => panic!("{text}"),
        };
        events(format, Calls::Any, &[text]).into_iter().map(id).collect()
    };
    let hermes = ids(ToolFormat::Hermes, &text);
    assert!(hermes.iter().all(|id| id.len() == 29 && id.starts_with("call_")), "{hermes:?}");
    assert_ne!(hermes[0], hermes[1]);
    assert_eq!(ids(ToolFormat::Mistral, &format!("[TOOL_CALLS][{PARIS}]"))[0].len(), 9);
}

#[test]
fn offers_are_checked_by_name() {
    let refused = |tool: Json, word: &str| {
        let error = openai_tools(&[tool]).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("tools[0]"), "{error}");
    };
    refused(json!({"type": "web_search"}), "web_search");
    refused(json!({"type": "function", "function": {"name": "a b"}}), "a b");
    refused(json!({"type": "function", "function": {}}), "name");
    refused(
        json!({"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}),
        "parameters",
    );
    refused(json!({"type": "function", "function": {"name": "a", "strict": 1}}), "strict");
    let same = json!({"type": "function", "function": {"name": "a"}});
    assert!(openai_tools(&[same.clone(), same.clone()]).is_err());
    assert!(openai_tools(&vec![same; 129]).is_err());

    let choice = |choice: Json| openai_tool_choice(Some(&choice), &tools());
    assert_eq!(openai_tool_choice(None, &tools()).unwrap(), ToolChoice::Auto);
    assert_eq!(openai_tool_choice(None, &[]).unwrap(), ToolChoice::None);
    assert_eq!(choice(json!("required")).unwrap(), ToolChoice::Required);
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    assert_eq!(choice(named("add")).unwrap(), ToolChoice::Named("add".into()));
    assert!(choice(named("sub")).unwrap_err().to_string().contains("sub"));
    assert!(choice(json!("maybe")).is_err());
    assert!(openai_tool_choice(Some(&json!("required")), &[]).is_err());
    let custom = choice(json!({"type": "custom", "custom": {"name": "add"}})).unwrap_err().to_string();
    assert!(custom.contains("\"custom\" is none of function, allowed_tools"), "{custom}");
}

#[test]
fn allowed_tools_leave_some_of_the_tools() {
    let allowed = |mode: &str, names: &[&str]| {
        let named = |name: &&str| json!({"type": "function", "function": {"name": name}});
        let tools: Vec<Json> = names.iter().map(named).collect();
        json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
    };
    let left = |choice: Json| {
        let mode = openai_tool_choice(Some(&choice), &tools())?;
        let left: Vec<String> = callable(Some(&choice), tools())?.into_iter().map(|tool| tool.name).collect();
        Ok::<_, crate::LanguageError>((mode, left))
    };
    assert_eq!(left(allowed("auto", &["add"])).unwrap(), (ToolChoice::Auto, vec!["add".to_owned()]));
    assert_eq!(left(allowed("required", &["add"])).unwrap().0, ToolChoice::Required);
    assert_eq!(callable(Some(&json!("auto")), tools()).unwrap().len(), tools().len());
    for (wrong, word) in [
        (allowed("none", &["add"]), "mode"),
        (allowed("auto", &[]), "names no function"),
        (allowed("auto", &["add", "sub"]), "tools[1]: \"sub\""),
        (json!({"type": "allowed_tools"}), "mode"),
    ] {
        let error = left(wrong).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_cut_gives_the_same_events(
        format in prop_oneof![Just(ToolFormat::Hermes), Just(ToolFormat::Llama3), Just(ToolFormat::Mistral), Just(ToolFormat::Json),
            Just(ToolFormat::Pythonic), Just(ToolFormat::ToolCode)],
        words in proptest::collection::vec(0usize..24, 0..14),
        cuts in proptest::collection::vec(0usize..200, 0..20),
        one in any::<bool>(),
    ) {
        const WORDS: [&str; 24] = [
            "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "```", "json\n", ";", " ", "\n",
            r#"{"name":"add","arguments":{"a":"}é"}}"#, r#"[{"name":"add","parameters":{}}]"#, r#"{"a":[1]}"#, "{", "]",
            "add", "text é", "<tool_", "tool_code\n", "add(a=1)", "[add(b='x')]", "[", "(", "`",
        ];
        let text: String = words.iter().map(|&i| WORDS[i]).collect();
        let calls = if one { Calls::One } else { Calls::Any };
        let whole = events(format, calls, &[&text]);
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        prop_assert_eq!(&events(format, calls, &letters), &whole, "{}", text);
        let mut ends: Vec<usize> = cuts.into_iter().filter(|&cut| text.is_char_boundary(cut)).collect();
        ends.extend([0, text.len()]);
        ends.sort_unstable();
        let pieces: Vec<&str> = ends.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(&events(format, calls, &pieces), &whole, "{}", text);
    }
}
