use super::*;
use crate::tokenizer::tests::trained;
use crate::tools::constrain::tool_grammar;
use crate::tools::parse::Calls;
use crate::tools::{Event, ToolChoice, ToolFormat, ToolParser, openai_tools};
use std::sync::OnceLock;

/// A vocabulary trained here and its compiler; the model scores a few tokens more than there are.
fn small() -> &'static (Tokenizer, GrammarCompiler) {
    static SMALL: OnceLock<(Tokenizer, GrammarCompiler)> = OnceLock::new();
    SMALL.get_or_init(|| {
        let tokenizer = Tokenizer::from_gguf(&trained().1).unwrap();
        let compiler = GrammarCompiler::new(&tokenizer, 333).unwrap();
        (tokenizer, compiler)
    })
}

struct Random(u64);

impl Random {
    fn draw(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// What a model that knows nothing says under a grammar: any allowed token, the end more gladly than others.
/// `None` where it is not done in time.
fn said(
    tokenizer: &Tokenizer,
    compiler: &GrammarCompiler,
    grammar: &Grammar,
    random: &mut Random,
) -> Option<String> {
    let mut matcher = grammar.matcher();
    let mut words = vec![0u32; compiler.n_words];
    let mut ids = Vec::new();
    for _ in 0..600 {
        matcher.allowed(&mut words).unwrap();
        let allowed: Vec<u32> = (0..32 * words.len() as u32)
            .filter(|&id| words[id as usize / 32] >> (id % 32) & 1 == 1)
            .collect();
        let ends = allowed.iter().any(|id| tokenizer.ends().contains(id));
        assert_eq!(ends, matcher.can_end());
        let bytes = |id: &&u32| tokenizer.token_bytes(**id).unwrap_or_default();
        if ends && (allowed.len() == tokenizer.ends().len() || random.draw(3) == 0) {
            return Some(tokenizer.decode_as(&ids, crate::tokenizer::ShowSpecials::Yes).unwrap());
        }
        let closing: Vec<u32> =
            allowed.iter().filter(|id| matches!(bytes(id), b"\"" | b"}" | b"]" | b"</")).copied().collect();
        let may: Vec<u32> = allowed.into_iter().filter(|id| !tokenizer.ends().contains(id)).collect();
        let from = if !closing.is_empty() && random.draw(4) == 0 { closing } else { may };
        let id = from[random.draw(from.len())];
        assert!(tokenizer.token_bytes(id).is_some(), "{id} stands for nothing");
        matcher.accept(id).unwrap();
        ids.push(id);
    }
    None
}

fn compile(constraint: &Constraint) -> Result<Grammar, LanguageError> {
    small().1.compile(constraint, None)
}

/// What is said under a constraint, ten times or more.
fn many(constraint: &Constraint) -> Vec<String> {
    let grammar = compile(constraint).unwrap();
    let mut random = Random(11);
    let answers: Vec<String> =
        (0..30).filter_map(|_| said(&small().0, &small().1, &grammar, &mut random)).collect();
    assert!(answers.len() >= 10, "only {} answers came to an end under {constraint:?}", answers.len());
    answers
}

/// A slow and small validator, for the keywords that the tests use.
fn valid(schema: &Json, root: &Json, value: &Json) -> bool {
    if let Some(to) = schema["$ref"].as_str() {
        return valid(root.pointer(&to[1..]).unwrap(), root, value);
    }
    let number = |key: &str| schema[key].as_f64();
    let of_type = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|x| x.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    };
    let type_is_right = match &schema["type"] {
        Json::Null => true,
        Json::Array(types) => types.iter().any(|one| of_type(one.as_str().unwrap())),
        one => of_type(one.as_str().unwrap()),
    };
    let within = |size: f64, least: &str, most: &str| {
        number(least).is_none_or(|min| size >= min) && number(most).is_none_or(|max| size <= max)
    };
    let sizes = match value {
        Json::String(text) => within(text.chars().count() as f64, "minLength", "maxLength"),
        Json::Array(items) => {
            within(items.len() as f64, "minItems", "maxItems")
                && items.iter().all(|item| schema.get("items").is_none_or(|schema| valid(schema, root, item)))
        }
        Json::Number(number) => within(number.as_f64().unwrap(), "minimum", "maximum"),
        Json::Object(members) => {
            let known = &schema["properties"];
            let required = schema["required"].as_array().into_iter().flatten();
            required.into_iter().all(|name| members.contains_key(name.as_str().unwrap()))
                && members.iter().all(|(name, value)| match known.get(name) {
                    Some(schema) => valid(schema, root, value),
                    None => schema["additionalProperties"] != false,
                })
        }
        _ => true,
    };
    let listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    let constant = schema.get("const").is_none_or(|constant| constant == value);
    let any = schema["anyOf"].as_array().is_none_or(|any| any.iter().any(|one| valid(one, root, value)));
    type_is_right && sizes && listed && constant && any
}

/// JSON has numbers that no float has; those answers are `None`.
fn parsed(answer: &str) -> Option<Json> {
    match serde_json::from_str(answer) {
        Ok(value) => Some(value),
        Err(error) if error.to_string().contains("number out of range") => None,
        Err(error) => panic!("{error}: {answer:?}"),
    }
}

fn schemas() -> Vec<Json> {
    vec![
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 3, "maximum": 120},
               "kind": {"enum": ["cat", "dog", 5, null]}}, "required": ["name", "age", "kind"], "additionalProperties": false}),
        json!({"type": "array", "items": {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": "é\"x"}]}, "minItems": 2, "maxItems": 5}),
        json!({"type": "object", "properties": {"value": {"type": "number"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
               "required": ["value", "next"], "additionalProperties": false}),
        json!({"type": "object", "properties": {"list": {"$ref": "#/$defs/words"}}, "required": ["list"], "additionalProperties": false,
               "$defs": {"words": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3}}}),
        json!({"type": ["string", "null"], "minLength": 1, "maxLength": 5}),
    ]
}

