//! Each path against a naive twin in f64, over odd shapes; and the row rules.

use super::*;
use crate::cpu::CpuPath;
use crate::testing::numbers;

/// Odd sizes, strides, pads, dilations and groups; images of the recipes among them.
fn shapes() -> Vec<ConvShape> {
    let make =
        |batch, channels: [usize; 3], input, kernel, stride, pads: [[usize; 2]; 2], dilation| ConvShape {
            batch,
            in_channels: channels[0],
            out_channels: channels[1],
            groups: channels[2],
            input,
            kernel,
            stride,
            pad_before: pads[0],
            pad_after: pads[1],
            dilation,
        };
    let one = [1, 1];
    vec![
        make(3, [1, 32, 1], [28, 28], [3, 3], one, [one, one], one),
        make(2, [32, 64, 1], [14, 14], [3, 3], one, [one, one], one),
        make(2, [3, 5, 1], [7, 9], [3, 2], one, [[0, 0], [0, 0]], one),
        make(3, [4, 6, 2], [11, 8], [5, 3], [2, 3], [[2, 1], [2, 1]], one),
        make(2, [6, 6, 6], [9, 10], [3, 3], one, [one, one], one),
        make(2, [8, 16, 8], [9, 13], [3, 3], [2, 2], [one, one], one),
        make(2, [5, 7, 1], [12, 13], [3, 3], [1, 2], [[2, 3], [2, 3]], [2, 3]),
        make(2, [4, 8, 1], [8, 8], [1, 1], [2, 2], [[0, 0], [0, 0]], one),
        make(2, [4, 9, 1], [8, 8], [2, 2], [3, 3], [[0, 0], [0, 0]], one),
        make(1, [16, 33, 1], [1, 37], [1, 8], one, [[0, 3], [0, 4]], one),
        make(2, [2, 17, 1], [1, 50], [1, 5], [1, 3], [[0, 2], [0, 2]], [1, 2]),
        make(5, [1, 1, 1], [1, 1], [1, 1], one, [[0, 0], [0, 0]], one),
        make(2, [2, 3, 1], [2, 3], [3, 3], one, [[4, 3], [3, 4]], one),
        make(2, [3, 24, 1], [5, 4], [3, 3], [2, 2], [[1, 0], [2, 3]], [2, 2]),
        make(18, [2, 4, 1], [4, 4], [3, 3], one, [one, one], one),
    ]
}

/// Runs `f(x index, weight index, y index)` over every product of the convolution.
fn products(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let [oh, ow] = s.output().unwrap();
    let (c_in, c_out) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let ([ih, iw], [kh, kw]) = (s.input, s.kernel);
    for b in 0..s.batch {
        for co in 0..s.out_channels {
            for (y, x) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
                for ci in 0..c_in {
                    for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                        let row = (y * s.stride[0] + ky * s.dilation[0]).checked_sub(s.pad_before[0]);
                        let col = (x * s.stride[1] + kx * s.dilation[1]).checked_sub(s.pad_before[1]);
                        let (Some(row), Some(col)) = (row, col) else { continue };
                        if row < ih && col < iw {
                            let channel = co / c_out * c_in + ci;
                            f(
                                ((b * s.in_channels + channel) * ih + row) * iw + col,
                                ((co * c_in + ci) * kh + ky) * kw + kx,
                                ((b * s.out_channels + co) * oh + y) * ow + x,
                            );
                        }
                    }
                }
            }
        }
    }
}

fn close(what: &str, path: CpuPath, shape: &ConvShape, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1.0f64, |a, b| a.max(b.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!((g as f64 - w).abs() < 1e-5 * largest, "{what} {path:?} {shape:?} [{i}]: {g} {w}");
    }
}

