//! The scheduler in many random worlds, with a model that is nothing but its pages.
//!
//! The fake model writes the tokens of a row where their keys would lie, and the next token is a function of
//! what it finds in the pages of the whole sequence: a page that is shared wrongly, taken too early, or not
//! computed again changes the answer.

use super::blocks::Blocks;
use super::scheduler::{Limits, Row, Scheduler};
use super::sequence::{Priority, Sequence, Tenant};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

struct Wish {
    arrives: usize,
    leaves: Option<usize>,
    sequence: fn(&Wish, u64) -> Sequence,
    tenant: Tenant,
    priority: Priority,
    prompt: Vec<u32>,
    /// The rest of the prompt was made before.
    n_read: usize,
    n_max: usize,
}

fn sequence(wish: &Wish, id: u64) -> Sequence {
    let positions = wish.prompt.len() + wish.n_max - 1;
    let mut sequence = Sequence::new(id, wish.tenant, wish.prompt.clone(), positions);
    (sequence.priority, sequence.shares) = (wish.priority, !id.is_multiple_of(5));
    sequence.n_read = wish.n_read;
    sequence.reports_prompt = !sequence.shares && id.is_multiple_of(2);
    sequence
}

const PAGE: usize = 4;

/// What the fake model says after these tokens; few different ones, so that guesses and prefixes agree.
fn said(tokens: impl Iterator<Item = u32>) -> u32 {
    let hash =
        tokens.fold(7u64, |h, t| (h ^ u64::from(t)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
    // Now and then a loop, which the guesses find.
    if hash % 11 < 7 { (hash % 2) as u32 } else { (hash % 6) as u32 }
}

fn alone(wish: &Wish) -> Vec<u32> {
    let mut tokens = wish.prompt.clone();
    (0..wish.n_max).for_each(|_| tokens.push(said(window(&tokens))));
    tokens.split_off(wish.prompt.len())
}

/// The fake model looks back a little only, so that answers repeat themselves.
fn window(tokens: &[u32]) -> impl Iterator<Item = u32> + '_ {
    tokens.iter().copied().skip(tokens.len().saturating_sub(3)).chain([tokens.iter().sum::<u32>() % 3])
}

struct World {
    scheduler: Scheduler,
    /// Of each position its token, and whether it was computed as one that a sequence made.
    memory: Vec<Option<(u32, bool)>>,
    made_apart: bool,
    answers: BTreeMap<u64, Vec<u32>>,
    guessed: [usize; 2],
}

impl World {
    /// One pass over the rows, as the runner does it.
    fn pass(&mut self, rows: &[Row], wishes: &[Wish]) -> Vec<u64> {
        for row in rows {
            let sequence = self.scheduler.get(row.id);
            assert!(row.n > 0 && row.start == sequence.n_seen && row.start + row.n <= sequence.tokens.len());
            let new = sequence.tokens[row.start..row.start + row.n].iter().chain(&row.guesses);
            for (position, &token) in (row.start..).zip(new) {
                let place = sequence.pages[position / PAGE] as usize * PAGE + position % PAGE;
                self.memory[place] = Some((token, row.is_made));
            }
        }
        let mut over = Vec::new();
        for row in rows {
            let (sequence, wish) = (self.scheduler.get(row.id), &wishes[row.id as usize]);
            let n_known = row.start + row.n;
            if n_known < sequence.tokens.len() {
                self.scheduler.advance(row, &[]);
                continue;
            }
            let place = |p: usize| sequence.pages[p / PAGE] as usize * PAGE + p % PAGE;
            let mut chosen = Vec::new();
            for i in 0..=row.guesses.len() {
                let found: Vec<u32> = (0..n_known + i)
                    .map(|p| {
                        let (token, is_made) = self.memory[place(p)].expect("every position was computed");
                        let want = !self.made_apart || is_made == (p >= wish.n_read);
                        assert!(want, "position {p} was computed as what it is");
                        token
                    })
                    .collect();
                chosen.push(said(window(&found)));
                if row.guesses.get(i).is_none_or(|guess| *guess != chosen[i]) {
                    break;
                }
            }
            self.guessed[0] += row.guesses.len();
            self.guessed[1] += chosen.len() - 1;
            let answer = self.answers.entry(row.id).or_default();
            answer.extend_from_slice(&chosen);
            assert!(answer.len() <= wish.n_max, "no more than was asked for");
            if answer.len() == wish.n_max {
                over.push(row.id);
            } else {
                self.scheduler.advance(row, &chosen);
            }
        }
        over
    }
}

fn wishes(rng: &mut ChaCha8Rng, n: usize, n_pages: usize) -> Vec<Wish> {
    let beginnings: Vec<Vec<u32>> =
        (0..3).map(|_| (0..rng.random_range(1..20)).map(|_| rng.random_range(0..6)).collect()).collect();
    (0..n)
        .map(|_| {
            let mut prompt = beginnings[rng.random_range(0..3)].clone();
            prompt.extend((0..rng.random_range(0..12)).map(|_| rng.random_range(0..6)));
            prompt.truncate(n_pages * PAGE - 1);
            let room = n_pages * PAGE + 1 - prompt.len();
            Wish {
                arrives: rng.random_range(0..60),
                leaves: rng.random_bool(0.15).then(|| rng.random_range(0..90)),
                sequence,
                tenant: Tenant(rng.random_range(0..4)),
                priority: if rng.random_bool(0.3) { Priority::Batch } else { Priority::Interactive },
                n_max: rng.random_range(1..30).min(room),
                n_read: if rng.random_bool(0.2) { rng.random_range(1..=prompt.len()) } else { prompt.len() },
                prompt,
            }
        })
        .collect()
}

/// Runs a world to its end; steps, preemptions and kept guesses.
fn run(seed: u64) -> (usize, u64, usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n_pages = rng.random_range(2..24);
    let wishes = wishes(&mut rng, 40, n_pages);
    let limits = Limits {
        running_max: rng.random_range(1..9),
        step_tokens_max: rng.random_range(1..40),
        batch_beside_max: rng.random_range(1..40),
        piece_max: rng.random_range(1..20),
        draft_max: rng.random_range(0..4),
        draft_rows_max: 16,
        made_apart: rng.random_bool(0.5),
    };
    let blocks = Blocks::new(n_pages, PAGE, rng.random_bool(0.7));
    let mut world = World {
        scheduler: Scheduler::new(limits, Some(blocks)),
        memory: vec![None; n_pages * PAGE],
        made_apart: limits.made_apart,
        answers: BTreeMap::new(),
        guessed: [0; 2],
    };
    let mut ended = vec![0; wishes.len()];
    let n_tokens: usize = wishes.iter().map(|w| w.prompt.len() + w.n_max).sum();
    let mut step = 0;
    while ended.contains(&0) {
        for (i, wish) in wishes.iter().enumerate() {
            if wish.arrives == step && ended[i] == 0 {
                world.scheduler.add((wish.sequence)(wish, i as u64));
            }
            if wish.leaves == Some(step) && ended[i] == 0 {
                ended[i] += 1;
                world.scheduler.remove(i as u64);
            }
        }
        let rows = world.scheduler.plan();
        let n_rows: usize = rows.iter().map(|row| row.n + row.guesses.len()).sum();
        assert!(n_rows <= limits.step_tokens_max && rows.len() <= limits.running_max);
        assert!(!rows.is_empty() || world.scheduler.is_empty(), "seed {seed}: work and no pass");
        for id in world.pass(&rows, &wishes) {
            ended[id as usize] += 1;
            world.scheduler.remove(id);
        }
        let tables: Vec<_> = world.scheduler.sequences().map(|s| &s.pages).collect();
        world.scheduler.blocks.as_ref().unwrap().check(tables.into_iter());
        step += 1;
        // A sequence is computed again at most as often as another one ends or grows.
        assert!(step < 100 + n_tokens * 10, "seed {seed}: somebody starves");
    }
    for (i, wish) in wishes.iter().enumerate() {
        assert_eq!(ended[i], 1, "seed {seed}: one end each");
        let (got, want) = (world.answers.remove(&(i as u64)).unwrap_or_default(), alone(wish));
        let left = wish.leaves.is_some();
        assert!(got == want || left && want.starts_with(&got), "seed {seed}, {i}: {got:?}, alone {want:?}");
    }
    assert_eq!(world.scheduler.blocks.as_ref().unwrap().used(), 0, "all pages come back");
    (step, world.scheduler.n_preemptions, world.guessed[1])
}

#[test]
fn in_three_hundred_worlds_everybody_ends_once_with_the_answer_they_get_alone() {
    let all: Vec<_> = (0..300).map(run).collect();
    assert!(all.iter().map(|w| w.1).sum::<u64>() > 300, "there was preemption");
    assert!(all.iter().map(|w| w.2).sum::<usize>() > 300, "there were guesses that held");
}

fn small(running_max: usize, n_pages: usize) -> Scheduler {
    let limits = Limits {
        running_max,
        step_tokens_max: 8,
        batch_beside_max: 2,
        piece_max: 8,
        draft_max: 0,
        draft_rows_max: 0,
        made_apart: false,
    };
    Scheduler::new(limits, Some(Blocks::new(n_pages, PAGE, true)))
}

fn of(id: u64, tenant: u128, priority: Priority, n: usize) -> Sequence {
    let mut sequence = Sequence::new(id, Tenant(tenant), vec![id as u32; n], n + 2);
    sequence.priority = priority;
    sequence
}

fn ids(rows: &[Row]) -> Vec<u64> {
    rows.iter().map(|row| row.id).collect()
}

#[test]
fn a_tenant_with_many_requests_does_not_keep_another_waiting() {
    let mut scheduler = small(1, 8);
    (0..5).for_each(|id| scheduler.add(of(id, 1, Priority::Interactive, 4)));
    let mut order = Vec::new();
    for step in 0..7 {
        if step == 1 {
            scheduler.add(of(8, 2, Priority::Interactive, 4));
            scheduler.add(of(9, 2, Priority::Interactive, 4));
        }
        let rows = scheduler.plan();
        order.extend(ids(&rows));
        rows.iter().for_each(|row| scheduler.remove(row.id));
    }
    assert_eq!(order, [0, 1, 8, 2, 9, 3, 4], "in turns, though tenant 1 was there first");
}

#[test]
fn batch_work_gives_way_to_interactive_work_and_comes_back() {
    let mut scheduler = small(1, 4);
    scheduler.add(of(0, 1, Priority::Batch, 4));
    assert_eq!(ids(&scheduler.plan()), [0]);
    scheduler.add(of(1, 2, Priority::Interactive, 4));
    assert_eq!((ids(&scheduler.plan()), scheduler.n_preemptions), (vec![1], 1));
    scheduler.remove(1);
    assert_eq!(scheduler.plan(), [Row { id: 0, start: 0, n: 4, guesses: vec![], is_made: false }]);
}

#[test]
fn batch_work_has_a_small_part_of_a_pass_beside_interactive_work() {
    let mut scheduler = small(4, 16);
    scheduler.add(of(0, 1, Priority::Batch, 14));
    let alone = scheduler.plan();
    assert_eq!((alone[0].id, alone[0].n), (0, 8), "all of it while nobody waits");
    scheduler.advance(&alone[0], &[]);
    scheduler.add(of(1, 2, Priority::Interactive, 3));
    let parts = |rows: &[Row]| rows.iter().map(|row| (row.id, row.n)).collect::<Vec<_>>();
    let beside = scheduler.plan();
    assert_eq!(
        parts(&beside),
        [(0, 2), (1, 3)],
        "the part is small in the pass that takes the other up, too"
    );
    scheduler.advance(&beside[0], &[]);
    scheduler.advance(&beside[1], &[9]);
    assert_eq!(parts(&scheduler.plan()), [(1, 1), (0, 2)], "and beside its answer");
    scheduler.remove(1);
    assert_eq!(parts(&scheduler.plan()), [(0, 4)]);
}

#[test]
fn several_answers_to_one_prompt_compute_it_once() {
    let mut scheduler = small(4, 16);
    for id in 0..3 {
        scheduler.add(Sequence::new(id, Tenant(1), (0..14).collect(), 20));
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        let rows = scheduler.plan();
        seen.extend(rows.iter().map(|row| (row.id, row.start, row.n)));
        for row in &rows {
            let complete = row.start + row.n == 14;
            scheduler.advance(row, if complete { &[99] } else { &[] });
        }
    }
    assert_eq!(seen, [(0, 0, 8), (0, 8, 6), (0, 14, 1), (1, 12, 2), (2, 12, 2)]);
}

#[test]
fn a_known_beginning_is_not_computed_again_but_for_its_last_token() {
    let mut scheduler = small(4, 8);
    let prompt = |id: u64| Sequence::new(id, Tenant(1), (0..8).collect(), 10);
    scheduler.add(prompt(0));
    let rows = scheduler.plan();
    scheduler.advance(&rows[0], &[9]);
    scheduler.remove(0);
    scheduler.add(prompt(1));
    assert_eq!(scheduler.plan(), [Row { id: 1, start: 4, n: 4, guesses: vec![], is_made: false }]);
    scheduler.add(Sequence::new(2, Tenant(2), (0..8).collect(), 10));
    let rows = scheduler.plan();
    let other = rows.iter().find(|row| row.id == 2).unwrap();
    assert_eq!(other.start, 0, "never across tenants");
    (1..3).for_each(|id| scheduler.remove(id));
    scheduler.add(prompt(3).with_adapter(Some(7)));
    assert_eq!(scheduler.plan()[0].start, 0, "never across adapters");
}
