use super::*;
use crate::check::Check;
use crate::{Examples, Params, Recording, Workspace};

#[test]
fn gradients_of_self_attention_agree_with_finite_differences() {
    let check = || Check::new(2).input(&[2, 7, 12]);
    check().run(|tape, x, _| tape.self_attention(x[0], AttentionOptions::causal(2)));
    check().run(|tape, x, _| {
        let options = AttentionOptions { key_lens: Some(&[7, 3]), ..AttentionOptions::full(1) };
        tape.self_attention(x[0], options)
    });
    check().training().run(|tape, x, _| {
        tape.self_attention(x[0], AttentionOptions { dropout: 0.3, ..AttentionOptions::causal(2) })
    });
}

#[test]
fn gradients_of_cross_attention_agree_with_finite_differences() {
    let check = || Check::new(2).input(&[2, 3, 4]);
    check().input(&[2, 5, 8]).run(|tape, x, _| {
        let options = AttentionOptions { key_lens: Some(&[5, 2]), ..AttentionOptions::full(2) };
        tape.cross_attention(x[0], x[1], options)
    });
    check()
        .input(&[2, 5, 4])
        .input(&[2, 5, 4])
        .run(|tape, x, _| tape.attention(x[0], x[1], x[2], AttentionOptions::full(2)));
}

#[test]
fn gradients_of_grouped_heads_and_windows_agree_with_finite_differences() {
    let options = |window| AttentionOptions {
        scale: Some(0.3),
        key_lens: Some(&[7, 5]),
        ..AttentionOptions::grouped(4, 2, window)
    };
    for window in [None, Some(3)] {
        Check::new(2).input(&[2, 7, 8 * 3]).run(|tape, x, _| tape.self_attention(x[0], options(window)));
    }
    let options = AttentionOptions { kv_heads: 1, ..AttentionOptions::full(3) };
    let check = || Check::new(2).input(&[2, 3, 6]);
    check().input(&[2, 5, 4]).run(|tape, x, _| tape.cross_attention(x[0], x[1], options));
    check().input(&[2, 5, 2]).input(&[2, 5, 2]).run(|tape, x, _| tape.attention(x[0], x[1], x[2], options));
}

#[test]
fn a_tensor_in_two_roles_gets_both_gradients() {
    Check::new(2)
        .input(&[2, 3, 4])
        .input(&[2, 5, 4])
        .run(|tape, x, _| tape.attention(x[0], x[1], x[1], AttentionOptions::full(1)));
    Check::new(2)
        .input(&[2, 3, 4])
        .run(|tape, x, _| tape.attention(x[0], x[0], x[0], AttentionOptions::causal(2)));
}

#[test]
fn wrong_sizes_are_named() {
    let check = || Check::new(2).input(&[2, 3, 12]).input(&[2, 5, 7]);
    check().fails("number of heads", |tape, x, _| tape.self_attention(x[0], AttentionOptions::full(3)));
    check().fails("heads of keys", |tape, x, _| {
        tape.self_attention(x[0], AttentionOptions::grouped(4, 3, None))
    });
    check().fails("window", |tape, x, _| tape.self_attention(x[0], AttentionOptions::grouped(2, 2, Some(0))));
    check().fails("queries", |tape, x, _| tape.self_attention(x[1], AttentionOptions::full(1)));
    check()
        .fails("keys and values", |tape, x, _| tape.cross_attention(x[0], x[1], AttentionOptions::full(1)));
    check().fails("index 4 at position 1", |tape, x, _| {
        let options = AttentionOptions { key_lens: Some(&[3, 4]), ..AttentionOptions::full(1) };
        tape.self_attention(x[0], options)
    });
}

#[test]
fn relevance_of_shared_heads_is_the_sum_over_the_heads_that_read_them() {
    let (t, d) = (5, 3);
    let grouped: Vec<f32> = (0..t * 8 * d).map(|i| ((i * 7919 % 1013) as f32 / 1013.0 - 0.5) * 2.0).collect();
    // Which of the eight heads (four of queries, two of keys, two of values) stands where.
    let whole = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7];
    let repeated: Vec<f32> = grouped
        .chunks_exact(8 * d)
        .flat_map(|row| whole.iter().flat_map(|&h| row[h * d..(h + 1) * d].to_vec()))
        .collect();
    let relevance = |x: &[f32], options: AttentionOptions<'_>| {
        let (params, mut ws) = (Params::new(), Workspace::new());
        let mut tape = Tape::new(&mut ws, &params, Recording::Inputs, Examples::Even(1));
        let entry = tape.entry(&[1, t, x.len() / t], x).unwrap();
        let y = tape.self_attention(entry, options).unwrap();
        let seed: Vec<f32> = (0..t * 4 * d).map(|i| i as f32 / 10.0 - 2.0).collect();
        tape.relevance(y, &seed, entry, 0.0).unwrap().of_entry
    };
    let options = AttentionOptions::grouped(4, 2, Some(3));
    let got = relevance(&grouped, options);
    let of_repeated = relevance(&repeated, AttentionOptions { kv_heads: 4, ..options });
    let mut want = vec![0.0; got.len()];
    for (row, of) in want.chunks_exact_mut(8 * d).zip(of_repeated.chunks_exact(12 * d)) {
        for (at, &h) in whole.iter().enumerate() {
            row[h * d..(h + 1) * d].iter_mut().zip(&of[at * d..]).for_each(|(w, x)| *w += x);
        }
    }
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }
}
