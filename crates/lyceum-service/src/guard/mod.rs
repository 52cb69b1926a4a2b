//! The guard of a project's texts: what its policy looks for is masked, redacted or blocked before a model reads it,
//! and before a client does.
//!
//! ```text
//! request's texts ──▶ read (input's rule) ──▶ model ──▶ Speech (output's rule, then names back) ──▶ client
//!                       └── Names: of this request alone ────────────────────┘
//! ```
//!
//! A use case hands every text that a model would read to [`Incoming`], and what the model says to a [`Speech`] for
//! each text. What cannot be looked through or changed (tokens, tools, spans that count characters) is refused by
//! its name; a recogniser that fails ends the request. Names and values live as long as the request.
//!
//! Where a policy names a model of names, what the recognisers left is read by it too, sentence by sentence.
//!
//! Reading order: [`incoming`](Service::guard), [`Speech`], [`texts`] (where requests have their texts), [`names`], [`pii`]
//! (the routes that do it on demand), [`seal`].

pub(crate) mod attacks;
pub mod flags;
pub(crate) mod names;
pub mod pii;
mod seal;
pub(crate) mod texts;

use crate::receipts::{self, Direction, Witness};
use crate::{Service, ServiceError};
use flags::Flagged;
use lyceum_guard::placeholder::Written;
use lyceum_guard::stream::{Block, InJson, rewrite};
use lyceum_guard::{
    Action, Analyser, Exfiltration, Finding, GuardError, Keep, Kind, Names, Policy, Redact, Replace,
    Restorer, Rewriter, Rule, Wanted,
};
use lyceum_store::tenancy::Act;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use std::borrow::Cow;
use std::sync::Arc;

pub use lyceum_guard;

/// A text that a model would read.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    /// The field of the request.
    pub param: String,
    pub text: String,
    pub written: Written,
    pub change: Change,
}

/// Whether a text may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    May,
    /// Its characters count: what would be masked is refused with this reason.
    MayNot(&'static str),
}

impl Text {
    pub fn new(param: impl Into<String>, text: impl Into<String>) -> Self {
        Self { param: param.into(), text: text.into(), written: Written::Plain, change: Change::May }
    }

    pub fn fixed(param: impl Into<String>, text: impl Into<String>, why: &'static str) -> Self {
        Self { change: Change::MayNot(why), ..Self::new(param, text) }
    }
}

/// Says what a project's texts are looked through for from now on.
pub async fn set_policy(
    service: &Service,
    project: &Project,
    policy: &Policy,
    act: &Act,
) -> Result<(), ServiceError> {
    if policy.looks_for_names() {
        let model = policy.ner_model.as_deref().unwrap_or_default();
        names::NameModel::find(service, project, &names::reference(model)?).await?;
    }
    if !policy.prompt_injection.stops.is_off() && service.guards().prompt_injection.is_none() {
        let message = "prompt_injection: this server has no classifier for it: its operator names one in \
                       guard_prompt_injection";
        return Err(ServiceError::invalid("prompt_injection", "guard_unplaceable", message));
    }
    lyceum_store::tenancy::guards::set_policy(&service.store, project, policy, act).await?;
    service.standings_changed();
    Ok(())
}

/// What holds for the texts of one request.
#[derive(Clone)]
pub(crate) struct Incoming {
    analyser: Analyser,
    /// Reads what the others left, sentence by sentence.
    names: Option<Analyser>,
    exfiltration: Exfiltration,
    policy: Policy,
    witness: Option<Arc<Witness>>,
    flagged: Flagged,
}

tokio::task_local! {
    /// There while a red-team run asks what the guard is worth.
    static LOOSENED: ();
}

/// Does `work` as if the project's policy looked for personal data in what comes in and for nothing else. Whoever asks
/// for it lets no answer leave.
pub(crate) async fn loosened<W: Future>(work: W) -> W::Output {
    LOOSENED.scope((), work).await
}

/// The policy that holds for the work under way.
pub(crate) fn holding(policy: &Policy) -> Cow<'_, Policy> {
    match LOOSENED.try_with(|()| ()) {
        Ok(()) => {
            let (input, ner_model) = (policy.input.clone(), policy.ner_model.clone());
            Cow::Owned(Policy { input, ner_model, ..Policy::default() })
        }
        Err(_) => Cow::Borrowed(policy),
    }
}

