//! Rows of a table by number, and the way back.

use crate::elementwise::Write;
use crate::pool::parallel_for;
use crate::row::{Parts, parallel_rows};

/// `out[r] = table[ids[r]]`; `table` is `[n, cols]`, `out` is `[ids, cols]`.
///
/// # Panics
/// When an id is not in `0..n`.
pub fn gather(table: &[f32], cols: usize, ids: &[u32], out: &mut [f32]) {
    check(table.len(), cols, ids, out.len());
    let out = Parts::new(out);
    parallel_rows(ids.len(), cols, |range| {
        for r in range {
            // SAFETY: every row belongs to one task.
            let row = unsafe { out.part(r * cols, cols) };
            row.copy_from_slice(&table[ids[r] as usize * cols..][..cols]);
        }
    });
}

/// `dtable[ids[r]] += row_weights[r] · dout[r]`, each table row summing its rows in their order whatever the
/// number of threads: a task owns columns, not rows. Without weights every row weighs 1; `Overwrite` clears the
/// table first.
///
/// # Panics
/// When an id is not in `0..n`.
pub fn scatter_add(
    dout: &[f32],
    cols: usize,
    ids: &[u32],
    row_weights: Option<&[f32]>,
    dtable: &mut [f32],
    write: Write,
) {
    check(dtable.len(), cols, ids, dout.len());
    assert!(row_weights.is_none_or(|w| w.len() == ids.len()), "embedding: row weights");
    if write == Write::Overwrite {
        dtable.fill(0.0);
    }
    let dtable = Parts::new(dtable);
    // Whole cache lines per task, so that two tasks rarely share one.
    const COLS: usize = 32;
    parallel_for(cols.div_ceil(COLS), |task| {
        let (c, n) = (task * COLS, COLS.min(cols - task * COLS));
        for (r, &id) in ids.iter().enumerate() {
            // SAFETY: these columns of every row belong to this task.
            let to = unsafe { dtable.part(id as usize * cols + c, n) };
            let from = &dout[r * cols + c..][..n];
            match row_weights {
                None => to.iter_mut().zip(from).for_each(|(t, f)| *t += f),
                Some(w) => to.iter_mut().zip(from).for_each(|(t, f)| *t += w[r] * f),
            }
        }
    });
}

fn check(table_len: usize, cols: usize, ids: &[u32], out_len: usize) {
    assert!(cols > 0 && table_len.is_multiple_of(cols), "embedding: table of {table_len} in rows of {cols}");
    assert_eq!(ids.len() * cols, out_len, "embedding: {} ids of {cols} columns", ids.len());
    let n = table_len / cols;
    let bad = ids.iter().find(|&&id| id as usize >= n);
    assert!(bad.is_none(), "embedding: id {bad:?} is not in 0..{n}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, each_path, numbers};

    #[test]
    fn gathering_copies_rows_and_scattering_sums_them() {
        each_path(|| {
            for (n, cols, rows) in [(1, 1, 3), (7, 33, 40), (50, 100, 400)] {
                let table = numbers(n * cols, 1);
                let ids: Vec<u32> = (0..rows).map(|r| ((r * r + 3 * r) % n) as u32).collect();
                let mut out = vec![0.0; rows * cols];
                gather(&table, cols, &ids, &mut out);
                for (r, &id) in ids.iter().enumerate() {
                    assert_eq!(out[r * cols..][..cols], table[id as usize * cols..][..cols]);
                }
                let (dout, weights) = (numbers(rows * cols, 2), numbers(rows, 3));
                let (mut plain, mut weighted) = (vec![1.0; n * cols], vec![1.0; n * cols]);
                scatter_add(&dout, cols, &ids, None, &mut plain, Write::Add);
                scatter_add(&dout, cols, &ids, Some(&weights), &mut weighted, Write::Add);
                let (mut want, mut want_weighted) = (vec![1.0; n * cols], vec![1.0f64; n * cols]);
                for (r, &id) in ids.iter().enumerate() {
                    for c in 0..cols {
                        let d = dout[r * cols + c] as f64;
                        want[id as usize * cols + c] += d;
                        want_weighted[id as usize * cols + c] += d * weights[r] as f64;
                    }
                }
                let mut replaced = vec![f32::NAN; n * cols];
                scatter_add(&dout, cols, &ids, None, &mut replaced, Write::Overwrite);
                for i in 0..n * cols {
                    close(replaced[i], want[i] - 1.0, 2e-5);
                    close(plain[i], want[i], 2e-5);
                    close(weighted[i], want_weighted[i], 2e-5);
                }
            }
        });
    }

    #[test]
    #[should_panic(expected = "is not in 0..2")]
    fn an_id_out_of_range_is_refused() {
        gather(&[0.0; 8], 4, &[0, 2], &mut [0.0; 8]);
    }
}