#[test]
fn every_answer_under_a_schema_is_valid() {
    for schema in schemas() {
        for answer in many(&Constraint::JsonSchema { schema: schema.clone(), strict: false }) {
            if let Some(value) = parsed(&answer) {
                assert!(valid(&schema, &schema, &value), "{answer} under {schema}");
            }
        }
    }
    for answer in many(&Constraint::JsonObject) {
        assert!(parsed(&answer).is_none_or(|value| value.is_object()), "{answer}");
    }
}

#[test]
fn expressions_choices_and_grammars_hold() {
    for answer in many(&Constraint::Regex(r"\d{3}-[a-c]{2,4}".into())) {
        let (digits, letters) = answer.split_once('-').unwrap();
        assert!(digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()), "{answer}");
        assert!(
            (2..=4).contains(&letters.len()) && letters.bytes().all(|b| (b'a'..=b'c').contains(&b)),
            "{answer}"
        );
    }
    let choices = ["yes", "no", "per\"haps\n", "日本"].map(str::to_owned).to_vec();
    assert!(many(&Constraint::Choice(choices.clone())).iter().all(|answer| choices.contains(answer)));
    let sums = many(&Constraint::Grammar("start: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]{1,3}/".into()));
    assert!(sums.iter().all(|sum| sum.split('+').all(|n| n.parse::<u32>().is_ok())), "{sums:?}");
}