impl Service {
    /// The guard of a project; None where nothing is looked for.
    pub(crate) async fn guard(&self, project: &Project) -> Result<Option<Incoming>, ServiceError> {
        let standing = self.standing(project).await?;
        let policy = holding(&standing.guard);
        if policy.is_off() {
            return Ok(None);
        }
        let names = match policy.ner_model.as_deref().filter(|_| policy.looks_for_names()) {
            None => None,
            // Without it nothing is known of a text: nothing of it may pass.
            Some(model) => Some(names::of_policy(self, project, model).await?),
        };
        let (exfiltration, policy) = (self.guards().exfiltration.clone(), policy.into_owned());
        let (analyser, witness) = (self.analyser.clone(), receipts::current());
        let flagged = Flagged::of(&self.flagged);
        Ok(Some(Incoming { analyser, names, exfiltration, policy, witness, flagged }))
    }

    /// With these recognisers in the place of Lyceum's own.
    #[must_use]
    pub fn with_analyser(self, analyser: Analyser) -> Self {
        Self { analyser, ..self }
    }
}

impl Incoming {
    /// Whether what comes in is looked through.
    pub fn reads(&self) -> bool {
        !self.policy.input.is_off()
    }

    /// Refuses what asks for more than text of what the model says, where that may be changed on its way out.
    pub fn refuse_unplaceable(&self, asked: &[(&str, bool)]) -> Result<(), ServiceError> {
        if self.policy.is_off_for_answers() {
            return Ok(());
        }
        match asked.iter().find(|(_, is_asked)| *is_asked) {
            None => Ok(()),
            Some((param, _)) => Err(unplaceable(param, "the project's guard changes what goes out")),
        }
    }

    /// Refuses what cannot be looked through on its way in.
    pub fn refuse_unreadable(&self, param: &str, what: &str) -> Result<(), ServiceError> {
        match self.reads() || !self.policy.is_off_for_attacks() {
            true => Err(unplaceable(param, &format!("the project's guard cannot look through {what}"))),
            false => Ok(()),
        }
    }

    /// The texts as a model may read them, in their order, and what brings them back.
    ///
    /// # Errors
    /// Something is blocked, or found where it cannot be masked; a recogniser failed.
    pub async fn read(self, texts: Vec<Text>) -> Result<(Vec<String>, Guarded), ServiceError> {
        let n_bytes: usize = texts.iter().map(|text| text.text.len()).sum();
        if n_bytes <= limits::GUARD_INLINE_BYTES_MAX && self.names.is_none() {
            return self.read_now(texts);
        }
        let work = tokio::task::spawn_blocking(move || self.read_now(texts)).await;
        work.map_err(|error| ServiceError::internal("looking through texts broke off", error))?
    }

    fn read_now(self, texts: Vec<Text>) -> Result<(Vec<String>, Guarded), ServiceError> {
        let mut names = Names::default();
        let rule = &self.policy.input;
        if rule.action == Action::Mask {
            texts.iter().for_each(|text| names.avoid(&text.text));
        }
        let mut read = Vec::with_capacity(texts.len());
        let mut is_changed = false;
        for text in texts {
            let made = self.one(rule, &text, &mut names)?;
            is_changed |= made.is_some();
            read.push(made.unwrap_or(text.text));
        }
        let Incoming { analyser, names: of_names, exfiltration, policy, witness, flagged } = self;
        let carrying = (policy.data_exfiltration != Action::Off)
            .then(|| (Analyser::new(vec![Box::new(exfiltration)]), policy.data_exfiltration));
        let of_names = of_names.filter(|_| wants_names(&policy.output));
        let (output, names) = (policy.output, Arc::new(names));
        Ok((read, Guarded { analyser, of_names, output, carrying, names, is_changed, witness, flagged }))
    }

    /// What stands for a text; None where it stays.
    fn one(&self, rule: &Rule, text: &Text, names: &mut Names) -> Result<Option<String>, ServiceError> {
        if rule.is_off() {
            return Ok(None);
        }
        let mut made: Option<String> = None;
        let of_names = self.names.as_ref().filter(|_| wants_names(rule));
        for analyser in [Some(&self.analyser), of_names].into_iter().flatten() {
            let now = made.as_deref().unwrap_or(&text.text);
            let found = analyser.analyse(now, &rule.wanted).map_err(failed)?;
            if found.is_empty() {
                continue;
            }
            if rule.action == Action::Flag {
                for found in &found {
                    self.flagged.add(Direction::Input, found.kind);
                    if let Some(witness) = &self.witness {
                        witness.changed(Direction::Input, Action::Flag.as_str(), found.kind);
                    }
                }
                continue;
            }
            let kinds = kinds(found.iter().map(|found| found.kind));
            let next = match (rule.action, text.change) {
                (Action::Block, _) => return Err(blocked(&text.param, &kinds)),
                (_, Change::MayNot(why)) => {
                    return Err(unplaceable(&text.param, &format!("it holds {kinds}: {why}")));
                }
                (Action::Mask, _) => replaced(analyser, rule, (now, text.written), &mut *names)?,
                _ => replaced(analyser, rule, (now, text.written), Redact)?,
            };
            if let Some(witness) = &self.witness {
                let action = rule.action.as_str();
                found.iter().for_each(|found| witness.changed(Direction::Input, action, found.kind));
            }
            made = Some(next);
        }
        Ok(made)
    }
}

