//! What a choice comes to: every two compared, ties, the front, and the rule.

use crate::candidates::shortened;
use crate::choose::{Pair, Recommendation, Selection, Tie};
use crate::error::ChooseError;
use crate::holm::holm;
use crate::limits::nothing_left;
use crate::pareto::front;
use crate::race::{Out, Race};
use crate::row::{Row, Standing};
use crate::rule::{self, Against, Contender};
use crate::scores::{ALPHA, Loss, Paired, Scores, Separation};
use crate::ties;
use crate::written;
use lyceum_types::spec::Task;
use lyceum_types::spec::choose::ChooseSpec;
use std::time::Instant;

/// Nobody may run: every candidate breaks a limit, or cannot read the data.
pub(crate) fn nobody(
    rows: Vec<Row>,
    spec: &ChooseSpec,
    begun: Instant,
    not_evaluated: Vec<(String, String)>,
) -> Result<Selection, ChooseError> {
    let sentence = excluded_sentence(&rows);
    if rows.iter().all(|row| matches!(row.standing, Standing::Out(_))) {
        let reason = |row: &Row| match &row.standing {
            Standing::Out(Out::Failed(why)) => format!("{}: {why}", row.name),
            _ => row.name.clone(),
        };
        return Err(ChooseError::NoneTrains {
            reasons: rows.iter().map(reason).collect::<Vec<_>>().join("; "),
        });
    }
    let loss = match (spec.task, spec.metric) {
        (Task::Classification, _) => Loss::Error,
        (_, Some(metric)) => written::loss(metric),
        _ => Loss::Squared,
    };
    Ok(Selection {
        rows,
        loss,
        pairs: Vec::new(),
        ties: Vec::new(),
        recommendation: Err(sentence),
        n_rows: 0,
        seeds: 0,
        share: 0.0,
        not_evaluated,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn excluded_sentence(rows: &[Row]) -> String {
    let excluded: Vec<_> = rows
        .iter()
        .filter_map(|row| match &row.standing {
            Standing::Excluded(excesses) => Some((row.name.as_str(), excesses.as_slice())),
            _ => None,
        })
        .collect();
    nothing_left(&excluded)
}

/// Comparisons, ties, the front, and the rule.
pub(crate) fn conclude(
    spec: &ChooseSpec,
    mut rows: Vec<Row>,
    scores: Vec<(usize, Scores)>,
    raced: &Race,
    not_evaluated: Vec<(String, String)>,
    begun: Instant,
) -> Result<Selection, ChooseError> {
    let compared: Vec<&(usize, Scores)> = scores
        .iter()
        .filter(|(i, _)| matches!(rows[*i].standing, Standing::Finalist | Standing::Baseline))
        .collect();
    let n_rows = scores.first().map_or(0, |(_, scores)| scores.n_rows());
    let loss = scores.first().map_or(Loss::Error, |(_, scores)| scores.loss);
    let pairs = compare_all(&compared, n_rows)?;
    let find = |a: usize, b: usize| {
        pairs.iter().find(|p| (p.first, p.second) == (a, b) || (p.first, p.second) == (b, a))
    };
    let ties = tie_groups(&compared, &pairs);
    let finalists: Vec<usize> =
        compared.iter().map(|(i, _)| *i).filter(|&i| rows[i].standing == Standing::Finalist).collect();
    let mean = |i: usize| scores.iter().find(|(j, _)| *j == i).map_or(f64::INFINITY, |(_, s)| s.mean());
    let contenders: Vec<Contender> = finalists.iter().map(|&i| contender(&rows[i], mean(i))).collect();
    let points: Vec<[f64; 2]> = contenders.iter().map(|c| [c.mean_loss, c.cost]).collect();
    for (&i, on) in finalists.iter().zip(front(&points)) {
        rows[i].pareto = on;
    }
    let worse = |a: usize, best: usize| {
        let pair = find(finalists[a], finalists[best]);
        contenders[a].mean_loss > contenders[best].mean_loss && pair.is_some_and(|p| p.p_adjusted < ALPHA)
    };
    let recommendation = match rule::take(&contenders, worse) {
        None => Err(excluded_sentence(&rows)),
        Some(taken) => {
            let (row, best) = (finalists[taken.winner], finalists[taken.best]);
            let against = |other: usize| -> Option<(usize, Paired, f64, Separation)> {
                let pair = find(row, other)?;
                Some((other, seen_from(pair, row), pair.p_adjusted, pair.separation))
            };
            let cheaper = (0..finalists.len())
                .filter(|&c| contenders[c].cost < contenders[taken.winner].cost && worse(c, taken.best))
                .map(|c| finalists[c]);
            let baselines =
                compared.iter().map(|(i, _)| *i).filter(|&i| rows[i].standing == Standing::Baseline);
            let to_best = if best == row { None } else { against(best) };
            let cheaper: Vec<_> =
                if best == row { cheaper.filter_map(against).collect() } else { Vec::new() };
            let baselines: Vec<_> = baselines.filter_map(against).collect();
            let words = |found| words_of(found, &rows);
            let own = rows[row].quality.as_ref().map_or(f64::NAN, |q| q.value);
            let sentence = rule::sentence(
                loss,
                &contenders,
                &taken,
                own,
                to_best.as_ref().map(words).as_ref(),
                &cheaper.iter().map(words).collect::<Vec<_>>(),
                &baselines.iter().map(words).collect::<Vec<_>>(),
            );
            let job = rows[row].job.clone().map(|mut job| {
                job.data.test.clone_from(&spec.data.test);
                job.train = shortened(&job.train, raced.share);
                job
            });
            Ok(Recommendation { row, best, job, tuned: None, test: None, sentence })
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    let (seeds, share) = (raced.seeds, raced.share);
    Ok(Selection { rows, loss, pairs, ties, recommendation, n_rows, seeds, share, not_evaluated, seconds })
}

fn words_of<'r>(found: &'r (usize, Paired, f64, Separation), rows: &'r [Row]) -> Against<'r> {
    let (other, paired, p_adjusted, separation) = found;
    let quality = rows[*other].quality.as_ref().map_or(f64::NAN, |q| q.value);
    Against { name: &rows[*other].name, quality, paired, p_adjusted: *p_adjusted, separation: *separation }
}

fn contender(row: &Row, mean_loss: f64) -> Contender {
    let serving = row.serving.as_ref();
    let cost = serving.map(|s| s.cpu_seconds_per_1k.unwrap_or(s.alone.p50_ms));
    Contender {
        name: row.name.clone(),
        mean_loss,
        cost: cost.unwrap_or(f64::INFINITY),
        operations: row.operations.unwrap_or(u64::MAX),
        parameters: row.parameters.unwrap_or(u64::MAX),
    }
}

/// The pair's numbers with this row as the first.
fn seen_from(pair: &Pair, row: usize) -> Paired {
    let paired = pair.paired.clone();
    if pair.first == row {
        return paired;
    }
    Paired { difference: -paired.difference, ci95: [-paired.ci95[1], -paired.ci95[0]], ..paired }
}

fn compare_all(compared: &[&(usize, Scores)], n_rows: usize) -> Result<Vec<Pair>, ChooseError> {
    let mut pairs = Vec::new();
    let n = compared.len();
    let n_pairs = n * n.saturating_sub(1) / 2;
    for (place, (first, a)) in compared.iter().enumerate() {
        for (second, b) in &compared[place + 1..] {
            let paired = a.compare(b)?;
            let separation = paired.separation(n_rows, n_pairs);
            pairs.push(Pair { first: *first, second: *second, p_adjusted: paired.p, paired, separation });
        }
    }
    let raw: Vec<f64> = pairs.iter().map(|pair| pair.paired.p).collect();
    for (pair, adjusted) in pairs.iter_mut().zip(holm(&raw)) {
        pair.p_adjusted = adjusted;
    }
    Ok(pairs)
}

fn tie_groups(compared: &[&(usize, Scores)], pairs: &[Pair]) -> Vec<Tie> {
    let of = |a: usize, b: usize| {
        pairs.iter().find(|p| (p.first, p.second) == (a, b) || (p.first, p.second) == (b, a))
    };
    // Best first, so that a group reads from its best to its worst.
    let mut order: Vec<&(usize, Scores)> = compared.to_vec();
    order.sort_by(|a, b| a.1.mean().total_cmp(&b.1.mean()));
    let row = |place: usize| order[place].0;
    let tie = |a: usize, b: usize| of(row(a), row(b)).is_some_and(|pair| pair.p_adjusted >= ALPHA);
    let with_pair = |group: Vec<usize>| {
        let members: Vec<usize> = group.into_iter().map(row).collect();
        let apart = (members[0], members[members.len() - 1]);
        let separation = of(apart.0, apart.1).map_or(Separation::Nothing, |pair| pair.separation);
        Tie { members, apart, separation }
    };
    ties::groups(order.len(), tie).into_iter().map(with_pair).collect()
}
