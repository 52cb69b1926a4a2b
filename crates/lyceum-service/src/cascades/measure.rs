//! What the held-out rows show: how often the small member answers, how often it is wrong, what that costs and saves.

use super::{Said, sets};
use lyceum_robust::RobustError;
use lyceum_robust::cascade::{GUARANTEE, Route, miscoverage_bound, route};
use lyceum_robust::share::share;
use lyceum_store::ledger::{Counts, PriceList};
use lyceum_types::cascade::{Cascade, CascadeReport, Escalated, Member, MemberCost};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::manifest::{DataFile, Metric};
use std::collections::BTreeMap;

/// A held-out row and what both members say of it, in seconds each.
pub(super) struct Asked {
    pub truth: u32,
    pub small: (Said, f64),
    pub large: (Said, f64),
}

/// What things cost whom.
pub(super) struct Prices<'a> {
    pub list: &'a PriceList,
    pub project: &'a Project,
}

/// What became of a row.
struct Outcome {
    escalated: bool,
    small_covers: bool,
    /// None: abstained.
    right: Option<bool>,
    /// Of what is given, one label or a set.
    covered: bool,
    large_covers: Option<bool>,
}

fn outcome(cascade: &Cascade, asked: &Asked) -> Outcome {
    let truth = asked.truth;
    let small = sets(&cascade.small_set);
    let small_covers = small.labels(&asked.small.0.probabilities).contains(&truth);
    let large = cascade.large_set.as_ref().map(|t| sets(t).labels(&asked.large.0.probabilities));
    let large_covers = large.as_ref().map(|labels| labels.contains(&truth));
    match route(&small, &asked.small.0.probabilities) {
        Route::Small(label) => Outcome {
            escalated: false,
            small_covers,
            right: Some(label == truth),
            covered: label == truth,
            large_covers,
        },
        Route::Escalated(_) => {
            let right = asked.large.0.best() == truth as usize;
            let single = large.as_ref().is_none_or(|labels| labels.len() == 1);
            let abstains = cascade.escalated == Escalated::Abstain && !single;
            Outcome {
                escalated: true,
                small_covers,
                right: (!abstains).then_some(right),
                covered: large_covers.unwrap_or(right),
                large_covers,
            }
        }
    }
}

/// # Errors
/// No rows.
pub(super) fn report(
    cascade: &Cascade,
    asked: &[Asked],
    held_out: DataFile,
    prices: &Prices<'_>,
) -> Result<CascadeReport, RobustError> {
    let outcomes: Vec<Outcome> = asked.iter().map(|asked| outcome(cascade, asked)).collect();
    let shares = shares(cascade, asked, &outcomes)?;
    let t = &cascade.small_set;
    let miscoverage_bound95 = miscoverage_bound(t.n as usize, t.alpha, 0.05);
    let mut statement = format!("{GUARANTEE} (alpha = {}, {} calibration rows)", t.alpha, t.n);
    if cascade.large_set.is_some() {
        statement += &format!("; {}", super::decide::escalated_guarantee(cascade));
    } else {
        statement += "; nothing is promised of escalated answers";
    }
    Ok(CascadeReport {
        held_out,
        n: asked.len() as u64,
        shares,
        miscoverage_bound95,
        cost: cost(cascade, asked, &outcomes, prices),
        statement,
        measured_at: Timestamp::now().seconds().max(0) as u64,
    })
}

fn shares(
    cascade: &Cascade,
    asked: &[Asked],
    outcomes: &[Outcome],
) -> Result<BTreeMap<String, Metric>, RobustError> {
    let n = asked.len() as u64;
    let count = |of: &dyn Fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| of(outcome)).count() as u64;
    let right =
        |of: &dyn Fn(&Asked) -> usize| asked.iter().filter(|a| of(a) == a.truth as usize).count() as u64;
    let answered = count(&|o| !o.escalated);
    let wrong = count(&|o| !o.escalated && o.right == Some(false));
    let mut out = BTreeMap::new();
    let mut put = |name: &str, k: u64, n: u64| -> Result<(), RobustError> {
        // A share of no rows is no number.
        if n > 0 {
            out.insert(name.to_owned(), share(k, n)?);
        }
        Ok(())
    };
    put("answered_by_small", answered, n)?;
    put("answered_by_small_and_wrong", wrong, n)?;
    put("wrong_among_answered_by_small", wrong, answered)?;
    put("small_set_coverage", count(&|o| o.small_covers), n)?;
    put("accuracy_of_small_alone", right(&|a| a.small.0.best()), n)?;
    put("accuracy_of_large_alone", right(&|a| a.large.0.best()), n)?;
    let answers = count(&|o| o.right.is_some());
    put("accuracy_of_cascade", count(&|o| o.right == Some(true)), answers)?;
    if cascade.large_set.is_some() {
        put("large_set_coverage", count(&|o| o.large_covers == Some(true)), n)?;
    }
    match cascade.escalated {
        Escalated::Answer => {}
        Escalated::Set => put("given_set_misses", count(&|o| !o.covered), n)?,
        Escalated::Abstain => {
            put("abstained", n - answers, n)?;
            put("answered_and_wrong", count(&|o| o.right == Some(false)), n)?;
        }
    }
    Ok(out)
}

