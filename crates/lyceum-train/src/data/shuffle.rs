//! The check that a score is earned: training rows get each other's answers, so nothing can be learnt from
//! them but how frequent the answers are. Validation and test rows keep theirs.

use super::dataset::{Dataset, Examples, Ragged, Targets};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Gives the rows of `set` each other's answers; the tokens of one long text get another order.
pub(super) fn answers(set: &mut Dataset, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5AFF_1E00);
    match &mut set.targets {
        Targets::Classes(classes) => classes.shuffle(&mut rng),
        Targets::Values { width, data } => {
            let mut rows: Vec<Vec<f32>> = data.chunks(*width).map(<[f32]>::to_vec).collect();
            rows.shuffle(&mut rng);
            *data = rows.concat();
        }
        Targets::Steps { steps, data } => {
            let mut rows: Vec<Vec<u32>> = data.chunks(*steps).map(<[u32]>::to_vec).collect();
            rows.shuffle(&mut rng);
            *data = rows.concat();
        }
        Targets::None => {}
    }
    match &mut set.examples {
        Examples::Pairs { target, .. } => {
            let mut rows: Vec<Vec<u32>> = (0..target.len()).map(|i| target.row(i).to_vec()).collect();
            rows.shuffle(&mut rng);
            *target = ragged(&rows);
        }
        Examples::Sequences { ids, answers } => {
            let said = |i: usize| ids.row(i)[answers[i] as usize..].to_vec();
            let mut completions: Vec<Vec<u32>> = (0..ids.len()).map(said).collect();
            completions.shuffle(&mut rng);
            let rows: Vec<Vec<u32>> = completions
                .iter()
                .enumerate()
                .map(|(i, completion)| [&ids.row(i)[..answers[i] as usize], completion].concat())
                .collect();
            *ids = ragged(&rows);
        }
        Examples::Stream { tokens, .. } => tokens.shuffle(&mut rng),
        Examples::Dense { .. } | Examples::Tokens(_) | Examples::Packed(_) => {}
    }
}

fn ragged(rows: &[Vec<u32>]) -> Ragged {
    let mut all = Ragged::new();
    rows.iter().for_each(|row| all.push(row));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(examples: Examples) -> Dataset {
        Dataset { examples, targets: Targets::None, row_ids: vec![], texts: None, n_truncated: vec![] }
    }

    #[test]
    fn prompts_keep_their_place_and_completions_change_theirs() {
        let rows: Vec<Vec<u32>> = (0..20).map(|i| vec![i, 100, 200 + i]).collect();
        let mut sequences = set(Examples::Sequences { ids: ragged(&rows), answers: vec![2; 20] });
        answers(&mut sequences, 1);
        let Examples::Sequences { ids, .. } = &sequences.examples else { panic!("it stays what it is") };
        assert!((0..20).all(|i| ids.row(i)[..2] == [i as u32, 100]));
        let said: Vec<u32> = (0..20).map(|i| ids.row(i)[2]).collect();
        let mut sorted = said.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (200..220).collect::<Vec<u32>>());
        assert_ne!(said, sorted);
    }

    #[test]
    fn targets_of_pairs_and_tokens_of_a_text_are_permuted() {
        let rows: Vec<Vec<u32>> = (0..20).map(|i| vec![i; 1 + i as usize % 3]).collect();
        let mut pairs = set(Examples::Pairs { source: ragged(&rows), target: ragged(&rows) });
        answers(&mut pairs, 1);
        let Examples::Pairs { source, target } = &pairs.examples else { panic!("it stays what it is") };
        assert_ne!(source, target);
        assert_eq!(target.len(), 20);
        let mut stream = set(Examples::Stream { tokens: (0..50).collect(), context: 4 });
        answers(&mut stream, 1);
        let Examples::Stream { tokens, .. } = &stream.examples else { panic!("it stays what it is") };
        assert_ne!(*tokens, (0..50).collect::<Vec<u32>>());
    }
}
