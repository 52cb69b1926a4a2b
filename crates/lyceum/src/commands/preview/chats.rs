//! What a fine-tuning will read: conversations in the base's own template, with the tokens that are learnt.

use super::{Part, marked_with, painted};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{output, tuning};
use lyceum_language::tokenizer::Tokenizer;
use lyceum_service::language::adapter;
use lyceum_train::chat::{self, Chats, Epoch, Seen};
use lyceum_train::preview::SeenToken;
use lyceum_types::spec::tune::{Origin, TuneSpec};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Steps whose rows are listed.
const STEPS_LISTED_MAX: u64 = 10_000;

pub(super) async fn show(
    context: &Context,
    spec: TuneSpec,
    base_dir: PathBuf,
    part: Part,
    n: usize,
) -> Result<(), Failure> {
    let store = context.store().await?;
    let plan = tuning::plan(context, &store, spec, base_dir).await?;
    let version = tuning::base_of(context, &store, &plan).await?;
    let origin = if adapter::is_adapter(&version) { Origin::Adapter } else { Origin::Whole };
    let version = tuning::whole_of(&store, &version).await?;
    let (control, is_json) = (context.control.clone(), context.is_json());
    let work = move || -> Result<(), Failure> {
        let language = lyceum_service::Language::open(version)?;
        let words = tuning::words(&language, &plan);
        let chats = chat::load(&plan.tune, words, tuning::context_of(&language), &plan.base_dir, &control)?;
        let set = match part {
            Part::Train => Some(&chats.train),
            Part::Valid => chats.valid.as_ref(),
            Part::Test => None,
        };
        let set = set.ok_or_else(|| {
            let message = format!("there is no {} part", part.as_str());
            let fix = "add valid = \"…\" or valid_fraction = 0.1 under [data]";
            Failure::new(Exit::Usage, "no_part", message, "the spec names no such rows", fix)
        })?;
        let (seen, epoch) = (chat::examples(set, n), chat::epoch(set));
        let train = plan.tune.resolve(chats.train.len(), origin);
        let order = match part {
            // Which lines a private step draws is a secret of its job.
            Part::Train if plan.tune.privacy.is_some() => Vec::new(),
            Part::Train => chat::order(&train, plan.tune.seed, set, STEPS_LISTED_MAX),
            _ => Vec::new(),
        };
        let tokenizer = &language.words.tokenizer;
        match is_json {
            true => as_json(&chats, tokenizer, (&seen, &epoch, &order), part),
            false => for_people(&chats, tokenizer, &seen, &epoch, part),
        }
        Ok(())
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::internal("the preview broke off", &error))?
}

fn text_of(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned()
}

fn as_json(
    chats: &Chats,
    tokenizer: &Tokenizer,
    (seen, epoch, order): (&[Seen], &Epoch, &[Vec<usize>]),
    part: Part,
) {
    let tokens = |sequence: &Vec<SeenToken>| -> Value {
        let token =
            |t: &SeenToken| json!({ "id": t.id, "text": text_of(tokenizer, t.id), "loss": t.has_loss });
        sequence.iter().map(token).collect()
    };
    for one in seen {
        output::json_line(&match &one.sequences[..] {
            [preferred, other] => json!({
                "part": part.as_str(), "row": one.row, "preferred": tokens(preferred), "non_preferred": tokens(other)
            }),
            all => json!({
                "part": part.as_str(), "row": one.row, "tokens": all.first().map_or(Value::Null, tokens)
            }),
        });
    }
    output::json_line(&json!({
        "event": "done", "part": part.as_str(), "shown": seen.len(),
        "epoch": {
            "examples": epoch.n_examples, "tokens": epoch.n_tokens, "loss_terms": epoch.n_learnt,
            "longest": epoch.longest, "padding": 0,
        },
        "order": order,
        "warnings": chats.warnings,
    }));
}

fn for_people(chats: &Chats, tokenizer: &Tokenizer, seen: &[Seen], epoch: &Epoch, part: Part) {
    for warning in &chats.warnings {
        output::note(format!("warning: {} ({})", warning.message, warning.hint));
    }
    let color = output::stdout_has_color();
    output::text(match color {
        true => format!("tokens are parted by | and those that are learnt are {}", painted("green", true)),
        false => "tokens are parted by | and those that are learnt stand in [brackets]".to_owned(),
    });
    for one in seen {
        output::text(format!("row {}", one.row));
        for (i, sequence) in one.sequences.iter().enumerate() {
            let name = match (one.sequences.len(), i) {
                (1, _) => "",
                (_, 0) => "preferred      ",
                _ => "non-preferred  ",
            };
            output::text(format!("  {name}{}", marked_with(|id| text_of(tokenizer, id), sequence, color)));
        }
    }
    output::text(format!(
        "{} part: {} examples an epoch, {} tokens ({} at most a sequence) without padding, {} of them learnt",
        part.as_str(),
        epoch.n_examples,
        epoch.n_tokens,
        epoch.longest,
        epoch.n_learnt
    ));
}
