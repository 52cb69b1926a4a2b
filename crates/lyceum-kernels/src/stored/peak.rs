//! The ceilings that products are measured against: reading memory, and multiply-adds on registers.

use super::engine::{Engine, Words};
use super::kind::Stored;
use super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::lanes_x86::{Avx2, Avx512Vnni, Maddubs, Vnni};
use super::memory::Memory;
use super::tile::Stream as Source;
use crate::class::RowClass;
use crate::cpu;
use crate::matmul::Precision;
use crate::matmul::peak::multiply_adds;
use crate::pool;
use std::hint::black_box;
use std::time::Instant;

/// Bytes that a thread reads at a time, and how far ahead it asks.
const PIECE: usize = 256 * 1024;
const AHEAD: usize = 4096;
const STEPS: usize = 20_000;
const CHAINS: usize = 12;

/// The name of the tiles that products are computed with here.
pub fn engine() -> String {
    format!("{:?}", Engine::of(cpu::path())).to_lowercase()
}

/// Memory to read, of the kind that weights have.
pub struct Stream(Memory);

impl Stream {
    /// Of `len` bytes, which should be more than the caches hold.
    pub fn new(len: usize) -> Stream {
        let memory = Memory::new(len);
        // SAFETY: the memory is this function's alone, and that long.
        unsafe { memory.as_ptr().write_bytes(1, len) };
        Stream(memory)
    }
}

/// Bytes a second at which all threads together read.
pub fn read(stream: &Stream) -> f64 {
    let engine = Engine::of(cpu::path());
    let stream = stream.0.bytes();
    let start = Instant::now();
    pool::parallel_for(stream.len() / PIECE, |i| {
        let piece = &stream[i * PIECE..][..PIECE];
        // SAFETY: the piece is there; the processor has the engine.
        unsafe { black_box(on_engine(engine, Work::Read(piece.as_ptr(), engine.stream()))) };
    });
    (stream.len() / PIECE * PIECE) as f64 / start.elapsed().as_secs_f64()
}

/// Operations a second (two per multiply-add) that all threads together do on registers, with the
/// instructions that products with a type use; of bytes always those of vectors, which products in AMX's tiles may exceed.
pub fn operations(kind: Stored) -> f64 {
    let (path, threads) = (cpu::path(), pool::threads());
    let engine = Engine::of(path);
    let start = Instant::now();
    let done = std::sync::Mutex::new(0.0);
    // More than one task a thread would be as well; one each is what is counted.
    pool::parallel_for(threads, |_| {
        let operations = match engine.words(kind, RowClass::Bulk) {
            // SAFETY: the processor has the engine.
            Words::Bytes32 { .. } | Words::Bytes32Least | Words::Bytes256 => unsafe {
                8.0 * (CHAINS * STEPS) as f64 * on_engine(engine, Work::Multiply(black_box(3))).1 as f64
            },
            Words::Pairs => multiply_adds(path, Precision::Bf16, STEPS),
            Words::Rounded | Words::F32 => multiply_adds(path, Precision::F32, STEPS),
        };
        *done.lock().unwrap_or_else(|e| e.into_inner()) += operations;
    });
    done.into_inner().unwrap_or_else(|e| e.into_inner()) / start.elapsed().as_secs_f64()
}

#[derive(Clone, Copy)]
enum Work {
    /// As a weight comes from memory.
    Read(*const u8, Source),
    Multiply(i32),
}

/// A number that depends on all the work, and the lanes of a vector.
///
/// # Safety
/// The processor has the engine; a piece to read is there.
unsafe fn on_engine(engine: Engine, work: Work) -> (f32, usize) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn avx512(work: Work) -> (f32, usize) {
        // SAFETY: the caller's; the features are enabled here.
        unsafe { run::<Avx512Vnni>(work) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avxvnni,avx2,fma,f16c")]
    unsafe fn avx_vnni(work: Work) -> (f32, usize) {
        // SAFETY: as above.
        unsafe { run::<Avx2<Vnni>>(work) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(work: Work) -> (f32, usize) {
        // SAFETY: as above.
        unsafe { run::<Avx2<Maddubs>>(work) }
    }
    // SAFETY: the caller's.
    unsafe {
        match engine {
            #[cfg(target_arch = "x86_64")]
            Engine::Amx | Engine::Avx512 => avx512(work),
            #[cfg(target_arch = "x86_64")]
            Engine::AvxVnni => avx_vnni(work),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2 => avx2(work),
            Engine::Plain => run::<Plain>(work),
        }
    }
}

#[inline(always)]
unsafe fn run<L: Lanes>(work: Work) -> (f32, usize) {
    // SAFETY: the caller's; the piece is there to read.
    unsafe {
        let mut acc = [L::splat(1); CHAINS];
        match work {
            Work::Read(piece, ask) => {
                for at in (0..PIECE).step_by(16 * L::N) {
                    for line in (0..16 * L::N).step_by(64) {
                        ask.ask(piece.wrapping_add(at + line), AHEAD);
                    }
                    for i in 0..4 {
                        acc[i] = L::or(acc[i], L::load(piece.add(at + i * 4 * L::N)));
                    }
                }
            }
            Work::Multiply(x) => {
                let (u, s) = (L::splat(x), L::splat(x + 1));
                for _ in 0..STEPS {
                    for acc in &mut acc {
                        *acc = L::dot(*acc, u, s);
                    }
                }
            }
        }
        let mut sum = L::splat(0);
        for acc in acc {
            sum = L::add(sum, acc);
        }
        let mut out = [0.0f32; 16];
        L::store_up_to(out.as_mut_ptr(), L::to_float(sum), L::N);
        (out[0], L::N)
    }
}