#[test]
fn what_cannot_be_guaranteed_is_refused_by_name() {
    let refused = |schema: Json, strict: bool, place: &str, word: &str| {
        let error = compile(&Constraint::JsonSchema { schema, strict }).unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(word), "{error}");
    };
    refused(json!({"not": {}}), false, "/", "\"not\"");
    refused(json!({"type": "object", "properties": {"a": {"oneOf": []}}}), false, "/properties/a", "oneOf");
    refused(json!({"$ref": "http://example.com/x"}), false, "/", "$ref");
    refused(json!({"type": "string", "format": "no-such"}), false, "json_schema", "no-such");
    refused(json!({"x-guidance": {"lenient": true}}), false, "/", "x-guidance");
    refused(json!({"type": "strin"}), false, "json_schema", "strin");
    refused(json!({"$ref": "#/$defs/none"}), false, "json_schema", "none");
    refused(json!({"type": "string", "pattern": "("}), false, "json_schema: regex", "unclosed group");
    let one =
        |of: Json| json!({"type": "object", "properties": {"a": {"type": "string"}, "b/c": of, "d": {}}});
    let bad = json!({"type": "string", "pattern": "("});
    refused(one(bad.clone()), false, "/properties/b~1c: regex", "unclosed group");
    let list = json!({"type": "array", "items": {"anyOf": [{"type": "null"}, bad]}});
    refused(one(list), false, "/properties/b~1c/items/anyOf/1: regex", "unclosed group");
    refused(one(json!({"type": "strin"})), false, "/properties/b~1c: ", "strin");
    refused(json!({"enum": []}), false, "json_schema", "");
    refused(json!({"type": "array", "items": 3}), false, "json_schema", "");
    let object = |properties: Json, required: Json| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    refused(json!({"type": "array"}), true, "/", "root");
    refused(json!({"type": "object", "properties": {}}), true, "/", "additionalProperties");
    refused(object(json!({"a": {"type": "string"}}), json!([])), true, "/", "\"a\"");
    refused(
        object(json!({"a": {"type": "object", "properties": {}}}), json!(["a"])),
        true,
        "/properties/a",
        "additionalProperties",
    );
    refused(object(json!({"a": {"allOf": []}}), json!(["a"])), true, "/properties/a", "allOf");
    let mut deep = json!({"type": "string"});
    for _ in 0..12 {
        deep = object(json!({"a": deep}), json!(["a"]));
    }
    refused(deep, true, "depth", "10");
    let told = |constraint: Constraint| compile(&constraint).unwrap_err().to_string();
    let regex = told(Constraint::Regex("(".into()));
    assert!(regex.starts_with("regex: ") && regex.contains("unclosed group"), "{regex}");
    let endless = told(Constraint::Grammar("start: start".into()));
    assert_eq!(endless, "grammar: no answer can begin: no token of the vocabulary can come next");
    let unknown = told(Constraint::Grammar("start: \"a\"\n  | unknown".into()));
    assert!(unknown.contains("at 1(") && unknown.contains("unknown"), "{unknown}");
    assert!([regex, unknown].iter().all(|text| !text.contains('\n')));
    for constraint in [
        Constraint::Regex("(".into()),
        Constraint::Regex("a(?=b)".into()),
        Constraint::Regex("a".repeat(GRAMMAR_BYTES_MAX + 1)),
        Constraint::Choice(vec![]),
        Constraint::Choice(vec![String::new()]),
        Constraint::Choice(vec!["a".into(); CHOICES_MAX + 1]),
        Constraint::Grammar("begin: \"a\"".into()),
        Constraint::Grammar("start: unknown".into()),
    ] {
        assert!(compile(&constraint).is_err(), "{constraint:?}");
    }
}

/// Without bounds it would not end.
#[test]
fn work_is_bounded() {
    for constraint in [
        Constraint::Regex("(a|b){1,1000}(c|d){1,1000}(e|f){1,5000}".into()),
        Constraint::Regex("((a{1,100}){1,100}){1,100}".into()),
        Constraint::JsonSchema { schema: json!({"type": "string", "maxLength": 1_000_000}), strict: false },
        Constraint::JsonSchema { schema: json!({"type": "array", "minItems": 1_000_000}), strict: false },
    ] {
        if let Ok(grammar) = compile(&constraint) {
            let mut words = vec![0; small().1.n_words];
            let _ = grammar.matcher().allowed(&mut words);
        }
    }
}

