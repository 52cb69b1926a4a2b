//! Why an imported language model says what it says: the numbers are those of asking it again without each part, the
//! same alone and inline, whole and streamed.

use crate::house::House;
use crate::language::house;
use crate::responses::typed;
use serde_json::{Value, json};

const SYSTEM: &str = "You are brief. The café is shut.";
const USER: &str = "Where is it? Tell me. It rains";

fn messages(system: &str, user: &str) -> Value {
    json!([{"role": "system", "content": system}, {"role": "user", "content": user}])
}

async fn ids(house: &House, body: Value) -> Vec<u64> {
    let answer = house.client.post("/tokenize", &body).await.json();
    answer["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// The sum of the log-probabilities of what was said, by another way: a completion of the whole text's tokens with
/// all of its prompt reported.
async fn scored(house: &House, prompt: &[u64], said: &[u64]) -> f64 {
    let all = [prompt, said].concat();
    let body =
        json!({"model": "tiny", "prompt": all, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0});
    let answer = house.client.post("/v1/completions", &body).await.json();
    let told = answer["choices"][0]["prompt_logprobs"].as_array().unwrap();
    // The shortest decimals that mean the same f32.
    let one = |(at, id): (&Value, &u64)| f64::from(at[id.to_string()]["logprob"].as_f64().unwrap() as f32);
    told[prompt.len()..].iter().zip(said).map(one).sum()
}

/// What an explanation of `said` has to be, from texts without each part.
async fn by_hand(house: &House, parts: &[(usize, &str)], said: &str) -> (f64, Vec<f64>) {
    let said = ids(house, json!({"model": "tiny", "prompt": said, "add_special_tokens": false})).await;
    let mut values = Vec::new();
    for out in std::iter::once(None).chain(parts.iter().map(Some)) {
        let without = |i: usize, text: &str| match out {
            Some((message, part)) if *message == i => text.replacen(part, "", 1),
            _ => text.to_owned(),
        };
        let asked = messages(&without(0, SYSTEM), &without(1, USER));
        let prompt = ids(house, json!({"model": "tiny", "messages": asked})).await;
        values.push(scored(house, &prompt, &said).await);
    }
    let whole = values.remove(0);
    (whole, values.into_iter().map(|without| whole - without).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_worth_what_the_answer_loses_without_it_to_the_last_bit() {
    let house = house().await;
    let asked = json!({"model": "tiny", "messages": messages(SYSTEM, USER), "completion": "In the town.",
        "granularity": "sentence"});
    let answer = house.client.post("/v1/explanations", &asked).await.json();
    let parts = [
        (0, "You are brief. "),
        (0, "The café is shut."),
        (1, "Where is it? "),
        (1, "Tell me. "),
        (1, "It rains"),
    ];
    let (whole, values) = by_hand(&house, &parts, "In the town.").await;
    assert_eq!(answer["method"], "leave_one_out", "{answer}");
    assert_eq!((&answer["exact"], answer["output"]["quantity"].as_str()), (&json!(true), Some("logprob")));
    assert_eq!(answer["output"]["value"].as_f64(), Some(whole));
    let attributions = answer["attributions"].as_array().unwrap();
    let told: Vec<f64> = attributions.iter().map(|a| a["value"].as_f64().unwrap()).collect();
    assert_eq!(told, values);
    assert!(values.iter().any(|value| value.abs() > 1e-3), "something matters: {values:?}");
    let places: Vec<(u64, u64, u64)> = attributions
        .iter()
        .map(|a| ["message", "char_start", "char_end"].map(|key| a[key].as_u64().unwrap()).into())
        .collect();
    assert_eq!(places, [(0, 0, 15), (0, 15, 32), (1, 0, 13), (1, 13, 22), (1, 22, 30)]);
    assert_eq!(answer["usage"]["forward_passes"], 7);
    let again = house.client.get(&format!("/v1/explanations/{}", answer["id"].as_str().unwrap())).await;
    assert_eq!(again.json()["attributions"], answer["attributions"]);
    // The whole is the sum of its pieces.
    let of = async |text: &str| {
        let mut asked = asked.clone();
        asked["target"] = json!({"text": text});
        house.client.post("/v1/explanations", &asked).await.json()["output"]["value"].as_f64().unwrap()
    };
    let sum = of("In ").await + of("the").await + of(" town.").await;
    assert!((sum - whole).abs() < 1e-4, "{sum} and {whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linear_model_over_masks_is_fitted_to_texts_that_were_really_scored() {
    let house = house().await;
    let said = "In the town.";
    let asked = json!({"model": "tiny", "messages": messages(SYSTEM, USER), "completion": said,
        "granularity": "word", "method": "contextcite", "n_samples": 24, "seed": 5});
    let answer = house.client.post("/v1/explanations", &asked).await.json();
    assert_eq!((&answer["method"], &answer["exact"]), (&json!("contextcite"), &json!(false)), "{answer}");
    assert_eq!(answer["output"]["quantity"], "log_odds");
    let fit = &answer["fit"];
    assert_eq!(
        (&fit["n_ablations"], &fit["n_held_out"], &fit["alpha"]),
        (&json!(24), &json!(6), &json!(0.01))
    );
    assert!(fit["lds"].as_f64().unwrap().abs() <= 1.0);
    let parts = answer["attributions"].as_array().unwrap();
    let part = |i: usize| {
        let [message, start, end] =
            ["message", "char_start", "char_end"].map(|key| parts[i][key].as_u64().unwrap() as usize);
        (message, start..end)
    };
    let said = ids(&house, json!({"model": "tiny", "prompt": said, "add_special_tokens": false})).await;
    let without = async |out: &dyn Fn(usize) -> bool| {
        let text = |which: usize, text: &str| -> String {
            let gone =
                |at: usize| (0..parts.len()).any(|i| out(i) && part(i).0 == which && part(i).1.contains(&at));
            text.chars().enumerate().filter(|(at, _)| !gone(*at)).map(|(_, c)| c).collect()
        };
        let asked = messages(&text(0, SYSTEM), &text(1, USER));
        let prompt = ids(&house, json!({"model": "tiny", "messages": asked})).await;
        scored(&house, &prompt, &said).await
    };
    let odds = |p: f64| p - (-p.exp_m1()).ln();
    let masks = fit["ablations"]["masks"].as_array().unwrap();
    for at in [0, 11, 23] {
        let mask = masks[at].as_str().unwrap().as_bytes();
        let value = without(&|i| mask[i] == b'0').await;
        assert_eq!(fit["ablations"]["values"][at].as_f64(), Some(odds(value)), "mask {at}");
    }
    let weight = |i: usize| parts[i]["value"].as_f64().unwrap();
    let first = (0..parts.len()).max_by(|&i, &j| weight(i).total_cmp(&weight(j)).then(j.cmp(&i))).unwrap();
    let whole = without(&|_| false).await;
    assert_eq!(answer["output"]["value"].as_f64(), Some(odds(whole)));
    let drop = &fit["top_k_drop"][0];
    assert_eq!(
        (&drop["k"], drop["logprob_drop"].as_f64()),
        (&json!(1), Some(whole - without(&|i| i == first).await))
    );
    // All, the masks, and without the first one, three and five (of which some may be a mask again).
    let passes = answer["usage"]["forward_passes"].as_u64().unwrap();
    assert!((25..=28).contains(&passes), "{passes}");
    assert_eq!(house.client.post("/v1/explanations", &asked).await.json()["fit"], *fit, "the seed decides");
    let mut contrast = asked.clone();
    contrast["target"] = json!({"text": "town", "not": "rain"});
    let contrast = house.client.post("/v1/explanations", &contrast).await.json();
    assert_eq!(contrast["target"]["contrast"], "rain");
    assert!(contrast["usage"]["forward_passes"].as_u64().unwrap() > 48, "two texts a mask: {contrast}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_word_over_another_is_the_difference_of_their_log_probabilities() {
    let house = house().await;
    let asked = json!({"model": "tiny", "prompt": "In the town it rains", "completion": " and so",
        "granularity": "word", "target": {"text": "so", "not": "xo"}});
    let answer = house.client.post("/v1/explanations", &asked).await.json();
    let token = async |text: &str| ids(&house, json!({"model": "tiny", "prompt": text})).await;
    for (without, at) in
        [("In the town it rains", None), ("the town it rains", Some(0)), ("In the town it ", Some(4))]
    {
        let prompt = token(&format!("{without} and ")).await;
        let [this, other] = [token("s").await, token("x").await];
        let value = scored(&house, &prompt, &this).await - scored(&house, &prompt, &other).await;
        let full = answer["output"]["value"].as_f64().unwrap();
        match at {
            None => assert_eq!(full, value),
            Some(i) => assert_eq!(answer["attributions"][i]["value"].as_f64().unwrap(), full - value),
        }
    }
    assert_eq!(answer["usage"]["forward_passes"], 2 * 7, "two texts for each of five words, all and none");
    assert_eq!(answer["target"]["contrast"], "xo");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_brings_its_explanation_whole_and_streamed() {
    let house = house().await;
    let mut asked = json!({"model": "tiny", "messages": messages(SYSTEM, USER), "max_tokens": 12, "temperature": 0,
        "ignore_eos": true, "explain": {"granularity": "sentence"}});
    let whole = house.client.post("/v1/chat/completions", &asked).await.json();
    let said = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let alone = json!({"model": "tiny", "messages": messages(SYSTEM, USER), "completion": said,
        "granularity": "sentence"});
    let alone = house.client.post("/v1/explanations", &alone).await.json();
    assert_eq!(whole["explanation"]["attributions"], alone["attributions"], "{whole}");
    asked["stream"] = true.into();
    let events = house.client.post("/v1/chat/completions", &asked).await.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(last["explanation"]["attributions"], alone["attributions"], "{last}");
    assert_eq!(last["choices"], json!([]));
    // A completion's answer too, by the same way.
    let asked = json!({"model": "tiny", "prompt": "In the town", "max_tokens": 8, "temperature": 0, "ignore_eos": true,
        "explain": {"granularity": "word"}});
    let answer = house.client.post("/v1/completions", &asked).await.json();
    assert_eq!(answer["explanation"]["attributions"].as_array().unwrap().len(), 3, "{answer}");
}

/// The last event of an answer like this.
fn whole_end(response: &Value) -> String {
    format!("response.{}", response["status"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_brings_its_explanation_whole_streamed_and_kept() {
    let house = house().await;
    let mut asked = json!({"model": "tiny", "instructions": SYSTEM, "input": USER, "max_output_tokens": 8,
        "temperature": 0, "seed": 1, "explain": {"granularity": "sentence", "method": "gradient_x_input"}});
    let whole = house.client.post("/v1/responses", &asked).await.json();
    let said = whole["output"][0]["content"][0]["text"].as_str().unwrap().to_owned();
    let alone = json!({"model": "tiny", "messages": messages(SYSTEM, USER), "completion": said,
        "granularity": "sentence", "method": "gradient_x_input"});
    let alone = house.client.post("/v1/explanations", &alone).await.json();
    assert_eq!(whole["explanation"]["attributions"], alone["attributions"], "{whole} {alone}");
    assert_eq!(alone["attributions"].as_array().unwrap().len(), 5);
    let kept = house.client.get(&format!("/v1/responses/{}", whole["id"].as_str().unwrap())).await.json();
    assert_eq!(kept["explanation"], whole["explanation"]);
    asked["stream"] = true.into();
    let events = typed(&house.client.post("/v1/responses", &asked).await);
    let last = events.last().unwrap();
    assert!(last["type"].as_str().is_some_and(|t| t.starts_with("response.")), "{last}");
    assert_eq!(last["response"]["explanation"]["attributions"], alone["attributions"], "{last}");
    // In the background it is made behind the answer, kept with it, and told with its last event.
    let mut queued = asked.clone();
    queued["background"] = true.into();
    let events = typed(&house.client.post("/v1/responses", &queued).await);
    let last = events.last().unwrap();
    assert_eq!(last["type"], whole_end(&whole), "{last}");
    assert_eq!(last["response"]["explanation"]["attributions"], alone["attributions"], "{last}");
    let id = last["response"]["id"].as_str().unwrap();
    let kept = house.client.get(&format!("/v1/responses/{id}")).await.json();
    assert_eq!(kept["explanation"], last["response"]["explanation"]);
    for (extra, status, param) in [
        (json!({"explain": {"method": "tracin"}}), 400, "explain.method"),
        (json!({"explain": {"method": "saliency"}}), 501, "method"),
        (json!({"explain": {"granularity": "patch:2"}}), 400, "granularity"),
    ] {
        let mut asked = asked.clone();
        asked.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = house.client.post("/v1/responses", &asked).await;
        assert_eq!(answer.status, status, "{extra}: {}", answer.text());
        assert_eq!(answer.json()["error"]["param"], param, "{extra}: {}", answer.text());
    }
}

/// How open each choice was stands beside its probability, on every route, and is the same everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_told_with_the_entropy_of_their_choice() {
    let house = house().await;
    let base = json!({"model": "tiny", "max_tokens": 6, "temperature": 0, "ignore_eos": true});
    let with = |more: Value| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let chat = with(json!({"messages": messages(SYSTEM, USER), "logprobs": true, "top_logprobs": 3}));
    let chat = house.client.post("/v1/chat/completions", &chat).await.json();
    let content = chat["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 6);
    for token in content {
        let entropy = token["entropy"].as_f64().unwrap();
        // At least that of the chosen token and of all others together.
        let p = token["logprob"].as_f64().unwrap().exp();
        let two = -p * p.ln() - (1.0 - p) * (1.0 - p).ln();
        assert!(entropy > 0.0 && entropy >= two - 1e-6, "{token}");
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3);
    }
    let prompt = ids(&house, json!({"model": "tiny", "messages": messages(SYSTEM, USER)})).await;
    let text =
        house.client.post("/v1/completions", &with(json!({"prompt": prompt, "logprobs": 1}))).await.json();
    let entropies = text["choices"][0]["logprobs"]["token_entropies"].as_array().unwrap();
    let same: Vec<&Value> = content.iter().map(|token| &token["entropy"]).collect();
    assert_eq!(entropies.iter().collect::<Vec<_>>(), same);
    let echo = with(json!({"prompt": "In", "logprobs": 0, "echo": true, "max_tokens": 1}));
    let echo = house.client.post("/v1/completions", &echo).await.json();
    assert!(
        echo["choices"][0]["logprobs"]["token_entropies"][0].is_null(),
        "the first has no probability: {echo}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_explained_is_refused_by_name() {
    let house = house().await;
    let base = json!({"model": "tiny", "messages": messages(SYSTEM, USER), "completion": "In the town."});
    for (extra, status, param) in [
        (json!({"method": "saliency"}), 501, "method"),
        (json!({"method": "relevance", "quantity": "logprob"}), 400, "quantity"),
        (json!({"method": "direct_logit_attribution", "quantity": "probability"}), 400, "quantity"),
        (json!({"method": "direct_logit_attribution", "baseline": {"type": "zeros"}}), 400, "baseline"),
        (json!({"method": "gradient_x_input", "baseline": {"type": "drop"}}), 400, "baseline"),
        (json!({"method": "relevance", "epsilon": 0.0}), 400, "epsilon"),
        (json!({"method": "integrated_gradients", "n_steps": 20, "max_passes": 20}), 400, "max_passes"),
        (json!({"baseline": {"type": "zeros"}}), 400, "baseline"),
        (json!({"quantity": "probability"}), 400, "quantity"),
        (json!({"evaluate": ["deletion_auc"]}), 501, "evaluate"),
        (json!({"granularity": "patch:2"}), 400, "granularity"),
        (json!({"target": {"text": "Rome"}}), 400, "target"),
        (json!({"target": {"label": "yes"}}), 400, "target"),
        (json!({"target": {"text": "town", "not": "town"}}), 400, "target"),
        (json!({"max_passes": 4, "granularity": "word"}), 400, "max_passes"),
        (json!({"max_passes": 9, "method": "contextcite"}), 400, "max_passes"),
        (json!({"max_passes": 40, "method": "contextcite", "n_samples": 64}), 400, "max_passes"),
        (json!({"n_samples": 7, "method": "contextcite"}), 400, "n_samples"),
        (json!({"n_samples": 64, "method": "leave_one_out"}), 400, "n_samples"),
        (json!({"quantity": "logprob", "method": "contextcite"}), 400, "quantity"),
        (json!({"completion": ""}), 400, "completion"),
        (json!({"prompt": "x"}), 400, "completion"),
        (json!({"messages": [{"role": "user", "content": ""}]}), 400, "messages"),
        (json!({"messages": [{"role": "", "content": "x"}]}), 400, "messages[0].role"),
        (json!({"messages": [{"role": "developer", "content": "x"}]}), 400, "messages"),
    ] {
        let mut asked = base.clone();
        asked.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = house.client.post("/v1/explanations", &asked).await;
        assert_eq!(answer.status, status, "{extra}: {}", answer.text());
        assert_eq!(answer.json()["error"]["param"], param, "{extra}: {}", answer.text());
    }
    let chat =
        json!({"model": "tiny", "messages": messages(SYSTEM, USER), "max_tokens": 4, "n": 2, "explain": {}});
    assert_eq!(house.client.post("/v1/chat/completions", &chat).await.json()["error"]["param"], "explain");
}

/// The whole matrix: every method that is named explains a chat and a text, with numbers that agree with each other, or is
/// refused as the list says.
#[tokio::test(flavor = "multi_thread")]
async fn every_method_that_is_listed_works_and_every_other_is_refused() {
    let house = house().await;
    let listed = house.client.get("/v1/models/tiny/explanation_methods").await.json();
    let chat = json!({"model": "tiny", "messages": messages(SYSTEM, USER), "completion": "In the town."});
    let text = json!({"model": "tiny", "prompt": "In the town it rains", "completion": " and so"});
    let mut works = Vec::new();
    for method in listed["data"].as_array().unwrap() {
        let name = method["method"].as_str().unwrap();
        for (base, word) in [(&chat, "town"), (&text, "so")] {
            for target in [json!(null), json!({"text": word}), json!({"text": word, "not": "xo"})] {
                let mut asked = base.clone();
                asked["method"] = name.into();
                asked["granularity"] = "word".into();
                if !target.is_null() {
                    asked["target"] = target;
                }
                if name == "integrated_gradients" {
                    asked["n_steps"] = 12.into();
                }
                if name == "conductance" {
                    asked["layer"] = "layers.0".into();
                }
                let answer = house.client.post("/v1/explanations", &asked).await;
                if method["supported"] == false {
                    // It was not tuned here, which is said of this model alone.
                    let status = if name == "tracin" { 400 } else { 501 };
                    assert_eq!(answer.status, status, "{asked}: {}", answer.text());
                    assert_eq!(answer.json()["error"]["param"], "method");
                    assert!(method["reason"].is_string());
                    continue;
                }
                assert_eq!(answer.status, 200, "{asked}: {}", answer.text());
                agrees(name, &asked, &answer.json(), &house).await;
            }
        }
        if method["supported"] == true {
            works.push(name);
        }
        if name == "integrated_gradients" {
            let passes = method["passes"].as_str().unwrap();
            assert!(passes.starts_with("n_steps and 3") && passes.contains("40, and 13 more"), "{passes}");
            for (n_steps, n) in [(json!(5), 8), (json!(null), 40)] {
                let mut asked = text.clone();
                (asked["method"], asked["max_passes"]) = (name.into(), n.into());
                if !n_steps.is_null() {
                    asked["n_steps"] = n_steps;
                }
                let answer = house.client.post("/v1/explanations", &asked).await.json();
                assert_eq!(answer["usage"]["forward_passes"], n, "{answer}");
            }
        }
    }
    let all = [
        "leave_one_out",
        "contextcite",
        "direct_logit_attribution",
        "gradient_x_input",
        "integrated_gradients",
        "relevance",
    ];
    assert_eq!(works, all);
}

/// What an explanation must keep, whatever the method.
async fn agrees(name: &str, asked: &Value, answer: &Value, house: &House) {
    let parts = answer["attributions"].as_array().unwrap();
    assert_eq!(answer["method"], name);
    assert!(parts.iter().all(|part| part["value"].as_f64().is_some_and(f64::is_finite)), "{answer}");
    assert!(parts.iter().any(|part| part["value"].as_f64() != Some(0.0)), "{asked}: {answer}");
    let sum: f64 = parts.iter().map(|part| part["value"].as_f64().unwrap()).sum();
    let value = answer["output"]["value"].as_f64().unwrap();
    match name {
        "direct_logit_attribution" => {
            assert_eq!(parts[0]["component"], "embedding");
            assert_eq!(parts[1]["component"], "layers.0.attention");
            assert!((sum - value).abs() < 1e-4, "{sum} {value}");
        }
        "relevance" => {
            let base = answer["output"]["base_value"].as_f64().unwrap();
            assert!((sum + base - value).abs() < 1e-4, "{asked}: {sum} + {base}, {value}");
        }
        // The log-probability is that of scoring.
        "gradient_x_input" | "integrated_gradients" => {
            let mut scored = asked.clone();
            scored["method"] = "leave_one_out".into();
            scored.as_object_mut().unwrap().remove("n_steps");
            let scored = house.client.post("/v1/explanations", &scored).await.json();
            let far = value - scored["output"]["value"].as_f64().unwrap();
            assert!(far.abs() < 1e-4, "{asked}: {far:e}");
            assert_eq!(scored["attributions"].as_array().unwrap().len(), parts.len());
            assert!(answer["usage"]["backward_passes"].as_u64().unwrap() > 0);
        }
        _ => {}
    }
}
