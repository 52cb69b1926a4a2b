//! Which page belongs to whom, and which full pages are kept for whoever begins with the same tokens.
//!
//! A full page is known by what it continues (another known page, or the beginning of a
//! sequence of a tenant with an adapter or none) and by its tokens, compared exactly: no two different prefixes are ever taken for one. Known pages that nobody
//! uses stay until their room is needed, the longest unused first. Nothing here touches the pages' contents.

use super::sequence::Origin;
use std::collections::{BTreeMap, HashMap};

/// What a page continues.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Before {
    /// It is the first of a sequence of this tenant and adapter.
    Beginning(Origin),
    /// The known page of this number; numbers are never used again.
    Known(u64),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    before: Before,
    tokens: Box<[u32]>,
}

#[derive(Clone, Default)]
struct Page {
    users: u32,
    /// Its number and key, when it is known.
    known: Option<(u64, Key)>,
    /// When it was last let go, while nobody uses it.
    idle_since: u64,
}

pub(crate) struct Blocks {
    /// Positions of a page.
    pub page: usize,
    pub shares: bool,
    pages: Vec<Page>,
    free: Vec<u32>,
    known: HashMap<Key, u32>,
    /// Known pages that nobody uses, by the time since when.
    idle: BTreeMap<u64, u32>,
    clock: u64,
    last_number: u64,
}

impl Blocks {
    /// `n_pages` of `page` positions; `shares` says whether full pages are kept for others.
    pub(crate) fn new(n_pages: usize, page: usize, shares: bool) -> Blocks {
        Blocks {
            page,
            shares,
            pages: vec![Page::default(); n_pages],
            free: (0..n_pages as u32).rev().collect(),
            known: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
            last_number: 0,
        }
    }

    pub(crate) fn n_pages(&self) -> usize {
        self.pages.len()
    }

