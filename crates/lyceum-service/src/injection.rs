//! What reads the texts of requests and answers for what should not be in them: the recognisers of `lyceum-guard`, and a
//! classifier of prompt injection that Lyceum trained and the operator (or the request) names.
//!
//! A classifier reads so many tokens. A longer text is read in windows that overlap by half, and its score is the highest of
//! them: an instruction that is cut by one window is whole in the next.

use crate::meter::{Counts, Share, metered};
use crate::resident::{self, Resident};
use crate::{Payer, Service, ServiceError, predict};
use lyceum_guard::Exfiltration;
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Prepared, PreparedValue};
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;
use std::ops::Range;
use std::sync::Arc;

/// What the operator has set up.
#[derive(Clone, Debug, Default)]
pub struct Guards {
    /// A classifier of the default project, which reads for everybody.
    pub prompt_injection: Option<ModelRef>,
    /// Knows the hosts that answers may tell anything.
    pub exfiltration: Exfiltration,
}

impl Guards {
    /// `trusted_hosts`: see [`Exfiltration::new`].
    pub fn new(prompt_injection: Option<ModelRef>, trusted_hosts: Vec<String>) -> Self {
        Guards { prompt_injection, exfiltration: Exfiltration::new(trusted_hosts) }
    }
}

/// From here on an injection is one, where nobody says another number.
pub const INJECTION_THRESHOLD: f64 = 0.5;

/// Names for the label of attacks.
const POSITIVE: [&str; 6] = ["1", "true", "yes", "positive", "injection", "prompt_injection"];

/// A classifier that knows two labels, one of them for attacks.
#[derive(Clone)]
pub struct InjectionGuard {
    resident: Arc<Resident>,
    positive: usize,
}

/// What a text was taken for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Injection {
    /// The highest probability of its windows; 0 for a text without tokens.
    pub score: f64,
    /// Characters of each window, and its probability.
    pub windows: Vec<(Range<usize>, f64)>,
}

impl InjectionGuard {
    /// The classifier that `asked` names among the project's models, or the operator's; None: there is neither.
    ///
    /// # Errors
    /// A model that is not there or tells other things apart; of the operator's then nothing is known of any text.
    pub async fn find(
        service: &Service,
        project: &Project,
        asked: Option<&ModelRef>,
    ) -> Result<Option<Self>, ServiceError> {
        let resident = match (asked, &service.guards().prompt_injection) {
            (Some(model), _) => service.resident(project, model).await?,
            (None, Some(model)) => {
                return Self::configured(service, model).await.map(Some).map_err(|error| {
                    tracing::error!(%error, %model, "the configured guard of prompt injections cannot be asked");
                    ServiceError::GuardFailed
                });
            }
            (None, None) => return Ok(None),
        };
        let positive = positive(&resident)?;
        Ok(Some(InjectionGuard { resident, positive }))
    }

    /// The operator lends it: no project needs a permission for it, and its limits are not the project's.
    async fn configured(service: &Service, model: &ModelRef) -> Result<Self, ServiceError> {
        let owner = Project::default_project();
        let version = lyceum_store::models::resolve(service.store(), &owner, model).await?;
        let resident = service.residents.load(version, resident::read).await?;
        let positive = positive(&resident)?;
        Ok(InjectionGuard { resident, positive })
    }

    /// `name@3`
    pub fn id(&self) -> String {
        self.resident.version.id()
    }

