//! What the words before a number say that it is.

/// Whether one of `words` stands in the sentence before; words are lower case and whole.
pub(crate) fn speaks(before: &str, words: &[&str]) -> bool {
    let sentence = &before[sentence_start(before)..];
    let lower = sentence.to_lowercase();
    words.iter().any(|word| has_word(&lower, word))
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// Where the last sentence begins: behind a full stop, space and capital, or an empty line. `Tel. 030` is one sentence.
fn sentence_start(text: &str) -> usize {
    let mut start = text.rfind("\n\n").map_or(0, |at| at + 2);
    for (at, mark) in text.match_indices(['.', '!', '?']) {
        let rest = &text[at + mark.len()..];
        let is_end = rest.starts_with([' ', '\n'])
            && rest.trim_start().chars().next().is_some_and(char::is_uppercase)
            && text[..at].chars().rev().take_while(|c| c.is_alphanumeric()).count() > 3;
        if is_end {
            start = start.max(at + mark.len());
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_speak_in_their_own_sentence() {
        assert!(speaks("my SSN is ", &["ssn"]));
        assert!(!speaks("my SSNs are ", &["ssn"]));
        assert!(speaks("Tel. ", &["tel"]));
        assert!(speaks("né le ", &["né"]));
        assert!(!speaks("He was born there. The day is ", &["born"]));
        assert!(!speaks("Date of birth\n\nroom ", &["date of birth"]));
        assert!(speaks("Date of birth\n", &["date of birth"]));
    }
}
