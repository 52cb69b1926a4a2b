//! Bodies of requests as the server reads them, without a server: for those who look for bytes that it minds.

use crate::body::parse;
use crate::error::ApiError;
use crate::wire::{chat, decisions, responses};

/// What is wrong with a body of this route; `None` where the route is none of those that can be asked about.
pub fn check(route: &str, body: &[u8]) -> Option<Result<(), ApiError>> {
    Some(match route {
        "/v1/chat/completions" => parse::<chat::Body>(body).and_then(|mut body| {
            body.why()?;
            body.parse().map(drop)
        }),
        "/v1/responses" => parse::<responses::Body>(body).and_then(|body| body.parse().map(drop)),
        "/v1/decisions" => parse::<decisions::Body>(body).and_then(|body| body.parse().map(drop)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::check;
    use serde_json::{Value, json};

    fn bodies() -> [(&'static str, Value); 3] {
        let tool =
            json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": false});
        let called = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
        let said = json!({"type": "function_call_output", "call_id": "c", "output": "1"});
        let chat = json!({"model": "a", "messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}],
            "max_tokens": 9, "temperature": 0.5, "stop": ["x"], "n": 2, "logprobs": true, "top_logprobs": 2, "seed": 1,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
            "tools": [{"type": "function", "function": {"name": "f"}}], "logit_bias": {"1": 2}, "stream": true,
            "stream_options": {"include_usage": true}});
        let response = json!({"model": "a", "input": [{"role": "user", "content": "b"}, called, said], "tools": [tool],
            "text": {"format": {"type": "json_object"}}, "metadata": {"a": "b"}, "background": true, "store": true,
            "include": ["message.output_text.logprobs"], "top_logprobs": 3, "reasoning": {"effort": "none"}});
        let decision = json!({"model": "a", "input": [{"role": "user", "content": [{"type": "input_text", "text": "b"}]}],
            "questions": [{"type": "score", "instructions": "c", "levels": [{"label": "d"}, {"label": "e"}]}]});
        [("/v1/chat/completions", chat), ("/v1/responses", response), ("/v1/decisions", decision)]
    }

    /// Every place of a document.
    fn places(value: &Value, path: String, all: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(key, value)| places(value, format!("{path}/{key}"), all));
            }
            Value::Array(values) => {
                values.iter().enumerate().for_each(|(i, value)| places(value, format!("{path}/{i}"), all));
            }
            _ => {}
        }
        all.push(path);
    }

    #[test]
    fn bodies_that_lie_are_errors_with_words_and_never_a_panic() {
        let mut state = 9u64;
        let mut draw = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n.max(1)
        };
        let odd = [
            json!(null),
            json!(true),
            json!(-1),
            json!(u64::MAX),
            json!(1e308),
            json!("NaN"),
            json!(""),
            json!([]),
            json!({}),
            json!("x".repeat(70_000)),
            json!([[{}]]),
            json!({"type": "function"}),
            json!(["auto"]),
        ];
        for (route, whole) in bodies() {
            assert!(check(route, whole.to_string().as_bytes()).unwrap().is_ok(), "{route}");
            let mut all = Vec::new();
            places(&whole, String::new(), &mut all);
            let mut n_refused = 0;
            for _ in 0..700 {
                let mut document = whole.clone();
                *document.pointer_mut(&all[draw(all.len())]).unwrap() = odd[draw(odd.len())].clone();
                let mut bytes = document.to_string().into_bytes();
                match draw(4) {
                    0 => bytes.truncate(draw(bytes.len())),
                    1 => {
                        let at = draw(bytes.len());
                        bytes[at] ^= 1 << draw(8);
                    }
                    2 => {
                        let deep =
                            format!("{}{}", "[".repeat(1 << draw(18)), String::from_utf8_lossy(&bytes));
                        bytes = deep.into_bytes();
                    }
                    _ => {}
                }
                if let Err(error) = check(route, &bytes).unwrap() {
                    n_refused += 1;
                    let n = error.detail.message.len();
                    assert!(
                        (5..4000).contains(&n),
                        "{n} bytes for {}",
                        error.detail.param.unwrap_or_default()
                    );
                }
            }
            assert!(n_refused > 350, "{route}: {n_refused}");
        }
    }
}
