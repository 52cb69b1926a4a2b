//! Which rows of a pass are of which class, for products with weights in a stored form.

use lyceum_kernels::class::RowClass;
use lyceum_kernels::matmul::Epilogue;
use lyceum_kernels::stored::{StoredWeight, matmul_stored};

/// The classes of a pass's rows, in their order: runs of rows of one class. None: all rows are of one, that of bulk.
#[derive(Clone, Debug, Default)]
pub struct RowClasses(Vec<(usize, RowClass)>);

impl RowClasses {
    /// The next `n` rows.
    pub fn push(&mut self, n: usize, class: RowClass) {
        match self.0.last_mut() {
            Some((last, same)) if *same == class => *last += n,
            _ if n == 0 => {}
            _ => self.0.push((n, class)),
        }
    }

    /// Those of some rows alone, whose numbers rise.
    #[must_use]
    pub fn of_rows(&self, rows: &[u32]) -> RowClasses {
        let (mut of_rows, mut rows, mut end) = (RowClasses::default(), rows.iter().peekable(), 0);
        for &(n, class) in &self.0 {
            end += n;
            while rows.next_if(|&&row| (row as usize) < end).is_some() {
                of_rows.push(1, class);
            }
        }
        of_rows
    }

    /// [`matmul_stored`] of rows that have these classes.
    pub(crate) fn matmul_stored(
        &self,
        x: &[f32],
        m: usize,
        parts: &[&StoredWeight],
        out: &mut [f32],
        mut epilogue: Epilogue<'_>,
    ) {
        let one = [(m, RowClass::Bulk)];
        let runs = if self.0.is_empty() { &one[..] } else { &self.0[..] };
        let n_rows: usize = runs.iter().map(|&(n, _)| n).sum();
        assert_eq!(n_rows, m, "the pass has classes for {n_rows} rows, and the product {m}: bug");
        let (k, n) = (x.len() / m.max(1), out.len() / m.max(1));
        let mut first = 0;
        for &(rows, class) in runs {
            let (x, out) = (&x[first * k..][..rows * k], &mut out[first * n..][..rows * n]);
            let epilogue = Epilogue {
                pre: epilogue.pre.as_deref_mut().map(|pre| &mut pre[first * n..][..rows * n]),
                residual: epilogue.residual.map(|residual| &residual[first * n..][..rows * n]),
                ..epilogue
            };
            matmul_stored(x, (rows, class), parts, out, epilogue);
            first += rows;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_classes_when_some_are_picked() {
        let mut classes = RowClasses::default();
        for (n, class) in [(2, RowClass::Step), (0, RowClass::Bulk), (1, RowClass::Step), (4, RowClass::Bulk)]
        {
            classes.push(n, class);
        }
        assert_eq!(classes.0, [(3, RowClass::Step), (4, RowClass::Bulk)]);
        assert_eq!(classes.of_rows(&[0, 2, 3, 6]).0, [(2, RowClass::Step), (2, RowClass::Bulk)]);
        assert_eq!(classes.of_rows(&[4]).0, [(1, RowClass::Bulk)]);
        assert!(RowClasses::default().of_rows(&[1, 2]).0.is_empty());
    }
}
