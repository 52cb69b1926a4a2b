//! Finds the texts at which a completion ends, in a text that arrives in pieces.

/// Gives text on as soon as no stop text can begin in it any more.
#[derive(Clone, Debug)]
pub(crate) struct StopFinder {
    stops: Vec<String>,
    held: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This much is certain to be part of the completion.
    Text(String),
    /// The last of the completion: a stop text followed.
    Stopped(String),
}

impl StopFinder {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    pub(crate) fn push(&mut self, text: &str) -> Found {
        self.held.push_str(text);
        // The stop text that is complete first counts, so that the cuts between pieces change nothing.
        let ends = |stop: &String| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at));
        if let Some((_, at)) = self.stops.iter().filter_map(ends).min() {
            self.held.truncate(at);
            return Found::Stopped(std::mem::take(&mut self.held));
        }
        let n_kept = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - n_kept);
        Found::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back when nothing more comes.
    pub(crate) fn finish(self) -> String {
        self.held
    }
}

/// Bytes at the end of `text` with which `stop` begins.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.as_bytes().ends_with(&stop.as_bytes()[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut finder = StopFinder::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut out = String::new();
        for piece in pieces {
            match finder.push(piece) {
                Found::Text(text) => out += &text,
                Found::Stopped(text) => return (out + &text, true),
            }
        }
        (out + &finder.finish(), false)
    }

    #[test]
    fn a_stop_text_is_found_across_pieces_and_is_not_part_of_the_completion() {
        assert_eq!(run(&["END"], &["ab", "E", "N", "D", "x"]), ("ab".into(), true));
        assert_eq!(run(&["END"], &["E", "N", "x"]), ("ENx".into(), false));
        assert_eq!(run(&["bc", "abcd"], &["ab", "cd"]), ("a".into(), true));
        assert_eq!(run(&["\n\n"], &["a\n", "b\n", "\nc"]), ("a\nb".into(), true));
        assert_eq!(run(&["é!"], &["caf", "é", "?"]), ("café?".into(), false));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), false));
    }

    proptest! {
        #[test]
        fn pieces_give_what_single_characters_give(text in "[abé]{0,24}", stops in proptest::collection::vec("[abé]{1,4}", 1..4), cuts in proptest::collection::vec(0usize..24, 0..6)) {
            let mut at: Vec<usize> = cuts.into_iter().filter(|&cut| text.is_char_boundary(cut)).collect();
            at.push(0);
            at.push(text.len());
            at.retain(|&cut| cut <= text.len());
            at.sort_unstable();
            let pieces: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
            let first = ends.flat_map(|end| stops.iter().map(move |stop| (end, stop)))
                .find(|(end, stop)| text[..*end].ends_with(**stop))
                .map(|(end, _)| stops.iter().filter(|stop| text[..end].ends_with(**stop)).map(|stop| end - stop.len()).min().unwrap());
            let expected = first.map_or((text.clone(), false), |at| (text[..at].to_owned(), true));
            prop_assert_eq!(run(&stops, &pieces), expected);
        }
    }
}