#[test]
fn grammars_are_shared_and_matchers_sent() {
    fn is_shared<T: Send + Sync>() {}
    fn is_sent<T: Send>() {}
    is_shared::<GrammarCompiler>();
    is_sent::<Grammar>();
    is_sent::<Matcher>();
}

#[test]
fn it_fails_closed() {
    let grammar = compile(&Constraint::Choice(vec!["cat".into()])).unwrap();
    let mut matcher = grammar.matcher();
    let mut words = vec![u32::MAX; small().1.n_words];
    matcher.allowed(&mut words).unwrap();
    assert!(matcher.accept(319).is_err());
    assert!(matcher.allowed(&mut words).is_err());
    assert!(words.iter().all(|&word| word == 0));
    assert!(!matcher.can_end() && !matcher.is_finished());
    // Another answer of the same grammar is not touched.
    grammar.matcher().allowed(&mut words).unwrap();
    assert!(words.iter().any(|&word| word != 0));
}

#[test]
fn a_model_may_think_first() {
    let format = ReasoningFormat { open: "<think>", close: "</think>", begins: Begins::Outside };
    let choice = Constraint::Choice(vec!["cat".into()]);
    let (tokenizer, compiler) = small();
    for (begins, text, whole) in [
        (Begins::Outside, "<think>the cat {</think>\n\ncat", true),
        (Begins::Outside, "cat", true),
        (Begins::Inside, "so</think>cat", true),
        (Begins::Inside, "cat", false),
        (Begins::Outside, "<think>a</think>dog", false),
    ] {
        let grammar = compiler.compile(&choice, Some(ReasoningFormat { begins, ..format })).unwrap();
        let mut matcher = grammar.matcher();
        let ids = tokenizer
            .encode(text, crate::tokenizer::AddSpecial::No, crate::tokenizer::Specials::AsText)
            .unwrap();
        let taken = ids.iter().try_for_each(|&id| matcher.accept(id));
        assert_eq!(taken.is_ok() && matcher.can_end(), whole, "{text:?}");
    }
}

#[test]
fn forced_calls_are_found_and_follow_their_schemas() {
    let (tokenizer, compiler) = small();
    let parameters = json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": false, "$defs": {"city": {"type": "string", "maxLength": 6}}});
    let other = json!({"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": false});
    let tool = |name: &str, parameters: &Json| json!({"type": "function", "function": {"name": name, "parameters": parameters, "strict": true}});
    let tools = openai_tools(&[tool("weather", &parameters), tool("pick", &other)]).unwrap();
    for format in [
        ToolFormat::Hermes,
        ToolFormat::Llama3,
        ToolFormat::Mistral,
        ToolFormat::Json,
        ToolFormat::Pythonic,
        ToolFormat::ToolCode,
    ] {
        for (choice, calls) in [
            (ToolChoice::Required, Calls::Any),
            (ToolChoice::Required, Calls::One),
            (ToolChoice::Named("pick".into()), Calls::Any),
            (ToolChoice::Auto, Calls::Any),
        ] {
            let rules = tool_grammar(tokenizer, format, &tools, &choice, calls).unwrap().unwrap();
            let grammar = compiler
                .compile(&Constraint::Tools(rules), None)
                .unwrap_or_else(|error| panic!("{format:?} {choice:?}: {error}"));
            let mut random = Random(5);
            let mut n_calls = 0;
            for _ in 0..12 {
                let Some(answer) = said(tokenizer, compiler, &grammar, &mut random) else { continue };
                let mut parser = ToolParser::new(format, &tools, Calls::Any, 1);
                let mut events = parser.push(&answer);
                events.extend(parser.finish());
                for event in events {
                    match event {
                        Event::Call(call) => {
                            let schema = if call.name == "weather" { &parameters } else { &other };
                            let arguments: Json = serde_json::from_str(&call.arguments).unwrap();
                            assert!(valid(schema, schema, &arguments), "{}", call.arguments);
                            assert!(!matches!(choice, ToolChoice::Named(_)) || call.name == "pick");
                            n_calls += 1;
                        }
                        Event::Content(text) => {
                            assert_eq!(choice, ToolChoice::Auto, "{format:?}: {text:?} in {answer:?}")
                        }
                    }
                }
                assert!(calls == Calls::Any || parser.n_calls() == 1, "{answer}");
            }
            assert!(choice == ToolChoice::Auto || n_calls >= 5, "{format:?} {choice:?}: {n_calls} calls");
        }
    }
    assert_eq!(
        tool_grammar(tokenizer, ToolFormat::Hermes, &tools, &ToolChoice::None, Calls::Any).unwrap(),
        None
    );
    let loose = json!({"type": "object", "properties": {"a": {}}});
    let error = openai_tools(&[tool("loose", &loose)])
        .and_then(|tools| tool_grammar(tokenizer, ToolFormat::Hermes, &tools, &ToolChoice::Auto, Calls::Any))
        .unwrap_err()
        .to_string();
    assert!(error.contains("loose") && error.contains("additionalProperties"), "{error}");
}