/// Of the members and of the cascade: seconds, tokens and money of one answer, on the mean.
fn cost(
    cascade: &Cascade,
    asked: &[Asked],
    outcomes: &[Outcome],
    prices: &Prices<'_>,
) -> BTreeMap<String, MemberCost> {
    let n = asked.len() as f64;
    let small = total(&cascade.small, asked.iter().map(|a| &a.small), prices);
    let large = total(&cascade.large, asked.iter().map(|a| &a.large), prices);
    let gone_on = asked.iter().zip(outcomes).filter(|(_, outcome)| outcome.escalated);
    let escalated = total(&cascade.large, gone_on.map(|(a, _)| &a.large), prices);
    let both = MemberCost {
        seconds: small.seconds + escalated.seconds,
        input_tokens: small.input_tokens + escalated.input_tokens,
        micro_usd: small.micro_usd.zip(escalated.micro_usd).map(|(a, b)| a + b),
    };
    let mean = |sum: MemberCost| MemberCost {
        seconds: sum.seconds / n,
        input_tokens: sum.input_tokens / n,
        micro_usd: sum.micro_usd.map(|usd| usd / n),
    };
    let rows = [("small", small), ("large", large), ("cascade", both)];
    rows.into_iter().map(|(name, sum)| (name.to_owned(), mean(sum))).collect()
}

fn total<'a>(
    member: &Member,
    said: impl Iterator<Item = &'a (Said, f64)>,
    prices: &Prices<'_>,
) -> MemberCost {
    let (mut counts, mut seconds) = (Counts::default(), 0.0);
    for (said, took) in said {
        counts += said.counts;
        seconds += took;
        // A row of a classifier is one pass.
        counts.passes += u64::from(!super::reads_words(member));
    }
    let name = member.model.parse::<ModelRef>().ok().map(|reference| reference.name);
    let price =
        name.and_then(|name| prices.list.find(&prices.project.tenant, &prices.project.id, name.as_str()));
    MemberCost {
        seconds,
        input_tokens: counts.input_tokens as f64,
        micro_usd: price.map(|price| price.rates.cost(&counts) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_types::cascade::{CascadeQuestion, CascadeRows, Threshold};

    fn member(name: &str, family: &str) -> Member {
        Member {
            model: format!("{name}@1"),
            family: family.into(),
            sha256: String::new(),
            manifest_sha256: String::new(),
            base_sha256: None,
        }
    }

    fn file() -> DataFile {
        DataFile { role: "test".into(), path: "t".into(), sha256: "t".into(), rows: 4 }
    }

    fn cascade(escalated: Escalated) -> Cascade {
        let threshold =
            |alpha, threshold| Threshold { alpha, score: "lac".into(), n: 99, rank: 90, threshold };
        Cascade {
            small: member("s", "mlp"),
            large: member("l", "llama"),
            question: CascadeQuestion {
                instructions: "q".into(),
                labels: vec!["a".into(), "b".into()],
                descriptions: vec![None, None],
            },
            small_set: threshold(0.1, 0.3),
            large_set: (escalated != Escalated::Answer).then(|| threshold(0.2, 0.45)),
            escalated,
            calibration: CascadeRows { file: file(), n: 99, seed: 0, disjoint: String::new() },
        }
    }

    /// Sure and right, sure and wrong, unsure with a large one that is right, unsure with one that is unsure and wrong.
    fn rows() -> Vec<Asked> {
        let said = |p: f64, tokens| {
            let counts = Counts { input_tokens: tokens, ..Counts::default() };
            Said { probabilities: vec![p, 1.0 - p], counts }
        };
        let row = |truth, small, large| Asked {
            truth,
            small: (said(small, 2), 1.0),
            large: (said(large, 10), 8.0),
        };
        vec![row(0, 0.9, 0.9), row(1, 0.8, 0.1), row(0, 0.5, 0.7), row(1, 0.4, 0.52)]
    }

    fn found(escalated: Escalated) -> CascadeReport {
        let (list, project) = (PriceList::default(), Project::default_project());
        report(&cascade(escalated), &rows(), file(), &Prices { list: &list, project: &project }).unwrap()
    }

    #[test]
    fn shares_and_costs_are_counted_by_hand() {
        let report = found(Escalated::Answer);
        let value = |name: &str| report.shares[name].value;
        assert_eq!((value("answered_by_small"), value("answered_by_small_and_wrong")), (0.5, 0.25));
        assert_eq!(value("wrong_among_answered_by_small"), 0.5);
        // Of the last two rows neither label is within 0.3 of certainty.
        assert_eq!(value("small_set_coverage"), 0.25);
        assert_eq!((value("accuracy_of_small_alone"), value("accuracy_of_large_alone")), (0.75, 0.75));
        assert_eq!(value("accuracy_of_cascade"), 0.5);
        assert!(!report.shares.contains_key("abstained"));
        let cost = &report.cost;
        assert_eq!((cost["small"].seconds, cost["large"].seconds, cost["cascade"].seconds), (1.0, 8.0, 5.0));
        assert_eq!(cost["cascade"].input_tokens, 7.0);
        assert_eq!(cost["cascade"].micro_usd, None, "there is no price");
    }

    #[test]
    fn an_abstention_is_no_answer_and_a_set_may_hold_the_truth() {
        let report = found(Escalated::Abstain);
        let value = |name: &str| report.shares[name].value;
        // p = 0.7 is a set of one at 0.45; 0.52 and 0.48 are none.
        assert_eq!((value("abstained"), value("answered_and_wrong")), (0.25, 0.25));
        assert_eq!((value("accuracy_of_cascade"), report.shares["accuracy_of_cascade"].n), (2.0 / 3.0, 3));
        let report = found(Escalated::Set);
        assert_eq!(report.shares["given_set_misses"].value, 0.5, "one sure and wrong, one empty set");
        assert!(report.statement.contains("0.3"), "{}", report.statement);
    }
}
