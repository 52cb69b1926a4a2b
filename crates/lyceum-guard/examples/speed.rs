//! How long texts take to be looked through: `cargo run --release -p lyceum-guard --example speed`. The median of
//! rounds, in microseconds for 1,000 characters, for the labelled set (every line holds something or nearly does), for prose, and
//! for texts of one kind of character that ask the most of the walks.

use lyceum_guard::stream::rewrite;
use lyceum_guard::{Analyser, Names, Rewriter, Wanted};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 15;
const CHARS: usize = 200_000;

fn repeated(text: &str) -> String {
    text.chars().cycle().take(CHARS).collect()
}

fn measure(name: &str, text: &str, mut work: impl FnMut(&str)) {
    let n = text.chars().count() as f64 / 1000.0;
    work(text);
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            work(text);
            begin.elapsed().as_secs_f64() * 1e6 / n
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name:<34}{:>8.1} µs for 1,000 characters", times[ROUNDS / 2]);
}

fn main() {
    let (analyser, wanted) = (Analyser::default(), Wanted::default());
    let set = include_str!("../fixtures/labelled.jsonl");
    let prose = "The quick brown fox jumps over the lazy dog, and then it rests for a while; nobody minds. \
                 In 2024 about 12 foxes did so, version 1.2.3 of them at 10:30. Write to anna@example.com or call \
                 +49 30 1234567. ";
    let analyse = |text: &str| drop(black_box(analyser.analyse(text, &wanted).expect("it reads: bug")));
    measure("the labelled set as JSON lines", &repeated(set), analyse);
    measure("prose with a little in it", &repeated(prose), analyse);
    measure("words alone", &repeated("lorem ipsum dolor sit amet consectetur "), analyse);
    measure("digits in groups", &repeated("4111 1111 1111 1112 030 1234567 "), analyse);
    measure("digits without a space", &repeated("4111,1111,1111,1112,"), analyse);
    measure("hexadecimal pairs", &repeated("00:1b:44:11:3a:"), analyse);
    measure("signs of mail", &repeated("a@b@c.de@"), analyse);
    measure("names of secrets", &repeated("password=a1b2c3d4 token: "), analyse);
    measure("Chinese", &repeated("请写信给我们，电话是。"), analyse);
    measure("prose, names in their place", &repeated(prose), |text| {
        drop(black_box(rewrite(&analyser, &wanted, text, &mut Names::default())));
    });
    measure("prose, a stream of 4 characters", &repeated(prose), |text| {
        let (mut rewriter, mut names) = (Rewriter::new(&analyser, &wanted), Names::default());
        let chars: Vec<char> = text.chars().collect();
        for part in chars.chunks(4) {
            let part: String = part.iter().collect();
            drop(black_box(rewriter.push(&part, &mut names)));
        }
        drop(black_box(rewriter.finish(&mut names)));
    });
}