#[test]
fn arguments_of_pythons_calls_are_written_in_order_and_left_out_where_they_may_be() {
    let (tokenizer, compiler) = small();
    let number = json!({"type": "integer", "minimum": 0, "maximum": 9});
    let parameters = json!({"type": "object", "properties": {"a": number, "b": number, "c": {"enum": [true, null]}},
        "required": ["b"], "additionalProperties": false});
    let function = json!({"type": "function", "function": {"name": "f", "parameters": parameters}});
    let tools = openai_tools(&[function]).unwrap();
    let rules = |tools: &[crate::tools::Tool]| {
        tool_grammar(tokenizer, ToolFormat::Pythonic, tools, &ToolChoice::Required, Calls::One)
    };
    let grammar = compiler.compile(&Constraint::Tools(rules(&tools).unwrap().unwrap()), None).unwrap();
    let allowed = |text: &str| {
        let mut matcher = grammar.matcher();
        let add = (crate::tokenizer::AddSpecial::No, crate::tokenizer::Specials::AsText);
        let ids = tokenizer.encode(text, add.0, add.1).unwrap();
        ids.iter().try_for_each(|&id| matcher.accept(id)).is_ok() && matcher.can_end()
    };
    for good in ["[f(b=1)]", "[f(a=0, b=1)]", "[f(b=1, c=true)]", "[f(a=9, b=1, c=null)]"] {
        assert!(allowed(good), "{good}");
    }
    for bad in
        ["[f()]", "[f(a=1)]", "[f(b=1, a=0)]", "[f(b=11)]", "[f(b=1), f(b=1)]", "[f(b=1, d=2)]", "f(b=1)", ""]
    {
        assert!(!allowed(bad), "{bad}");
    }
    let odd = json!({"type": "function", "function": {"name": "f", "parameters":
        {"type": "object", "properties": {"a b": number}, "additionalProperties": false}}});
    let error = rules(&openai_tools(&[odd]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("a b"), "{error}");

    // What cannot be compiled is told with its tool and its place.
    let good = json!({"type": "function", "function": {"name": "good", "parameters": {"type": "object"}}});
    let bad = json!({"type": "function", "function": {"name": "bad", "parameters":
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}}});
    for format in [ToolFormat::Hermes, ToolFormat::Pythonic] {
        let offered = openai_tools(&[good.clone(), bad.clone()]).unwrap();
        let rules = tool_grammar(tokenizer, format, &offered, &ToolChoice::Required, Calls::Any);
        let error =
            compiler.compile(&Constraint::Tools(rules.unwrap().unwrap()), None).unwrap_err().to_string();
        assert!(error.starts_with("tool \"bad\" parameters /properties/a: "), "{error}");
    }
}