#[test]
fn forward_and_backward_agree_with_a_naive_twin_on_every_path() {
    for s in shapes() {
        let x = numbers(s.len_x(), 1);
        let w = numbers(s.len_weight(), 2);
        let bias = numbers(s.out_channels, 3);
        let dy = numbers(s.len_y(), 4);
        let scale = numbers(s.batch, 5);
        let pixels = s.len_y() / s.batch / s.out_channels;
        let channel = |i: usize| i / pixels % s.out_channels;
        let example = |i: usize| i / pixels / s.out_channels;
        let mut want_y: Vec<f64> = (0..s.len_y()).map(|i| bias[channel(i)] as f64).collect();
        let (mut want_dx, mut want_dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        products(&s, |xi, wi, yi| {
            want_y[yi] += x[xi] as f64 * w[wi] as f64;
            want_dx[xi] += dy[yi] as f64 * w[wi] as f64;
            want_dw[wi] += (dy[yi] * scale[example(yi)]) as f64 * x[xi] as f64;
        });
        let mut want_db = vec![0.0; s.out_channels];
        for (i, d) in dy.iter().enumerate() {
            want_db[channel(i)] += (d * scale[example(i)]) as f64;
        }
        let relu: Vec<f64> = want_y.iter().map(|y| y.max(0.0)).collect();
        let plus_one = |v: &[f64]| v.iter().map(|x| x + 1.0).collect::<Vec<f64>>();
        for &path in cpu::available() {
            cpu::with_path(path, || {
                let mut y = vec![f32::NAN; s.len_y()];
                conv_forward(&s, &x, &w, Some(&bias), Activation::None, &mut y);
                close("y", path, &s, &y, &want_y);
                conv_forward(&s, &x, &w, Some(&bias), Activation::Relu, &mut y);
                close("relu", path, &s, &y, &relu);
                let mut dx = vec![f32::NAN; x.len()];
                conv_backward_input(&s, &dy, &w, Write::Overwrite, &mut dx);
                close("dx", path, &s, &dx, &want_dx);
                dx.fill(1.0);
                conv_backward_input(&s, &dy, &w, Write::Add, &mut dx);
                close("dx added", path, &s, &dx, &plus_one(&want_dx));
                let mut dw = vec![f32::NAN; w.len()];
                conv_backward_weight(&s, &x, &dy, Some(&scale), Write::Overwrite, &mut dw);
                close("dw", path, &s, &dw, &want_dw);
                dw.fill(1.0);
                conv_backward_weight(&s, &x, &dy, Some(&scale), Write::Add, &mut dw);
                close("dw added", path, &s, &dw, &plus_one(&want_dw));
                let mut db = vec![f32::NAN; s.out_channels];
                conv_backward_bias(&s, &dy, Some(&scale), Write::Overwrite, &mut db);
                close("db", path, &s, &db, &want_db);
            });
        }
    }
}

#[test]
fn an_example_never_depends_on_its_neighbours() {
    for s in shapes().into_iter().filter(|s| s.batch > 1) {
        let (x, w, dy) = (numbers(s.len_x(), 1), numbers(s.len_weight(), 2), numbers(s.len_y(), 4));
        let alone = ConvShape { batch: 1, ..s };
        let (nx, ny) = (alone.len_x(), alone.len_y());
        for &path in cpu::available() {
            cpu::with_path(path, || {
                let (mut y, mut dx) = (vec![0.0; s.len_y()], vec![0.0; s.len_x()]);
                conv_forward(&s, &x, &w, None, Activation::None, &mut y);
                conv_backward_input(&s, &dy, &w, Write::Overwrite, &mut dx);
                for b in 0..s.batch {
                    let (mut y1, mut dx1) = (vec![0.0; ny], vec![0.0; nx]);
                    conv_forward(&alone, &x[b * nx..][..nx], &w, None, Activation::None, &mut y1);
                    conv_backward_input(&alone, &dy[b * ny..][..ny], &w, Write::Overwrite, &mut dx1);
                    assert_eq!(y1, y[b * ny..][..ny], "{path:?} {s:?}");
                    assert_eq!(dx1, dx[b * nx..][..nx], "{path:?} {s:?}");
                }
            });
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    for s in shapes() {
        let (x, w, dy) = (numbers(s.len_x(), 1), numbers(s.len_weight(), 2), numbers(s.len_y(), 4));
        let run = || {
            let (mut y, mut dx) = (vec![0.0; s.len_y()], vec![0.0; s.len_x()]);
            let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; s.out_channels]);
            conv_forward(&s, &x, &w, None, Activation::None, &mut y);
            conv_backward_input(&s, &dy, &w, Write::Overwrite, &mut dx);
            conv_backward_weight(&s, &x, &dy, None, Write::Overwrite, &mut dw);
            conv_backward_bias(&s, &dy, None, Write::Overwrite, &mut db);
            [y, dx, dw, db]
        };
        let many = run();
        // A call from inside a task runs on its thread alone.
        let results = std::sync::Mutex::new(Vec::new());
        pool::parallel_for(2, |_| {
            let one = run();
            results.lock().unwrap().push(one);
        });
        for one in results.into_inner().unwrap() {
            assert_eq!(one, many, "{s:?}");
        }
    }
}

#[test]
fn a_kernel_larger_than_the_padded_input_has_no_output() {
    let s = ConvShape { kernel: [9, 1], ..shapes()[2] };
    assert_eq!(s.output(), None);
}
