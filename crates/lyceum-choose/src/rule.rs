//! The rule: the cheapest candidate that is not significantly worse than the best; and the sentence that says what is
//! given up.
//!
//! "Cheapest" is processor time per answer as measured here. Times within a tenth of the cheapest are no difference on
//! a machine that does other things too: among those, fewer operations win, then fewer parameters.

use crate::limits::figure;
use crate::scores::{Loss, Paired, Separation};

/// Costs this much above the cheapest count as equal.
const COST_SLACK: f64 = 0.1;

/// A candidate that keeps every limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    pub name: String,
    pub mean_loss: f64,
    /// Processor seconds for 1,000 answers (where the system does not tell them: milliseconds of one answer).
    pub cost: f64,
    pub operations: u64,
    pub parameters: u64,
}

/// Whom the rule takes; numbers are those of the contenders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub winner: usize,
    pub best: usize,
    /// Not significantly worse than the best, which is among them.
    pub as_good: Vec<usize>,
}

/// Applies the rule; `worse(i, best)`: whether i is significantly worse. None of nobody.
pub fn take(contenders: &[Contender], worse: impl Fn(usize, usize) -> bool) -> Option<Taken> {
    let best = (0..contenders.len()).min_by(|&a, &b| {
        contenders[a]
            .mean_loss
            .total_cmp(&contenders[b].mean_loss)
            .then(contenders[a].cost.total_cmp(&contenders[b].cost))
    })?;
    let as_good: Vec<usize> = (0..contenders.len()).filter(|&i| i == best || !worse(i, best)).collect();
    let cheapest = as_good.iter().map(|&i| contenders[i].cost).fold(f64::INFINITY, f64::min);
    let near = as_good.iter().copied().filter(|&i| contenders[i].cost <= cheapest * (1.0 + COST_SLACK));
    let winner = near.min_by_key(|&i| (contenders[i].operations, contenders[i].parameters, i))?;
    Some(Taken { winner, best, as_good })
}

/// A comparison in words: the pair's first is the subject.
pub struct Against<'a> {
    pub name: &'a str,
    pub quality: f64,
    pub paired: &'a Paired,
    pub p_adjusted: f64,
    pub separation: Separation,
}

/// `97.8 %`, or the number itself.
pub fn quality(loss: Loss, value: f64) -> String {
    if loss.is_share() { format!("{:.1} %", value * 100.0) } else { figure(value) }
}

/// A p-value.
pub fn p_value(p: f64) -> String {
    if p < 0.001 { "p < 0.001".into() } else { format!("p = {p:.2}").replace("p = 0.00", "p < 0.005") }
}

/// How much worse the first of a pair is: points of accuracy, or mean squared error, with its interval.
pub fn difference(loss: Loss, paired: &Paired) -> String {
    let scale = if loss.is_share() { 100.0 } else { 1.0 };
    let unit = match loss {
        Loss::Error => "points of accuracy",
        Loss::Match => "points of exact matches",
        Loss::Tokens => "points of token accuracy",
        Loss::Squared => "of mean squared error",
        Loss::Nats => "nats a token",
    };
    let of = |value: f64| figure(value * scale);
    format!(
        "{} {unit} (95 % interval {} to {})",
        of(paired.difference),
        of(paired.ci95[0]),
        of(paired.ci95[1])
    )
}

/// What would tell two models apart.
pub fn separation(separation: Separation) -> String {
    match separation {
        Separation::Rows(n) => format!("about {} held-out rows would separate them", figure(about(n) as f64)),
        Separation::Seeds => "there are rows enough; more seeds would separate them".into(),
        Separation::Nothing => "nothing would separate them: their mean is the same".into(),
    }
}

/// Two digits, upwards: it is an estimate.
fn about(n: u64) -> u64 {
    let step = 10u64.pow(n.max(1).ilog10().saturating_sub(1));
    n.div_ceil(step).saturating_mul(step)
}

