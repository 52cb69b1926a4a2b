//! Reading texts: whole ones here, and the steps that a stream takes too.

use crate::segment::{CANDIDATE_BYTES_MAX, Piece, Segmenter};
use crate::sentence::Sentences;
use crate::{Candidate, Finding, GuardError, Kind, Passage, Recogniser};
use std::ops::Range;
use std::sync::Arc;

/// What is looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// None: everything that is known.
    pub kinds: Option<Vec<Kind>>,
    /// The lowest score of a finding.
    pub threshold: f32,
}

impl Wanted {
    /// Below it a form alone speaks for a finding, and numbers of orders have forms as well.
    pub const THRESHOLD: f32 = 0.5;

    fn has(&self, kind: Kind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self { kinds: None, threshold: Self::THRESHOLD }
    }
}

/// The recognisers that read a text; clones are the same.
#[derive(Clone)]
pub struct Analyser {
    recognisers: Arc<[Box<dyn Recogniser>]>,
    cuts: Cuts,
}

/// What recognisers are given to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cuts {
    /// What may hold numbers, addresses and keys.
    Blocks,
    /// Everything.
    Sentences,
}

impl Analyser {
    pub fn new(recognisers: Vec<Box<dyn Recogniser>>) -> Self {
        Self { recognisers: recognisers.into(), cuts: Cuts::Blocks }
    }

    /// Recognisers that read whole sentences, because what they find has no form: each sentence of a stream waits for its
    /// end.
    pub fn of_sentences(recognisers: Vec<Box<dyn Recogniser>>) -> Self {
        Self { recognisers: recognisers.into(), cuts: Cuts::Sentences }
    }

    /// What can be found.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.recognisers.iter().flat_map(|r| r.kinds()).copied().collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Everything that is found, in order, none over another.
    ///
    /// # Errors
    /// A recogniser failed.
    pub fn analyse(&self, text: &str, wanted: &Wanted) -> Result<Vec<Finding>, GuardError> {
        let (mut reader, mut from, mut all) = (Reader::new(self.clone(), wanted.clone()), 0, Vec::new());
        while let Some(read) = reader.next(text, from, End::Here)? {
            from += read.n_bytes;
            all.extend(read.findings);
        }
        Ok(all)
    }

    fn candidates(&self, passage: Passage<'_>, wanted: &Wanted) -> Result<Vec<Candidate>, GuardError> {
        let mut all = Vec::new();
        for recogniser in self.recognisers.iter() {
            if !recogniser.kinds().iter().any(|kind| wanted.has(*kind)) {
                continue;
            }
            let before = all.len();
            recogniser.find(passage, &mut all)?;
            let (from, text) = (passage.from(), passage.text());
            let is_outside = |bytes: &Range<usize>| {
                bytes.start < from || bytes.is_empty() || text.get(bytes.clone()).is_none()
            };
            if all[before..].iter().any(|candidate| is_outside(&candidate.bytes)) {
                return Err(GuardError::Outside { recogniser: recogniser.name() });
            }
        }
        all.retain(|candidate| wanted.has(candidate.kind) && candidate.score >= wanted.threshold);
        Ok(all)
    }
}

/// The best of what lies over each other: by score, then length, then place. In the order of the text.
fn resolve(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by(|a, b| {
        let longer = b.bytes.len().cmp(&a.bytes.len());
        let first = a.bytes.start.cmp(&b.bytes.start);
        b.score.total_cmp(&a.score).then(longer).then(first).then(a.kind.cmp(&b.kind))
    });
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        // Those kept lie in order and apart.
        let place = kept.partition_point(|other| other.bytes.start < candidate.bytes.start);
        let is_free = |other: Option<&Candidate>| {
            other.is_none_or(|other| {
                other.bytes.end <= candidate.bytes.start || candidate.bytes.end <= other.bytes.start
            })
        };
        if is_free(place.checked_sub(1).and_then(|i| kept.get(i))) && is_free(kept.get(place)) {
            kept.insert(place, candidate);
        }
    }
    kept
}

/// Whether a text ends where what is there ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Here,
    Later,
}

/// What is known of a piece of a text.
pub(crate) struct Read {
    pub n_bytes: usize,
    /// Places count from the text's beginning.
    pub findings: Vec<Finding>,
}

/// Who cuts the text.
enum Pieces {
    Blocks(Segmenter),
    Sentences(Sentences),
}

impl Pieces {
    fn next(&mut self, pending: &str, is_end: bool) -> Option<Piece> {
        match self {
            Pieces::Blocks(segmenter) => segmenter.next(pending, is_end),
            Pieces::Sentences(sentences) => sentences.next(pending, is_end),
        }
    }