    /// What each text is taken for, and the tokens that were read; paid as predictions are.
    ///
    /// # Errors
    /// More tokens than one request reads; a limit or budget; the engine.
    pub async fn judge(
        &self,
        service: &Service,
        payer: &Payer,
        texts: &[&str],
    ) -> Result<(Vec<Injection>, u64), ServiceError> {
        let texts_owned: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let resident = self.resident.clone();
        let cut =
            move || texts_owned.iter().map(|text| windows(&resident, text)).collect::<Result<Vec<_>, _>>();
        let cut = tokio::task::spawn_blocking(cut).await;
        let cut = cut.map_err(|error| ServiceError::internal("reading texts broke off", error))??;
        let prepared: Vec<Prepared> = cut.iter().flatten().map(|(_, window)| window.clone()).collect();
        let n_tokens: u64 = prepared.iter().map(predict::n_tokens).sum();
        if n_tokens > limits::ENCODED_TOKENS_MAX as u64 || prepared.len() > limits::INSTANCES_MAX {
            let message = format!(
                "{n_tokens} tokens in {} windows are more than {} in {}, which one request reads",
                prepared.len(),
                limits::ENCODED_TOKENS_MAX,
                limits::INSTANCES_MAX
            );
            return Err(ServiceError::invalid("input", "context_length_exceeded", message));
        }
        if prepared.is_empty() {
            return Ok((vec![Injection::default(); texts.len()], 0));
        }
        crate::rates::spend(n_tokens)?;
        self.resident.watch.count(&payer.project, &self.resident, &prepared);
        let most = Counts { input_tokens: n_tokens, ..Counts::default() };
        let work = async |share: Share| service.predict(&self.resident, prepared, &share).await;
        let rows = metered(service.ledger(), payer, &self.resident.version, most, work).await?;
        let mut rows = rows.iter().map(|row| predict::softmax(row)[self.positive]);
        let injections = cut.into_iter().map(|cut| {
            let windows: Vec<(Range<usize>, f64)> =
                cut.into_iter().map(|(span, _)| span).zip(rows.by_ref()).collect();
            Injection { score: windows.iter().map(|&(_, p)| p).fold(0.0, f64::max), windows }
        });
        Ok((injections.collect(), n_tokens))
    }
}

/// The place of the label of attacks.
fn positive(resident: &Resident) -> Result<usize, ServiceError> {
    let id = resident.version.id();
    let refuse = |why: &str| {
        let message = format!("{id} cannot guard against prompt injections: {why}");
        Err(ServiceError::invalid("model", "unsupported_model", message))
    };
    if !matches!(resident.preparation.input, InputPreparation::Text { .. }) {
        return refuse("it does not read texts");
    }
    let OutputPreparation::Labels { names } = &resident.preparation.output else {
        return refuse("it is not a classifier");
    };
    let is_positive = |name: &String| POSITIVE.contains(&name.to_lowercase().as_str());
    match names.as_slice() {
        [a, b] if is_positive(a) != is_positive(b) => Ok(usize::from(is_positive(b))),
        _ => refuse("it needs two labels, one of them 1, true, yes, positive, injection or prompt_injection"),
    }
}

/// The pieces of a text that the classifier reads, each with its characters: all of it, or windows that overlap by half.
fn windows(resident: &Resident, text: &str) -> Result<Vec<(Range<usize>, Prepared)>, ServiceError> {
    let InputPreparation::Text { tokenizer, max_tokens } = &resident.preparation.input else {
        return Err(ServiceError::internal("a guard does not read texts", "bug"));
    };
    let tokens = tokenizer.encode_spans(text).map_err(|error| ServiceError::prepare("input", error))?;
    let window = |from: usize| {
        let tokens = &tokens[from..(from + max_tokens).min(tokens.len())];
        let value = PreparedValue::Tokens(tokens.iter().map(|(id, _)| *id).collect());
        let span = tokens[0].1.start..tokens[tokens.len() - 1].1.end;
        (span, Prepared { value, n_truncated: 0 })
    };
    Ok(starts(tokens.len(), *max_tokens).map(window).collect())
}

/// Where windows of `size` begin so that they cover `n` and overlap by half; the last one ends with the text.
fn starts(n: usize, size: usize) -> impl Iterator<Item = usize> {
    let step = (size / 2).max(1);
    let last = n.saturating_sub(size);
    let full = (0..last).step_by(step);
    full.chain((n > 0).then_some(last))
}

impl Service {
    /// What the operator has set up.
    pub fn guards(&self) -> &Guards {
        &self.guards
    }

    /// With these guards for everybody.
    #[must_use]
    pub fn with_guards(self, guards: Guards) -> Self {
        Self { guards, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_a_text_and_overlap_by_half() {
        let of = |n, size| starts(n, size).collect::<Vec<_>>();
        assert_eq!(of(0, 4), [0; 0]);
        assert_eq!(of(3, 4), [0]);
        assert_eq!(of(4, 4), [0]);
        assert_eq!(of(5, 4), [0, 1]);
        assert_eq!(of(9, 4), [0, 2, 4, 5]);
        assert_eq!(of(3, 1), [0, 1, 2]);
        for n in 1..40 {
            let starts = of(n, 8);
            assert!(starts.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= 4));
            assert_eq!(*starts.last().unwrap(), n.saturating_sub(8));
        }
    }
}
