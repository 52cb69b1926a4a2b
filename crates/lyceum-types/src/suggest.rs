//! "Did you mean": the nearest known word to a mistyped one.

/// The candidate nearest to `word`, when it is near enough to be a typing mistake. Case, `-` and `_` do not
/// count as differences.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let word = plain(word);
    let length = word.chars().count();
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| {
            let longest = length.max(candidate.chars().count());
            // A third of the letters may differ; a word of two letters must match but for case.
            *distance <= longest / 3 || (length >= 4 && plain(candidate).starts_with(&word))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_finds_none() {
        let words = ["batch_size", "epochs", "optimizer", "lr"];
        assert_eq!(did_you_mean("batchsize", words), Some("batch_size"));
        assert_eq!(did_you_mean("batch-size", words), Some("batch_size"));
        assert_eq!(did_you_mean("epoch", words), Some("epochs"));
        assert_eq!(did_you_mean("optimiser", words), Some("optimizer"));
        assert_eq!(did_you_mean("LR", words), Some("lr"));
        assert_eq!(did_you_mean("flavour", words), None);
    }
}