/// Whether a rule looks for what takes a model.
fn wants_names(rule: &Rule) -> bool {
    !rule.is_off() && rule.kinds().is_none_or(|kinds| kinds.iter().any(|kind| kind.takes_a_model()))
}

fn replaced(
    analyser: &Analyser,
    rule: &Rule,
    (text, written): (&str, Written),
    mut replace: impl Replace,
) -> Result<String, ServiceError> {
    let made = match written {
        Written::Plain => rewrite(analyser, &rule.wanted, text, &mut replace),
        Written::Json => rewrite(analyser, &rule.wanted, text, &mut InJson::new(replace)),
    };
    made.map_err(failed)
}

/// A request whose texts were read.
#[derive(Clone)]
pub(crate) struct Guarded {
    analyser: Analyser,
    of_names: Option<Analyser>,
    output: Rule,
    /// Finds addresses that carry data away, and what is done with them.
    carrying: Option<(Analyser, Action)>,
    names: Arc<Names>,
    is_changed: bool,
    witness: Option<Arc<Witness>>,
    flagged: Flagged,
}

impl Guarded {
    /// Refuses what counts places or tokens of texts that were changed.
    pub fn refuse_changed(&self, asked: &[(&str, bool)]) -> Result<(), ServiceError> {
        match asked.iter().find(|(_, is_asked)| *is_asked && self.is_changed) {
            None => Ok(()),
            Some((param, _)) => {
                Err(unplaceable(param, "the project's guard changed the text that it would be about"))
            }
        }
    }

    /// Refuses what tells tokens: those of the model are not those of the text.
    pub fn refuse_tokens(&self, param: &str) -> Result<(), ServiceError> {
        match self.is_changed || self.output.changes() || self.carrying.is_some() {
            true => {
                Err(unplaceable(param, "the project's guard changes the text whose tokens they would be"))
            }
            false => Ok(()),
        }
    }

    /// For one text that a model says.
    pub fn speech(&self, written: Written) -> Speech {
        let writer = || match self.output.action {
            Action::Off => None,
            Action::Flag => Some(Writer::Flag(Keep)),
            Action::Mask => Some(Writer::Mask(Box::new(InJson::new(self.names.beside())))),
            Action::Redact => Some(Writer::Redact(InJson::new(Redact))),
            Action::Block => Some(Writer::Block(Block)),
        };
        let of = |analyser: &Analyser| {
            writer().map(|writer| (Rewriter::new(analyser, &self.output.wanted), writer))
        };
        // Of kinds that no other analyser finds, so names of the one are none of the other.
        let rewriters: Vec<_> =
            [Some(&self.analyser), self.of_names.as_ref()].into_iter().flatten().filter_map(of).collect();
        let carrying = self.carrying.as_ref().map(|(analyser, action)| {
            let writer = match action {
                Action::Block => Writer::Block(Block),
                _ => Writer::Redact(InJson::new(Redact)),
            };
            (Rewriter::new(analyser, &Wanted::default()), writer)
        });
        let (names, witness, flagged) = (self.names.clone(), self.witness.clone(), self.flagged.clone());
        Speech { rewriters, written, restorer: Restorer::new(written), names, carrying, witness, flagged }
    }
}

enum Writer {
    Flag(Keep),
    Mask(Box<InJson<Names>>),
    Redact(InJson<Redact>),
    Block(Block),
}

/// A text that a model says, on its way to the client: looked through, then with its names back.
pub(crate) struct Speech {
    /// One behind the other: by form, then by a model of names.
    rewriters: Vec<(Rewriter, Writer)>,
    written: Written,
    restorer: Restorer,
    names: Arc<Names>,
    /// Behind the names: what they bring back may be what an address would carry away.
    carrying: Option<(Rewriter, Writer)>,
    witness: Option<Arc<Witness>>,
    flagged: Flagged,
}

impl Speech {
    /// What can go on now that `text` was said.
    ///
    /// # Errors
    /// Something is blocked; a recogniser failed.
    pub fn push(&mut self, text: &str) -> Result<String, ServiceError> {
        let heard = (self.written, self.witness.as_deref(), &self.flagged);
        let mut seen = std::borrow::Cow::Borrowed(text);
        for (rewriter, writer) in &mut self.rewriters {
            seen = writer.write(heard, |replace| rewriter.push(&seen, replace))?.into();
        }
        let said = self.restorer.push(&self.names, &seen);
        match &mut self.carrying {
            None => Ok(said),
            Some((rewriter, writer)) => writer.write(heard, |replace| rewriter.push(&said, replace)),
        }
    }

