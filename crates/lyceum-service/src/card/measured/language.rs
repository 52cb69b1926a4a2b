//! What a run over a language model found, on its way to later cards: environments and attacks on a system prompt, as
//! numbers. No text, secret or chat stands in them; instructions are told apart by the beginning of their sha256.

use super::keep;
use crate::ServiceError;
use crate::card::sections::plain;
use crate::robustness::Finding;
use crate::robustness::language::Run;
use lyceum_store::Store;
use lyceum_store::models::Version;
use lyceum_types::card::{Number, Part, Section, Stated};
use lyceum_types::clock::Timestamp;

/// Keeps what a run found beside its version. `data` names the texts, `recompute` is the command that runs it again.
///
/// # Errors
/// The folder is full, or the disk refuses.
pub async fn keep_language_run(
    store: &Store,
    version: &Version,
    run: &Run,
    data: &str,
    recompute: &str,
) -> Result<(), ServiceError> {
    let now = Timestamp::now();
    let (mut robustness, mut environments) = (Section::default(), Section::default());
    for finding in &run.findings {
        let is_environment = finding.method == "environment";
        let section = if is_environment { &mut environments } else { &mut robustness };
        let data = if is_environment { data } else { "the program's attacks and those of the suite" };
        if !finding.value.is_finite() {
            let what = format!("{} ({})", finding.metric, finding.setting);
            section.missing(&what, "what was computed is no finite number", recompute);
            continue;
        }
        section.numbers.push(number(version, run.seed, finding, (data, recompute, now)));
    }
    let attacks =
        "A share of attacks says how this fixed set fares, not how somebody would who knows the model.";
    robustness.statements.push(attacks.into());
    let places = "Environments are compared with the one that each number names; places of one text depend on each other.";
    environments.statements.push(places.into());
    keep(store, version, (Part::Robustness, robustness), now).await?;
    keep(store, version, (Part::Environments, environments), now).await
}

fn number(
    version: &Version,
    seed: u64,
    finding: &Finding,
    (data, recompute, now): (&str, &str, Timestamp),
) -> Number {
    let unit = match finding.metric {
        "kl_mean" | "kl_max" | "logprob_difference_max" => "nats",
        "perplexity" => "tokens that are as likely",
        _ => "share",
    };
    let is_environment = finding.method == "environment";
    let (ci95, interval) = match (finding.ci95, is_environment) {
        (Some(ci95), true) => (Stated::Is(ci95), "Clopper and Pearson, 95 %"),
        (Some(ci95), false) => (Stated::Is(ci95), "Wilson, 95 %"),
        (None, _) => (Stated::not_evaluated("the run made none"), "none"),
    };
    let by = if is_environment { "environment" } else { "attacks on a system prompt" };
    let method = if is_environment { String::new() } else { format!(" {},", finding.method) };
    Number {
        ci95,
        interval: interval.into(),
        n: Stated::Is(finding.n),
        method: format!("{by}:{method} {}, {}, on {data}", finding.setting, finding.budget),
        seed: Stated::Is(seed),
        recompute: recompute.to_owned(),
        doubts: finding.flags.clone(),
        ..plain(&version.id(), now.date_time(), finding.metric, (finding.value, unit))
    }
}
