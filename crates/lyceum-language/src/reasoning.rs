//! Separates what a model thinks from what it answers: `<think>…</think>` and its like.
//!
//! Text goes in as it comes and parts come out, in pieces whose concatenation does not depend on how the text
//! was cut. White space around the thinking belongs to neither part.

use crate::held::{held_back, held_space};

/// How a family marks its thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasoningFormat {
    pub open: &'static str,
    pub close: &'static str,
    pub begins: Begins,
}

/// Whether the answer begins within the thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// The model writes `open` itself where it thinks (Qwen 3).
    Outside,
    /// The template wrote `open` (DeepSeek-R1, Qwen 3 Thinking).
    Inside,
}

impl ReasoningFormat {
    /// The format of a model, from its chat template and the prompt that was rendered with it; `None` where
    /// the template speaks of no thinking.
    pub fn of(template: &str, prompt: &str) -> Option<Self> {
        const TAGS: [(&str, &str); 3] =
            [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>")];
        let (open, close) = TAGS.into_iter().find(|(_, close)| template.contains(close))?;
        let begins = match prompt.trim_end().ends_with(open) {
            true => Begins::Inside,
            false => Begins::Outside,
        };
        Some(ReasoningFormat { open, close, begins })
    }
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Reasoning(String),
    Content(String),
}

/// Separates one answer.
#[derive(Clone, Debug)]
pub struct ReasoningParser {
    format: ReasoningFormat,
    state: State,
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space yet, and no `open`.
    Beginning,
    /// After `open`, before the first word.
    Opened,
    Thinking,
    /// After `close`, before the first word.
    Closed,
    Answering,
}

impl ReasoningParser {
    pub fn new(format: ReasoningFormat) -> Self {
        let state = match format.begins {
            Begins::Outside => State::Beginning,
            Begins::Inside => State::Opened,
        };
        ReasoningParser { format, state, held: String::new() }
    }

    /// The parts that are certain with this text.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts, false) {}
        parts
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        while self.step(&mut parts, true) {}
        parts
    }

    /// Whether the model is thinking: what comes next is not part of the answer.
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::Opened | State::Thinking)
    }

    /// One transition; false where more text is needed.
    fn step(&mut self, parts: &mut Vec<Part>, last: bool) -> bool {
        match self.state {
            State::Beginning => {
                let words = self.held.trim_start();
                if let Some(rest) = words.strip_prefix(self.format.open) {
                    self.held = rest.to_owned();
                    self.state = State::Opened;
                    return true;
                }
                if self.format.open.starts_with(words) && !last {
                    return false;
                }
                self.state = State::Answering;
                true
            }
            State::Opened | State::Closed => {
                // A model whose template opened the thinking may open it again.
                let words = self.held.trim_start();
                if words.is_empty() {
                    self.held.clear();
                    return false;
                }
                let open = self.format.open;
                if self.state == State::Opened && self.format.begins == Begins::Inside {
                    if let Some(rest) = words.strip_prefix(open) {
                        self.held = rest.to_owned();
                        return true;
                    }
                    if open.starts_with(words) && !last {
                        return false;
                    }
                }
                self.held = words.to_owned();
                self.state = if self.state == State::Opened { State::Thinking } else { State::Answering };
                true
            }
            State::Thinking => self.think(parts, last),
            State::Answering => {
                if !self.held.is_empty() {
                    parts.push(Part::Content(std::mem::take(&mut self.held)));
                }
                false
            }
        }
    }

    fn think(&mut self, parts: &mut Vec<Part>, last: bool) -> bool {
        let (thought, rest) = match self.held.find(self.format.close) {
            Some(at) => {
                (self.held[..at].trim_end(), Some(self.held[at + self.format.close.len()..].to_owned()))
            }
            None if last => (self.held.trim_end(), Some(String::new())),
            None => {
                let certain = self.held.len() - held_back(&self.held, self.format.close);
                (&self.held[..certain - held_space(&self.held[..certain])], None)
            }
        };
        let n_given = thought.len();
        if n_given > 0 {
            parts.push(Part::Reasoning(thought.to_owned()));
        }
        match rest {
            Some(rest) => {
                self.held = rest;
                self.state = if last && self.held.is_empty() { State::Answering } else { State::Closed };
                true
            }
            None => {
                self.held.drain(..n_given);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QWEN: ReasoningFormat =
        ReasoningFormat { open: "<think>", close: "</think>", begins: Begins::Outside };
    const R1: ReasoningFormat = ReasoningFormat { begins: Begins::Inside, ..QWEN };

    /// Reasoning and content of a text that comes in these pieces.
    fn parsed(format: ReasoningFormat, pieces: &[&str]) -> (String, String) {
        let mut parser = ReasoningParser::new(format);
        let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        parts.extend(parser.finish());
        let (mut reasoning, mut content) = (String::new(), String::new());
        for part in parts {
            match part {
                Part::Reasoning(text) => {
                    assert!(content.is_empty(), "thinking after the answer");
                    reasoning.push_str(&text);
                }
                Part::Content(text) => content.push_str(&text),
            }
        }
        (reasoning, content)
    }

    #[test]
    fn thinking_is_told_from_the_answer() {
        for (format, text, reasoning, content) in [
            (QWEN, "<think>\nhm, a\n</think>\n\nHello ", "hm, a", "Hello "),
            (QWEN, "Hello <think>no</think>", "", "Hello <think>no</think>"),
            (QWEN, " \n<think>only thinking, cut", "only thinking, cut", ""),
            (QWEN, "<think>\n\n</think>\n\nShort.", "", "Short."),
            (QWEN, "<thin", "", "<thin"),
            (QWEN, "  plain", "", "  plain"),
            (R1, "so </thin k> x\n</think>\nY </think>", "so </thin k> x", "Y </think>"),
            (R1, "<think>again</think>Z", "again", "Z"),
            (R1, "no end", "no end", ""),
            (R1, "</think>Z", "", "Z"),
            (QWEN, "", "", ""),
        ] {
            assert_eq!(parsed(format, &[text]), (reasoning.to_owned(), content.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn the_format_is_read_from_the_template_and_the_prompt() {
        let template = "{{ '<think>' }}{{ '</think>' }}";
        assert_eq!(ReasoningFormat::of(template, "<|im_start|>assistant\n"), Some(QWEN));
        assert_eq!(ReasoningFormat::of(template, "<|im_start|>assistant\n<think>\n"), Some(R1));
        assert_eq!(ReasoningFormat::of("{{ messages }}", ""), None);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_parts(
            pieces in proptest::collection::vec("(<think>|</think>|</th|<|[ab \n]){0,4}", 0..8),
        ) {
            let whole = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let letters: Vec<String> = whole.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            for format in [QWEN, R1] {
                let expected = parsed(format, &[&whole]);
                prop_assert_eq!(&parsed(format, &pieces), &expected);
                prop_assert_eq!(&parsed(format, &letters), &expected);
            }
        }
    }
}
