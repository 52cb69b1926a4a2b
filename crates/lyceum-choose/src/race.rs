//! The race: successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943) inside a budget of seconds.
//!
//! ```text
//! n candidates ─ a share of the training, one seed ─► better half ─ … ─► at most 4 finalists ─ full training,
//!                                                      + the simplest      seed after seed, the same for all
//! ```
//! The simplest candidate is never dropped: it is what the others must beat. Each rung trains anew with a schedule
//! of its length, so a short run is a whole short training and not the beginning of a long one. Time decides only
//! how far a race gets, never which of two candidates that ran is better.

/// Candidates of the last rung.
pub const FINALISTS: usize = 4;

/// One rung before the final.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rung {
    /// Of the full training.
    pub share: f64,
    /// How many go on.
    pub keep: usize,
}

/// The rungs before the final of `n` candidates: each halves the field and doubles the share. A field that is
/// small enough runs once, shortly, to learn what a run takes.
pub fn rungs(n: usize) -> Vec<Rung> {
    let mut rungs = Vec::new();
    let mut field = n;
    while field > FINALISTS {
        field = field.div_ceil(2).max(FINALISTS);
        rungs.push(field);
    }
    match (rungs.len(), n) {
        (0, 0 | 1) => Vec::new(),
        (0, _) => vec![Rung { share: 0.25, keep: n }],
        (k, _) => (0..k).map(|i| Rung { share: 0.5f64.powi((k - i) as i32), keep: rungs[i] }).collect(),
    }
}

/// How a candidate is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    pub candidate: usize,
    pub share: f64,
    /// From 0.
    pub seed: usize,
    /// Trained for every fold; else for the first.
    pub all_folds: bool,
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Of each held-out row.
    pub losses: Vec<f64>,
    pub seconds: f64,
}

/// Why a candidate is out.
#[derive(Clone, Debug, PartialEq)]
pub enum Out {
    /// Others were better after this rung (from 0).
    Slower { rung: usize, share: f64, mean_loss: f64 },
    /// It could not be trained.
    Failed(String),
    /// The budget was over.
    Budget,
}

/// What a race asks of training.
pub trait Trials {
    /// The outer error ends the race.
    type Error;
    fn run(&mut self, run: Run) -> Result<Result<Trial, Out>, Self::Error>;
    /// Seconds since the budget began.
    fn elapsed(&self) -> f64;
    fn n_folds(&self) -> usize;
    /// What the full training of a candidate takes on one seed and all folds, from a run of these seconds.
    fn full_seconds(&self, run: Run, seconds: f64) -> f64 {
        seconds / run.share * self.n_folds() as f64
    }
}

/// What is raced.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Numbers of the candidates that may win.
    pub candidates: &'a [usize],
    /// Is among them.
    pub simplest: usize,
    pub seeds: usize,
    /// Seconds after which no new run begins.
    pub seconds: f64,
}

/// How a race ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Race {
    /// Candidates with their losses, one list a seed, best first.
    pub finalists: Vec<(usize, Vec<Vec<f64>>)>,
    pub out: Vec<(usize, Out)>,
    /// Of the full training, that finalists had.
    pub share: f64,
    /// Seeds that every finalist has.
    pub seeds: usize,
    /// Seconds that one run of a finalist took on average.
    pub run_seconds: f64,
}

