//! Which tokens of which sequences the next pass takes: no model, no clock, no threads.
//!
//! A step: those that run give one token each (and guesses), then pieces of prompts, within a budget of
//! tokens; what is left goes to those that wait. While somebody's client waits, what can wait has a small part of it.
//! Waiting sequences are taken by class, then from the tenant that got the least so far, then by arrival. Who starts gets pages for all that is known of it; who needs
//! a page when there is none takes it from whoever has the worst place, which then waits again and is
//! computed anew. Whoever has the best place is never disturbed, so everybody comes to an end.

use super::blocks::{Before, Blocks};
use super::draft;
use super::sequence::{Priority, Sequence, Tenant};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub running_max: usize,
    /// Tokens of one pass.
    pub step_tokens_max: usize,
    /// Tokens of the batch class in one pass, while there is work of the interactive one: a stream waits for no more.
    pub batch_beside_max: usize,
    /// Tokens of one sequence in one pass.
    pub piece_max: usize,
    /// Tokens guessed at once; 0: none.
    pub draft_max: usize,
    /// Passes of more rows than this guess nothing more: guesses are free only while weights are waited for.
    pub draft_rows_max: usize,
    /// What a sequence made itself is computed otherwise than what it reads, so with other bits: no row has both, and what
    /// was made is not kept for others, who would read it.
    pub made_apart: bool,
}

/// Rows whose logits are reported are few at a time: each is as wide as the vocabulary.
const REPORTED_PIECE_MAX: usize = 64;

/// The part of one sequence in the next pass: its tokens `start..start + n`, and guesses behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub id: u64,
    pub start: usize,
    pub n: usize,
    pub guesses: Vec<u32>,
    /// Whether the first of them is behind what the sequence reads.
    pub is_made: bool,
}

/// Tokens that a pass may still take.
struct Budget {
    left: usize,
    /// Of these, of the batch class.
    of_batch: usize,
}

impl Budget {
    fn of(&self, class: Priority) -> usize {
        match class {
            Priority::Interactive => self.left,
            Priority::Batch => self.left.min(self.of_batch),
        }
    }

    fn spend(&mut self, class: Priority, n: usize) {
        self.left -= n;
        if class == Priority::Batch {
            self.of_batch -= n;
        }
    }

    fn give_back(&mut self, class: Priority, n: usize) {
        self.left += n;
        if class == Priority::Batch {
            self.of_batch += n;
        }
    }
}