    /// How much of a piece that is full is done, where nothing was found over that place.
    fn done(&self, full: &str) -> usize {
        match self {
            Pieces::Blocks(_) => {
                let most = full.len() - CANDIDATE_BYTES_MAX;
                (0..=most).rev().find(|&n| full.is_char_boundary(n)).unwrap_or(most)
            }
            Pieces::Sentences(_) => Sentences::done(full),
        }
    }

    fn release(&mut self, n: usize) {
        match self {
            Pieces::Blocks(segmenter) => segmenter.release(n),
            Pieces::Sentences(sentences) => sentences.release(n),
        }
    }
}

/// Reads a text piece by piece.
pub(crate) struct Reader {
    analyser: Analyser,
    wanted: Wanted,
    segmenter: Pieces,
    /// What reached beyond the last full block and goes on.
    inside: Option<Kind>,
    bytes_done: usize,
    chars_done: usize,
}

impl Reader {
    pub fn new(analyser: Analyser, wanted: Wanted) -> Self {
        let segmenter = match analyser.cuts {
            Cuts::Blocks => Pieces::Blocks(Segmenter::default()),
            Cuts::Sentences => Pieces::Sentences(Sentences::default()),
        };
        Self { analyser, wanted, segmenter, inside: None, bytes_done: 0, chars_done: 0 }
    }

    /// The next piece, which begins at `from`; what lies before was read.
    pub fn next(&mut self, text: &str, from: usize, end: End) -> Result<Option<Read>, GuardError> {
        let Some(piece) = self.segmenter.next(&text[from..], end == End::Here) else { return Ok(None) };
        let (n_bytes, findings) = match piece {
            Piece::Cold(n) => {
                self.inside = None;
                (n, Vec::new())
            }
            Piece::Block(n) => {
                let found = self.block(text, from..from + n)?;
                self.inside = None;
                (n, found)
            }
            Piece::Full(n) => {
                let mut found = self.block(text, from..from + n)?;
                let mut done = from + self.segmenter.done(&text[from..from + n]);
                if let Some(over) = found.iter().find(|over| over.bytes.start < done && done < over.bytes.end)
                {
                    done = over.bytes.end;
                }
                found.retain(|candidate| candidate.bytes.start < done);
                let reaches = found.last().filter(|last| last.bytes.end == from + n);
                self.inside = reaches.map(|last| last.kind);
                self.segmenter.release(done - from);
                (done - from, found)
            }
        };
        let findings = self.findings(&text[from..from + n_bytes], from, findings);
        Ok(Some(Read { n_bytes, findings }))
    }

    /// What a block holds, in bytes of `text`.
    fn block(&self, text: &str, block: Range<usize>) -> Result<Vec<Candidate>, GuardError> {
        let before = Passage::new(&text[..block.start], 0).before(block.start);
        let begin = block.start - before.len();
        let passage = Passage::new(&text[begin..block.end], before.len());
        let mut candidates = self.analyser.candidates(passage, &self.wanted)?;
        for candidate in &mut candidates {
            candidate.bytes.start += begin;
            candidate.bytes.end += begin;
        }
        if let Some(kind) = self.inside {
            let is_of_it = |c: char| {
                c.is_ascii_alphanumeric()
                    || "+/=-_.".contains(c)
                    || kind == Kind::PrivateKey && (c.is_ascii_whitespace() || ":,\\".contains(c))
            };
            let rest = &text[block.clone()];
            let n = rest.find(|c| !is_of_it(c)).unwrap_or(rest.len());
            if n > 0 {
                let bytes = block.start..block.start + n;
                candidates.push(Candidate { kind, bytes, score: 1.0, why: "goes on" });
            }
        }
        Ok(resolve(candidates))
    }

    fn findings(&mut self, piece: &str, from: usize, found: Vec<Candidate>) -> Vec<Finding> {
        let (mut at, mut chars) = (0, self.chars_done);
        let mut count_to = |to: usize| {
            chars += piece[at..to].chars().count();
            at = to;
            chars
        };
        let mut findings = Vec::with_capacity(found.len());
        for candidate in found {
            let (start, end) = (candidate.bytes.start - from, candidate.bytes.end - from);
            findings.push(Finding {
                kind: candidate.kind,
                start: count_to(start),
                end: count_to(end),
                bytes: self.bytes_done + start..self.bytes_done + end,
                score: candidate.score,
                why: candidate.why,
            });
        }
        self.chars_done = count_to(piece.len());
        self.bytes_done += piece.len();
        findings
    }
}