/// Runs the race.
///
/// # Errors
/// The trials' own.
pub fn race<T: Trials>(field: Field<'_>, trials: &mut T) -> Result<Race, T::Error> {
    let mut race = Race { finalists: Vec::new(), out: Vec::new(), share: 1.0, seeds: 0, run_seconds: 0.0 };
    let mut alive: Vec<usize> = field.candidates.to_vec();
    // Seconds of a run of the full training.
    let mut full: Vec<(usize, f64)> = Vec::new();
    for (number, rung) in rungs(alive.len()).into_iter().enumerate() {
        let mut ran = Vec::new();
        for &candidate in &alive {
            let run = Run { candidate, share: rung.share, seed: 0, all_folds: false };
            match trials.run(run)? {
                Ok(trial) => {
                    full.retain(|(other, _)| *other != candidate);
                    full.push((candidate, trials.full_seconds(run, trial.seconds)));
                    ran.push((candidate, mean(&trial.losses)));
                }
                Err(out) => race.out.push((candidate, out)),
            }
        }
        ran.sort_by(|a, b| a.1.total_cmp(&b.1));
        alive = Vec::new();
        for (place, (candidate, mean_loss)) in ran.into_iter().enumerate() {
            if place < rung.keep || candidate == field.simplest {
                alive.push(candidate);
            } else {
                race.out.push((candidate, Out::Slower { rung: number, share: rung.share, mean_loss }));
            }
        }
    }
    race.share = affordable(&full, &alive, field.seconds - trials.elapsed());
    let mut scores: Vec<(usize, Vec<Vec<f64>>)> = alive.into_iter().map(|c| (c, Vec::new())).collect();
    let mut round_seconds: f64 = 0.0;
    for seed in 0..field.seeds {
        // A round that would not end in time is not begun: every finalist has the same seeds.
        if scores.is_empty() || (seed > 0 && trials.elapsed() + round_seconds > field.seconds) {
            break;
        }
        let begun = trials.elapsed();
        let mut lost = Vec::new();
        for (candidate, kept) in &mut scores {
            let run = Run { candidate: *candidate, share: race.share, seed, all_folds: true };
            match trials.run(run)? {
                Ok(trial) => kept.push(trial.losses),
                Err(out) => lost.push((*candidate, out)),
            }
        }
        // Time that runs out inside a later round ends the race before it; a failure ends its candidate.
        let over = lost.iter().any(|(_, out)| *out == Out::Budget);
        if over && seed > 0 {
            scores.iter_mut().for_each(|(_, kept)| kept.truncate(seed));
            break;
        }
        scores.retain(|(candidate, _)| lost.iter().all(|(other, _)| other != candidate));
        race.out.extend(lost);
        round_seconds = trials.elapsed() - begun;
        race.seeds = seed + 1;
    }
    if !scores.is_empty() {
        race.run_seconds = round_seconds / scores.len() as f64;
    }
    scores.sort_by(|a, b| overall(&a.1).total_cmp(&overall(&b.1)));
    race.finalists = scores;
    Ok(race)
}

/// The share of the full training at which one round of all finalists fits into half of what is left; so that a
/// second seed has a chance. At least a twentieth.
fn affordable(full: &[(usize, f64)], alive: &[usize], left: f64) -> f64 {
    let round: f64 = full.iter().filter(|(c, _)| alive.contains(c)).map(|(_, seconds)| seconds).sum();
    if round <= 0.0 { 1.0 } else { (left.max(0.0) / 2.0 / round).clamp(0.05, 1.0) }
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len().max(1) as f64
}