/// Why this one, and what is given up. `to_best`: the winner against the best where that is another; `cheaper`: what
/// costs less and is significantly worse; `baselines`: against the simple methods.
pub fn sentence(
    loss: Loss,
    contenders: &[Contender],
    taken: &Taken,
    own_quality: f64,
    to_best: Option<&Against<'_>>,
    cheaper: &[Against<'_>],
    baselines: &[Against<'_>],
) -> String {
    let (winner, best) = (&contenders[taken.winner], &contenders[taken.best]);
    let mut text = match to_best {
        None => {
            let own =
                format!("{} is taken: its {} of {}", winner.name, loss.metric(), quality(loss, own_quality));
            let only = if contenders.len() == 1 { "it is the only one left; its" } else { "its" };
            let own = own.replacen("its", only, 1);
            match (cheaper.is_empty(), contenders.len()) {
                (_, 1) => format!("{own} stands alone."),
                (true, _) => format!("{own} is the best, and nothing as good is cheaper."),
                (false, _) => {
                    let all: Vec<String> = cheaper.iter().map(|a| worse(loss, a)).collect();
                    format!("{own} is the best; what is cheaper is worse: {}.", all.join("; "))
                }
            }
        }
        Some(against) => format!(
            "{} is taken: it is the cheapest of the {} that are not distinguishable from the best, {}. Given up: {}, \
             adjusted {}; won: {} and {} parameters instead of {}. {}.",
            winner.name,
            taken.as_good.len(),
            best.name,
            difference(loss, against.paired),
            p_value(against.p_adjusted),
            time(winner.cost / best.cost),
            figure(winner.parameters as f64),
            figure(best.parameters as f64),
            capital(&separation(against.separation)),
        ),
    };
    for against in baselines {
        let (name, q) = (against.name, quality(loss, against.quality));
        let p = p_value(against.p_adjusted);
        text += &match (against.p_adjusted < crate::scores::ALPHA, against.paired.difference < 0.0) {
            (true, true) => format!(" It beats the {name} ({q}, {p})."),
            (true, false) => {
                format!(" The {name} is better ({q}, {p}): it cannot be served, but think of it.")
            }
            (false, _) => format!(" It is not distinguishable from the {name} ({q}, {p})."),
        };
    }
    text
}

fn worse(loss: Loss, against: &Against<'_>) -> String {
    // The pair is the winner against the other: the other is worse by as much as the winner is better.
    let turned = Paired {
        difference: -against.paired.difference,
        ci95: [-against.paired.ci95[1], -against.paired.ci95[0]],
        ..against.paired.clone()
    };
    format!("{} by {}, adjusted {}", against.name, difference(loss, &turned), p_value(against.p_adjusted))
}

fn time(ratio: f64) -> String {
    if ratio < 1.0 {
        return format!("{} % of the processor time per answer", figure(ratio * 100.0));
    }
    format!("no processor time ({} times as much per answer, which counts as equal)", figure(ratio))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contender(name: &str, mean_loss: f64, cost: f64, operations: u64) -> Contender {
        Contender { name: name.into(), mean_loss, cost, operations, parameters: operations / 2 }
    }

    #[test]
    fn the_cheapest_that_is_not_worse_is_taken() {
        let contenders = [
            contender("cnn", 0.02, 9.0, 900),
            contender("mlp", 0.025, 2.0, 200),
            contender("linear", 0.09, 1.0, 20),
        ];
        let gap = |i: usize, best: usize| contenders[i].mean_loss - contenders[best].mean_loss;
        let taken = |threshold: f64| take(&contenders, |i, best| gap(i, best) > threshold).unwrap();
        assert_eq!(taken(0.01), Taken { winner: 1, best: 0, as_good: vec![0, 1] });
        assert_eq!(taken(0.001).winner, 0);
        assert_eq!(taken(0.5).winner, 2);
        assert_eq!(take(&[], |_, _| false), None);
    }

    #[test]
    fn costs_that_the_clock_does_not_tell_apart_are_settled_by_operations() {
        let contenders =
            [contender("a", 0.1, 1.00, 500), contender("b", 0.1, 1.05, 100), contender("c", 0.1, 2.0, 1)];
        assert_eq!(take(&contenders, |_, _| false).unwrap().winner, 1);
    }

    #[test]
    fn the_sentence_says_what_is_given_up_and_what_is_won() {
        let contenders = [contender("cnn", 0.02, 8.0, 9000), contender("mlp", 0.025, 2.0, 2000)];
        let paired =
            Paired { difference: 0.005, ci95: [-0.004, 0.014], p: 0.2, test: "paired_t", row_std: 0.1 };
        let against = Against {
            name: "cnn",
            quality: 0.98,
            paired: &paired,
            p_adjusted: 0.6,
            separation: Separation::Rows(1834),
        };
        let beaten = Paired { difference: -0.3, ci95: [-0.4, -0.2], p: 0.0, test: "paired_t", row_std: 0.1 };
        let baseline = Against {
            name: "majority baseline",
            quality: 0.1,
            paired: &beaten,
            p_adjusted: 0.0,
            separation: Separation::Seeds,
        };
        let taken = Taken { winner: 1, best: 0, as_good: vec![0, 1] };
        let text = sentence(Loss::Error, &contenders, &taken, 0.975, Some(&against), &[], &[baseline]);
        assert_eq!(
            text,
            "mlp is taken: it is the cheapest of the 2 that are not distinguishable from the best, cnn. Given up: 0.5 \
             points of accuracy (95 % interval -0.4 to 1.4), adjusted p = 0.60; won: 25 % of the processor time per \
             answer and 1,000 parameters instead of 4,500. About 1,900 held-out rows would separate them. It beats \
             the majority baseline (10.0 %, p < 0.001)."
        );
        let taken = Taken { winner: 0, best: 0, as_good: vec![0] };
        let cheaper = Against {
            name: "mlp",
            quality: 0.9,
            paired: &beaten,
            p_adjusted: 0.0004,
            separation: Separation::Seeds,
        };
        let text = sentence(Loss::Error, &contenders, &taken, 0.98, None, &[cheaper], &[]);
        assert_eq!(
            text,
            "cnn is taken: its accuracy of 98.0 % is the best; what is cheaper is worse: mlp by 30 points of accuracy \
             (95 % interval 20 to 40), adjusted p < 0.001."
        );
    }

    proptest! {
        #[test]
        fn nobody_who_is_as_good_is_much_cheaper(
            raw in prop::collection::vec((0.0f64..1.0, 0.1f64..10.0, 1u64..1000), 1..12),
            gap in 0.0f64..0.5,
        ) {
            let contenders: Vec<Contender> = raw.iter().map(|&(l, c, o)| contender("x", l, c, o)).collect();
            let worse = |i: usize, best: usize| contenders[i].mean_loss - contenders[best].mean_loss > gap;
            let taken = take(&contenders, worse).unwrap();
            prop_assert!(!worse(taken.winner, taken.best));
            prop_assert!(contenders.iter().all(|c| c.mean_loss >= contenders[taken.best].mean_loss));
            for &i in &taken.as_good {
                prop_assert!(contenders[taken.winner].cost <= contenders[i].cost * (1.0 + COST_SLACK) + 1e-12);
            }
        }
    }
}
