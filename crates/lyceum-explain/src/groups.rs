//! Which numbers of the input count as one feature: the embedding of a token, a patch of an image, the inputs
//! of one column.

use crate::ExplainError;

/// A partition of an example's units (tokens, pixels of all channels apart, inputs of a table) into features;
/// units of no feature stay as they are and get nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    of_unit: Vec<Option<u32>>,
    n: usize,
}

impl Groups {
    /// # Errors
    /// When no unit has a group, or a number below the largest has no unit.
    pub fn new(of_unit: Vec<Option<u32>>) -> Result<Self, ExplainError> {
        let n = of_unit.iter().flatten().max().map_or(0, |&g| g as usize + 1);
        let mut seen = vec![false; n];
        of_unit.iter().flatten().for_each(|&g| seen[g as usize] = true);
        if n == 0 || seen.contains(&false) {
            return Err(ExplainError::request("granularity", "the input has no part to explain"));
        }
        Ok(Groups { of_unit, n })
    }

    /// Each unit is a feature.
    pub fn each(n_units: usize) -> Result<Self, ExplainError> {
        Groups::new((0..n_units as u32).map(Some).collect())
    }

    /// The number of features.
    pub fn n(&self) -> usize {
        self.n
    }

    pub fn n_units(&self) -> usize {
        self.of_unit.len()
    }

    pub fn of_unit(&self) -> &[Option<u32>] {
        &self.of_unit
    }

    /// Numbers a unit has in an entry of `len` numbers.
    pub(crate) fn unit_size(&self, len: usize) -> usize {
        len / self.of_unit.len()
    }

    /// The feature of each number of an entry of `len` numbers.
    pub(crate) fn of_elements(&self, len: usize) -> impl Iterator<Item = Option<u32>> {
        let size = self.unit_size(len);
        (0..len).map(move |i| self.of_unit[i / size])
    }

    /// The sum of `elements` over each feature.
    pub(crate) fn sums(&self, elements: &[f32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.n];
        for (group, &x) in self.of_elements(elements.len()).zip(elements) {
            if let Some(group) = group {
                sums[group as usize] += f64::from(x);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_belong_to_the_feature_of_their_unit() {
        let groups = Groups::new(vec![Some(1), None, Some(0)]).unwrap();
        assert_eq!(groups.n(), 2);
        assert_eq!(groups.sums(&[1.0, 2.0, 10.0, 20.0, 100.0, 200.0]), [300.0, 3.0]);
        assert!(Groups::new(vec![None, None]).is_err());
        assert!(Groups::new(vec![Some(0), Some(2)]).is_err());
    }
}