fn overall(seeds: &[Vec<f64>]) -> f64 {
    mean(&seeds.iter().map(|losses| mean(losses)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Candidates whose loss falls with their share, and a clock that runs take.
    struct Simulated {
        loss: Vec<f64>,
        seconds: Vec<f64>,
        fails: Option<usize>,
        clock: f64,
        deadline: f64,
        longest: f64,
    }

    impl Trials for Simulated {
        type Error = std::convert::Infallible;

        fn run(&mut self, run: Run) -> Result<Result<Trial, Out>, Self::Error> {
            if self.clock >= self.deadline {
                return Ok(Err(Out::Budget));
            }
            if self.fails == Some(run.candidate) {
                return Ok(Err(Out::Failed("diverged".into())));
            }
            let seconds = self.seconds[run.candidate] * run.share;
            self.clock += seconds;
            self.longest = self.longest.max(seconds);
            let loss = self.loss[run.candidate] + 0.1 * (1.0 - run.share) + 1e-6 * run.seed as f64;
            Ok(Ok(Trial { losses: vec![loss; 3], seconds }))
        }

        fn elapsed(&self) -> f64 {
            self.clock
        }

        fn n_folds(&self) -> usize {
            1
        }
    }

    fn simulate(
        loss: Vec<f64>,
        seconds: Vec<f64>,
        simplest: usize,
        budget: f64,
        fails: Option<usize>,
    ) -> (Race, Simulated) {
        let mut trials = Simulated { loss, seconds, fails, clock: 0.0, deadline: budget, longest: 0.0 };
        let candidates: Vec<usize> = (0..trials.loss.len()).collect();
        let field = Field { candidates: &candidates, simplest, seeds: 5, seconds: budget };
        let Ok(race) = race(field, &mut trials);
        (race, trials)
    }

    #[test]
    fn shares_double_while_the_field_halves() {
        assert_eq!(rungs(1), []);
        assert_eq!(rungs(3), [Rung { share: 0.25, keep: 3 }]);
        assert_eq!(rungs(8), [Rung { share: 0.5, keep: 4 }]);
        assert_eq!(
            rungs(20),
            [Rung { share: 0.125, keep: 10 }, Rung { share: 0.25, keep: 5 }, Rung { share: 0.5, keep: 4 },]
        );
    }

    #[test]
    fn the_best_and_the_simplest_reach_the_end_with_all_seeds() {
        let loss = vec![0.9, 0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.7];
        let (race, _) = simulate(loss, vec![1.0; 8], 0, 1000.0, None);
        let finalists: Vec<usize> = race.finalists.iter().map(|f| f.0).collect();
        assert_eq!(finalists, [5, 4, 3, 2, 0]);
        assert_eq!((race.seeds, race.share), (5, 1.0));
        assert_eq!(race.out.len(), 3);
        assert!(matches!(race.out[0].1, Out::Slower { rung: 0, share: 0.5, .. }));
    }

    #[test]
    fn what_fails_is_out_with_its_reason_and_the_rest_goes_on() {
        let (race, _) = simulate(vec![0.3, 0.2, 0.1], vec![1.0; 3], 0, 1000.0, Some(2));
        assert_eq!(race.out, [(2, Out::Failed("diverged".into()))]);
        assert_eq!(race.finalists.len(), 2);
    }

    #[test]
    fn a_short_budget_shortens_training_for_all_alike() {
        let (race, trials) = simulate(vec![0.3, 0.2, 0.1], vec![10.0; 3], 0, 20.0, None);
        assert!(race.share < 1.0 && race.seeds >= 1, "{race:?}");
        assert!(trials.clock <= 20.0 + trials.longest);
    }

    proptest! {
        #[test]
        fn a_race_keeps_its_budget_and_gives_all_finalists_the_same_seeds(
            loss in prop::collection::vec(0.0f64..1.0, 1..24),
            speed in prop::collection::vec(0.1f64..20.0, 24),
            budget in 1.0f64..500.0,
            pick in 0usize..24,
            fails in prop::option::of(0usize..24),
        ) {
            let n = loss.len();
            let simplest = pick % n;
            let (race, trials) = simulate(loss.clone(), speed[..n].to_vec(), simplest, budget, fails);
            prop_assert!(trials.clock <= budget + trials.longest);
            prop_assert!(race.finalists.iter().all(|(_, seeds)| seeds.len() == race.seeds));
            // Nobody is lost.
            let mut seen: Vec<usize> = race.finalists.iter().map(|f| f.0).chain(race.out.iter().map(|o| o.0)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
            let slower = |c: usize| race.out.iter().any(|(o, out)| *o == c && matches!(out, Out::Slower { .. }));
            prop_assert!(!slower(simplest));
            if budget > 400.0 && n <= 4 && fails.is_none() {
                let best = (0..n).min_by(|&a, &b| loss[a].total_cmp(&loss[b])).unwrap();
                prop_assert_eq!(race.finalists[0].0, best);
            }
        }
    }
}