    /// Nothing more is said: the rest.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> Result<String, ServiceError> {
        let heard = (self.written, self.witness.as_deref(), &self.flagged);
        let mut seen = String::new();
        for (rewriter, writer) in &mut self.rewriters {
            let passed = writer.write(heard, |replace| rewriter.push(&seen, replace))?;
            seen = passed + &writer.write(heard, |replace| rewriter.finish(replace))?;
        }
        let said = self.restorer.push(&self.names, &seen) + &self.restorer.finish();
        let Some((rewriter, writer)) = &mut self.carrying else { return Ok(said) };
        let passed = writer.write(heard, |replace| rewriter.push(&said, replace))?;
        Ok(passed + &writer.write(heard, |replace| rewriter.finish(replace))?)
    }

    /// A text that is there as a whole.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn whole(mut self, text: &str) -> Result<String, ServiceError> {
        Ok(self.push(text)? + &self.finish()?)
    }
}

impl Writer {
    fn action(&self) -> &'static str {
        let action = match self {
            Writer::Flag(_) => Action::Flag,
            Writer::Mask(_) => Action::Mask,
            Writer::Redact(_) => Action::Redact,
            Writer::Block(_) => Action::Block,
        };
        action.as_str()
    }

    fn write(
        &mut self,
        (written, witness, flagged): (Written, Option<&Witness>, &Flagged),
        go: impl FnOnce(&mut &mut dyn Replace) -> Result<String, GuardError>,
    ) -> Result<String, ServiceError> {
        let action = self.action();
        let replace: &mut dyn Replace = match (self, written) {
            (Writer::Block(block), _) => block,
            (Writer::Flag(keep), _) => keep,
            (Writer::Mask(json), Written::Json) => &mut **json,
            (Writer::Mask(json), Written::Plain) => &mut json.replace,
            (Writer::Redact(json), Written::Json) => json,
            (Writer::Redact(json), Written::Plain) => &mut json.replace,
        };
        let mut noting = Noting { replace, witness, action, flagged };
        let mut replace: &mut dyn Replace = &mut noting;
        go(&mut replace).map_err(|error| match error {
            GuardError::Blocked { kinds: found } => {
                let kinds = kinds(found.into_iter());
                let message = format!("the answer holds {kinds}, which the project's guard lets nobody read");
                ServiceError::Guarded { param: None, code: "guard_blocked_output", message }
            }
            other => failed(other),
        })
    }
}

/// Tells a witness what was put in the place of something else.
struct Noting<'a> {
    replace: &'a mut dyn Replace,
    witness: Option<&'a Witness>,
    action: &'static str,
    flagged: &'a Flagged,
}

impl Replace for Noting<'_> {
    fn replace(&mut self, found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError> {
        self.replace.replace(found, text, out)?;
        if self.action == Action::Flag.as_str() {
            self.flagged.add(Direction::Output, found.kind);
        }
        if let Some(witness) = self.witness {
            witness.changed(Direction::Output, self.action, found.kind);
        }
        Ok(())
    }

    fn pass(&mut self, text: &str) {
        self.replace.pass(text);
    }
}

fn kinds(found: impl Iterator<Item = Kind>) -> String {
    let mut kinds: Vec<&str> = found.map(Kind::as_str).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.join(", ")
}

/// Names what was found, never what it says.
fn blocked(param: &str, kinds: &str) -> ServiceError {
    let message = format!("{param} holds {kinds}, which the project's guard lets no model read: take it out");
    ServiceError::Guarded { param: Some(param.to_owned()), code: "guard_blocked", message }
}

fn unplaceable(param: &str, why: &str) -> ServiceError {
    let message = format!("{param}: {why}");
    ServiceError::Guarded { param: Some(param.to_owned()), code: "guard_unplaceable", message }
}

/// Nothing is known of a text: nothing of it may pass.
fn failed(error: GuardError) -> ServiceError {
    match error {
        GuardError::TooMany { n_max } => {
            let message = format!("more than {n_max} values would be masked: send less at once");
            ServiceError::Guarded { param: None, code: "guard_too_many", message }
        }
        error => {
            tracing::error!(%error, "a text could not be looked through");
            ServiceError::GuardFailed
        }
    }
}

/// Refuses to say why a text was said where the guard may change it on its way out.
pub async fn require_unchanged_answers(
    service: &Service,
    project: &Project,
    param: &str,
) -> Result<(), ServiceError> {
    match service.guard(project).await? {
        Some(guard) => guard.refuse_unplaceable(&[(param, true)]),
        None => Ok(()),
    }
}
