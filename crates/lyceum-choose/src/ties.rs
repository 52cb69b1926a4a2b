//! Groups that the rows do not tell apart.
//!
//! "Not distinguishable" is no equivalence: A may tie with B and B with C while A beats C. So a group is a largest
//! set in which every two tie (a maximal clique of the graph of ties; Bron & Kerbosch 1973), as in the letters
//! of Piepho (2004), and one model may stand in two groups.

/// The largest groups of at least two, each ascending, in the order of their members. At most 64 models.
///
/// # Panics
/// Beyond 64 models: the limit on candidates keeps below.
pub fn groups(n: usize, tie: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    assert!(n <= 64, "{n} models: bug");
    let neighbours: Vec<u64> =
        (0..n).map(|i| (0..n).filter(|&j| j != i && tie(i, j)).fold(0, |set, j| set | 1 << j)).collect();
    let all = if n == 64 { u64::MAX } else { (1 << n) - 1 };
    let mut found = Vec::new();
    extend(0, all, 0, &neighbours, &mut found);
    let members = |set: u64| (0..n).filter(|i| set >> i & 1 == 1).collect::<Vec<_>>();
    let mut groups: Vec<Vec<usize>> =
        found.into_iter().map(members).filter(|group| group.len() > 1).collect();
    groups.sort();
    groups
}

/// Grows `clique` by `open`; `seen` were grown before.
fn extend(clique: u64, mut open: u64, mut seen: u64, neighbours: &[u64], found: &mut Vec<u64>) {
    if open == 0 && seen == 0 {
        found.push(clique);
        return;
    }
    // What ties with the pivot is grown together with it.
    let pivot = (open | seen).trailing_zeros() as usize;
    let mut rest = open & !neighbours[pivot];
    while rest != 0 {
        let v = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        extend(clique | 1 << v, open & neighbours[v], seen & neighbours[v], neighbours, found);
        open &= !(1 << v);
        seen |= 1 << v;
    }
}

#[cfg(test)]
mod tests {
    use super::groups;
    use proptest::prelude::*;

    #[test]
    fn a_chain_of_ties_makes_groups_that_overlap() {
        let near = |i: usize, j: usize| i.abs_diff(j) <= 1;
        assert_eq!(groups(4, near), [vec![0, 1], vec![1, 2], vec![2, 3]]);
        assert_eq!(groups(3, |_, _| true), [vec![0, 1, 2]]);
        assert!(groups(3, |_, _| false).is_empty());
    }

    proptest! {
        #[test]
        fn every_tie_is_in_a_group_and_no_group_can_grow(edges in prop::collection::vec(any::<bool>(), 28)) {
            let tie = |i: usize, j: usize| {
                let (low, high) = (i.min(j), i.max(j));
                edges[high * (high - 1) / 2 + low]
            };
            let found = groups(8, tie);
            for i in 0..8 {
                for j in 0..i {
                    let together = found.iter().any(|group| group.contains(&i) && group.contains(&j));
                    prop_assert_eq!(together, tie(i, j));
                }
            }
            for group in &found {
                let fits = |k: usize| !group.contains(&k) && group.iter().all(|&m| tie(k, m));
                prop_assert!(!(0..8).any(fits));
            }
        }
    }
}