pub(crate) struct Scheduler {
    limits: Limits,
    /// None: the model keeps nothing in pages.
    pub blocks: Option<Blocks>,
    sequences: BTreeMap<u64, Sequence>,
    running: Vec<u64>,
    waiting: BTreeMap<(Priority, Tenant), Vec<u64>>,
    /// Tokens that each tenant with work got; one that comes starts where the least served is.
    served: BTreeMap<Tenant, u64>,
    pub n_preemptions: u64,
    /// Of these, those that were told.
    n_told: u64,
    /// Tokens that were looked for among what was computed, and those that were found, since it was told.
    prefix_tokens: (u64, u64),
    /// Tokens that were guessed rightly.
    pub n_guessed: u64,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits, blocks: Option<Blocks>) -> Scheduler {
        let (sequences, waiting, served) = Default::default();
        Scheduler {
            limits,
            blocks,
            sequences,
            running: Vec::new(),
            waiting,
            served,
            n_preemptions: 0,
            n_told: 0,
            prefix_tokens: (0, 0),
            n_guessed: 0,
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Since the last call: how often somebody gave way, how many tokens were looked for among what was computed, and
    /// how many of them were found.
    pub(crate) fn take_counts(&mut self) -> [u64; 3] {
        let preemptions = self.n_preemptions - self.n_told;
        self.n_told = self.n_preemptions;
        let (queries, hits) = std::mem::take(&mut self.prefix_tokens);
        [preemptions, queries, hits]
    }

    pub(crate) fn n_running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn get(&self, id: u64) -> &Sequence {
        &self.sequences[&id]
    }

    #[cfg(test)]
    pub(crate) fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.sequences.values()
    }

    /// Whether a sequence can come to its end when it runs alone: the others are not let in.
    pub(crate) fn can_ever_fit(n_positions_max: usize, n_pages: usize, page: usize) -> bool {
        n_positions_max.div_ceil(page) <= n_pages
    }

    pub(crate) fn add(&mut self, sequence: Sequence) {
        let least = self.served.values().min().copied().unwrap_or(0);
        self.served.entry(sequence.tenant).or_insert(least);
        self.wait(&sequence);
        self.sequences.insert(sequence.id, sequence);
    }

    fn wait(&mut self, sequence: &Sequence) {
        let line = self.waiting.entry((sequence.priority, sequence.tenant)).or_default();
        let at = line.partition_point(|&id| id < sequence.id);
        line.insert(at, sequence.id);
    }

    /// Who is next in a class: of the tenant that got the least (of equals, who came first), but nobody whose
    /// beginning is just being computed.
    fn next(&self, priority: Priority) -> Option<u64> {
        let lines = self.waiting.iter().filter(|((class, _), _)| *class == priority);
        let ready = lines.filter_map(|((_, tenant), line)| {
            let id = line.iter().find(|id| !self.is_being_computed(&self.sequences[id]))?;
            Some((self.served[tenant], *id))
        });
        ready.min().map(|(_, id)| id)
    }

    /// Whether somebody who runs is about to leave pages that this sequence begins with.
    fn is_being_computed(&self, sequence: &Sequence) -> bool {
        let Some(blocks) = self.blocks.as_ref().filter(|blocks| blocks.shares && sequence.shares) else {
            return false;
        };
        let kept = |sequence: &Sequence| self.n_kept_max(sequence).min(sequence.tokens.len());
        let wanted = kept(sequence).min(sequence.tokens.len() - 1);
        self.running.iter().map(|id| &self.sequences[id]).any(|other| {
            let reads = other.shares && other.origin() == sequence.origin() && other.n_unseen() > 1;
            let both = || other.tokens[..kept(other)].iter().zip(&sequence.tokens[..wanted]);
            reads && both().take_while(|(a, b)| a == b).count() / blocks.page > other.n_remembered
        })
    }

    /// Tokens of a sequence that are kept for others, or found with them.
    fn n_kept_max(&self, sequence: &Sequence) -> usize {
        if self.limits.made_apart { sequence.n_read } else { usize::MAX }
    }

    /// The next pass; empty when there is nothing to do.
    pub(crate) fn plan(&mut self) -> Vec<Row> {
        let (mut rows, mut budget) = (Vec::new(), self.budget());
        let mut order = self.running.clone();
        order.sort_by_key(|id| (self.sequences[id].n_unseen() > 1, self.sequences[id].place()));
        for id in order {
            let class = self.sequences[&id].priority;
            if budget.of(class) > 0
                && self.running.contains(&id)
                && self.make_room(id, &mut rows, &mut budget)
            {
                self.take(id, &mut rows, &mut budget);
            }
        }
        for class in [Priority::Interactive, Priority::Batch] {
            while budget.of(class) > 0
                && let Some(id) = self.next(class)
                && self.start(id, &mut rows, &mut budget)
            {
                self.take(id, &mut rows, &mut budget);
            }
            if self.waiting.keys().any(|(waits, _)| *waits == class) {
                // Room that comes free is for them.
                break;
            }
        }
        // Rows that are computed alike side by side.
        rows.sort_by_key(|row| !row.is_made);
        rows
    }

    fn budget(&self) -> Budget {
        let left = self.limits.step_tokens_max;
        let is_interactive = |class: Priority| class == Priority::Interactive;
        let somebody_waits = self.running.iter().any(|id| is_interactive(self.sequences[id].priority))
            || self.waiting.keys().any(|&(class, _)| is_interactive(class));
        let of_batch = if somebody_waits { left.min(self.limits.batch_beside_max) } else { left };
        Budget { left, of_batch }
    }

    /// Puts a piece of a running sequence into the pass.
    fn take(&mut self, id: u64, rows: &mut Vec<Row>, budget: &mut Budget) {
        let n_rows: usize = rows.iter().map(|row| row.n + row.guesses.len()).sum();
        let sequence = self.sequences.get_mut(&id).expect("it runs: bug");
        let most = match sequence.first_reported() {
            _ if sequence.is_reported(sequence.n_seen) => REPORTED_PIECE_MAX,
            // A piece is reported or it is not.
            first if sequence.reports_prompt && sequence.n_seen < first => first - sequence.n_seen,
            _ => usize::MAX,
        };
        let (start, left) = (sequence.n_seen, budget.of(sequence.priority));
        let is_made = start >= sequence.n_read;
        let of_one_kind =
            if self.limits.made_apart && !is_made { sequence.n_read - start } else { usize::MAX };
        let n = sequence.n_unseen().min(self.limits.piece_max).min(most).min(of_one_kind).min(left);
        let mut guesses = Vec::new();
        if sequence.n_unseen() == 1 && sequence.tokens.len() > sequence.n_prompt && sequence.drafts {
            let end = start + 1;
            // Guesses take only room that is there: nobody gives way to them.
            let room =
                (sequence.pages.len() * self.blocks.as_ref().map_or(0, |b| b.page)).saturating_sub(end);
            let behind = sequence.n_positions_max - end;
            let few = self.limits.draft_rows_max.saturating_sub(n_rows + 1);
            let most = self.limits.draft_max.min(room).min(behind).min(few).min(left - n);
            if sequence.draft_rests == 0 {
                guesses = draft::guess(&sequence.tokens, most).to_vec();
            }
            sequence.draft_rests = sequence.draft_rests.saturating_sub(1);
        }
        budget.spend(sequence.priority, n + guesses.len());
        let new = (start + n).saturating_sub(sequence.n_charged);
        sequence.n_charged += new;
        *self.served.entry(sequence.tenant).or_default() += new as u64;
        rows.push(Row { id, start, n, guesses, is_made });
    }

    /// Pages for all known tokens of a running sequence; false when it had to give way itself.
    fn make_room(&mut self, id: u64, rows: &mut Vec<Row>, budget: &mut Budget) -> bool {
        loop {
            let sequence = self.sequences.get_mut(&id).expect("it runs: bug");
            let Some(blocks) = &mut self.blocks else { return true };
            if sequence.tokens.len() <= sequence.pages.len() * blocks.page {
                return true;
            }
            if let Some(page) = blocks.allocate() {
                sequence.pages.push(page);
                continue;
            }
            let worst = self.worst().expect("the sequence itself runs: bug");
            self.preempt(worst, rows, budget);
            if worst == id {
                return false;
            }
        }
    }

    fn worst(&self) -> Option<u64> {
        self.running.iter().copied().max_by_key(|id| self.sequences[id].place())
    }

    /// A running sequence gives all back and waits; its part of the pass is taken out.
    fn preempt(&mut self, id: u64, rows: &mut Vec<Row>, budget: &mut Budget) {
        self.n_preemptions += 1;
        self.running.retain(|&other| other != id);
        let class = self.sequences[&id].priority;
        rows.retain(|row| {
            budget.give_back(class, if row.id == id { row.n + row.guesses.len() } else { 0 });
            row.id != id
        });
        let mut sequence = self.sequences.remove(&id).expect("it runs: bug");
        self.let_go(&mut sequence);
        self.wait(&sequence);
        self.sequences.insert(id, sequence);
    }

    fn let_go(&mut self, sequence: &mut Sequence) {
        if let Some(blocks) = &mut self.blocks {
            blocks.release(&sequence.pages);
        }
        sequence.pages.clear();
        (sequence.n_seen, sequence.n_remembered) = (0, 0);
        sequence.before = Before::Beginning(sequence.origin());
    }

    /// Lets a waiting sequence run when there is room, or when it can be had from a lower class.
    fn start(&mut self, id: u64, rows: &mut Vec<Row>, budget: &mut Budget) -> bool {
        while !self.start_if_room(id) {
            let class = self.sequences[&id].priority;
            match self.worst() {
                Some(worst) if self.sequences[&worst].priority > class => self.preempt(worst, rows, budget),
                _ => return false,
            }
        }
        true
    }

    fn start_if_room(&mut self, id: u64) -> bool {
        if self.running.len() >= self.limits.running_max {
            return false;
        }
        let kept = self.n_kept_max(&self.sequences[&id]);
        let sequence = self.sequences.get_mut(&id).expect("it waits: bug");
        if let Some(blocks) = &mut self.blocks {
            let n = sequence.tokens.len();
            if sequence.shares {
                // The last token is always computed: its row says what comes next; and so are those that are reported.
                let most = if sequence.reports_prompt { sequence.first_reported() } else { n - 1 };
                (sequence.pages, sequence.before) =
                    blocks.take_known(sequence.origin(), &sequence.tokens, most.min(kept) / blocks.page);
            }
            let n_known = sequence.pages.len();
            let missing = n.div_ceil(blocks.page) - n_known;
            if missing > blocks.available() {
                blocks.release(&sequence.pages);
                sequence.pages.clear();
                sequence.before = Before::Beginning(sequence.origin());
                return false;
            }
            sequence.pages.extend((0..missing).map(|_| blocks.allocate().expect("they are available: bug")));
            (sequence.n_seen, sequence.n_remembered) = (n_known * blocks.page, n_known);
            if sequence.shares && blocks.shares {
                self.prefix_tokens.0 += n as u64;
                self.prefix_tokens.1 += (n_known * blocks.page) as u64;
            }
        }
        self.leave_line(id);
        self.running.push(id);
        true
    }

    fn leave_line(&mut self, id: u64) {
        let sequence = &self.sequences[&id];
        let key = (sequence.priority, sequence.tenant);
        if let Some(line) = self.waiting.get_mut(&key) {
            line.retain(|&other| other != id);
            if line.is_empty() {
                self.waiting.remove(&key);
            }
        }
    }

    /// The pass was made: the row's tokens are seen, and with them the guesses that `chosen` (what the sampler
    /// said behind them, empty inside a prompt) agrees with.
    pub(crate) fn advance(&mut self, row: &Row, chosen: &[u32]) {
        let kept = self.n_kept_max(&self.sequences[&row.id]);
        let sequence = self.sequences.get_mut(&row.id).expect("it runs: bug");
        let n_guessed = chosen.len().saturating_sub(1);
        self.n_guessed += n_guessed as u64;
        sequence.n_seen += row.n + n_guessed;
        sequence.tokens.extend_from_slice(chosen);
        if !row.guesses.is_empty() && chosen.len() == 1 {
            sequence.draft_rests = 8;
        }
        let Some(blocks) = self.blocks.as_mut().filter(|_| sequence.shares) else { return };
        let page = blocks.page;
        while (sequence.n_remembered + 1) * page <= sequence.n_seen.min(kept) {
            let i = sequence.n_remembered;
            let tokens = &sequence.tokens[i * page..(i + 1) * page];
            sequence.before = blocks.remember(sequence.pages[i], sequence.before, tokens);
            sequence.n_remembered += 1;
        }
    }

    /// A sequence has come to its end, or nobody waits for it any more.
    pub(crate) fn remove(&mut self, id: u64) {
        if self.sequences.contains_key(&id) {
            self.leave_line(id);
        }
        self.running.retain(|&other| other != id);
        let Some(mut sequence) = self.sequences.remove(&id) else { return };
        self.let_go(&mut sequence);
        if !self.sequences.values().any(|other| other.tenant == sequence.tenant) {
            self.served.remove(&sequence.tenant);
        }
    }
}