    /// Pages that can be had now.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    pub(crate) fn used(&self) -> usize {
        self.pages.len() - self.available()
    }

    /// Takes the known pages that `tokens` begin with, at most `n_max`; and what the next page continues.
    pub(crate) fn take_known(&mut self, origin: Origin, tokens: &[u32], n_max: usize) -> (Vec<u32>, Before) {
        let (mut taken, mut before) = (Vec::new(), Before::Beginning(origin));
        if !self.shares {
            return (taken, before);
        }
        for tokens in tokens.chunks_exact(self.page).take(n_max) {
            let Some(&page) = self.known.get(&Key { before, tokens: tokens.into() }) else { break };
            let slot = &mut self.pages[page as usize];
            if slot.users == 0 {
                self.idle.remove(&slot.idle_since);
            }
            slot.users += 1;
            before = Before::Known(slot.known.as_ref().expect("it was found as known: bug").0);
            taken.push(page);
        }
        (taken, before)
    }

    /// A page for one user; None when all are in use.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let page = self.free.pop().or_else(|| {
            let (_, page) = self.idle.pop_first()?;
            let (_, key) = self.pages[page as usize].known.take().expect("idle pages are known: bug");
            self.known.remove(&key);
            Some(page)
        })?;
        self.pages[page as usize].users = 1;
        Some(page)
    }

    /// A user lets go of its pages.
    pub(crate) fn release(&mut self, pages: &[u32]) {
        // From the last: what continues a page is forgotten before the page.
        for &page in pages.iter().rev() {
            let slot = &mut self.pages[page as usize];
            slot.users -= 1;
            if slot.users > 0 {
                continue;
            }
            if slot.known.is_some() {
                self.clock += 1;
                slot.idle_since = self.clock;
                self.idle.insert(self.clock, page);
            } else {
                self.free.push(page);
            }
        }
    }

    /// A page is now full of `tokens`; what the page behind it continues.
    pub(crate) fn remember(&mut self, page: u32, before: Before, tokens: &[u32]) -> Before {
        if !self.shares {
            return before;
        }
        let key = Key { before, tokens: tokens.into() };
        if let Some(&same) = self.known.get(&key) {
            // Another page holds the same: it stays the known one.
            return Before::Known(self.pages[same as usize].known.as_ref().expect("it is known: bug").0);
        }
        self.last_number += 1;
        self.pages[page as usize].known = Some((self.last_number, key.clone()));
        self.known.insert(key, page);
        Before::Known(self.last_number)
    }

    /// Panics unless every page is free, idle, or used by exactly the given tables.
    #[cfg(test)]
    pub(crate) fn check<'a>(&self, tables: impl Iterator<Item = &'a Vec<u32>>) {
        let mut users = vec![0; self.pages.len()];
        tables.flatten().for_each(|&page| users[page as usize] += 1);
        for (i, slot) in self.pages.iter().enumerate() {
            assert_eq!(slot.users, users[i], "users of page {i}");
            let (free, idle) = (self.free.contains(&(i as u32)), self.idle.values().any(|&p| p == i as u32));
            assert_eq!([free, idle, slot.users > 0].iter().filter(|&&x| x).count(), 1, "page {i}");
            assert!(!free || slot.known.is_none(), "a free page is unknown");
            if let Some((_, key)) = &slot.known {
                assert_eq!(self.known.get(key), Some(&(i as u32)));
            }
        }
        assert_eq!(self.known.len(), self.pages.iter().filter(|p| p.known.is_some()).count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::generate::Tenant;

    const ME: Origin = Origin { tenant: Tenant(1), adapter: None };

    #[test]
    fn full_pages_are_found_by_their_whole_past_and_their_tenant() {
        let mut blocks = Blocks::new(4, 2, true);
        let table = [blocks.allocate().unwrap(), blocks.allocate().unwrap()];
        let first = blocks.remember(table[0], Before::Beginning(ME), &[5, 6]);
        blocks.remember(table[1], first, &[7, 8]);
        assert_eq!(blocks.take_known(ME, &[5, 6, 7, 8, 9], 9).0, table);
        assert_eq!(blocks.take_known(ME, &[5, 6, 7, 8, 9], 1).0, table[..1]);
        assert!(blocks.take_known(ME, &[7, 8], 9).0.is_empty(), "the same tokens elsewhere");
        for (other, what) in [
            (Origin { tenant: Tenant(2), ..ME }, "another tenant"),
            (Origin { adapter: Some(1), ..ME }, "an adapter"),
        ] {
            assert!(blocks.take_known(other, &[5, 6, 7, 8], 9).0.is_empty(), "{what}");
        }
        blocks.check([table.to_vec(), table.to_vec(), table[..1].to_vec()].iter());
    }

    #[test]
    fn unused_pages_are_kept_until_their_room_is_needed_the_longest_unused_first() {
        let mut blocks = Blocks::new(3, 1, true);
        let table: Vec<u32> = (0..3).map(|_| blocks.allocate().unwrap()).collect();
        let mut before = Before::Beginning(ME);
        for (&page, token) in table.iter().zip([7, 8, 9]) {
            before = blocks.remember(page, before, &[token]);
        }
        assert_eq!((blocks.available(), blocks.allocate()), (0, None));
        blocks.release(&table);
        assert_eq!((blocks.available(), blocks.used()), (3, 0));
        assert_eq!(blocks.allocate(), Some(table[2]), "the end of a chain goes first");
        let (found, _) = blocks.take_known(ME, &[7, 8, 9], 9);
        assert_eq!(found, table[..2]);
        blocks.check([found, vec![table[2]]].iter());
    }

    #[test]
    fn two_that_compute_the_same_share_one_known_chain() {
        let mut blocks = Blocks::new(4, 1, true);
        let pages: Vec<u32> = (0..4).map(|_| blocks.allocate().unwrap()).collect();
        let first = blocks.remember(pages[0], Before::Beginning(ME), &[7]);
        assert_eq!(blocks.remember(pages[1], Before::Beginning(ME), &[7]), first);
        let second = blocks.remember(pages[2], first, &[8]);
        assert_eq!(blocks.remember(pages[3], first, &[8]), second);
        assert_eq!(blocks.take_known(ME, &[7, 8], 9).0, [pages[0], pages[2]]);
    }
}
