//! Guesses at the next tokens from what was already said (Saxena 2023, "prompt lookup decoding"): where the
//! last tokens stood before, what followed them then. A guess is looked at in the same pass as the token
//! before it and kept only as far as the sampler chooses the same tokens, so no answer changes.

/// Tokens that must agree for a guess.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;

/// At most `n` tokens that might follow.
pub(crate) fn guess(tokens: &[u32], n: usize) -> &[u32] {
    for length in (SHORTEST..=LONGEST).rev() {
        let Some(earlier) = tokens.len().checked_sub(length + 1).filter(|_| n > 0) else { continue };
        let last = &tokens[tokens.len() - length..];
        // The latest place counts.
        if let Some(at) = (0..=earlier).rev().find(|&at| &tokens[at..at + length] == last) {
            let next = at + length;
            return &tokens[next..tokens.len().min(next + n)];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_latest_place_counts() {
        assert_eq!(guess(&[1, 2, 3, 9, 1, 2, 4, 8, 1, 2], 3), [4, 8, 1]);
        assert_eq!(guess(&[7, 1, 2, 3, 9, 1, 2, 4, 7, 1, 2], 2), [3, 9], "three agree there");
        assert_eq!(guess(&[5, 5, 5, 5], 9), [5]);
        let nothing = [guess(&[1, 2, 3], 4), guess(&[1, 2, 1, 2], 0), guess(&[], 4)];
        assert!(nothing.iter().all(|guess| guess.is_empty()));
    }
}
