//! Which tiles a processor has for which type, and how tall they are.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::formats::{Bf16, F16, F32, Floats, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Small, Super};
use super::kind::Stored;
use super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::lanes_x86::{Avx2, Avx512Vnni, Maddubs, Vnni};
use super::opened::OpenFn;
use super::outliers::{self, Column, CompleteFn, Of32, Of256};
use super::tile::{self, Stream, Tile, TileFn};
use crate::amx::Session;
#[cfg(target_arch = "x86_64")]
use crate::class::RowClass;
use crate::cpu::{self, CpuPath};
use std::ops::Range;

/// Rows from which on a weight is opened ([`super::opened`]): below, taking it apart costs more than it saves.
const OPENED_MIN: usize = 72;
/// Rows that weights with blocks of 256 multiply fastest by lower tiles: with taller ones the small scales do not
/// stay in registers.
const LOW: Range<usize> = 9..OPENED_MIN;

/// Rows from which on bytes are multiplied by AMX's tiles.
#[cfg(target_arch = "x86_64")]
const AMX_BYTES_MIN: usize = 16;

/// Rows from which on they are read too often if few columns pass by at a time.
#[cfg(target_arch = "x86_64")]
const AMX_GROUP_MIN: usize = 64;
/// Woven tiles of a group at most.
pub(super) const GROUP_MAX: usize = 4;

/// What stays in the second cache while rows pass by.
#[derive(Clone, Copy)]
pub(super) struct Blocking {
    /// Bytes of a stretch of woven tiles: in the first cache they are no faster, and shorter ones visit the result more
    /// often.
    pub stretch_bytes: usize,
    /// Woven tiles that a panel of rows meets before the next one.
    pub group: usize,
}

/// An implementation of the tiles. Of every path's, the first that the processor has is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// AVX-512 with VNNI, and tiles.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Engine {
    /// All that this processor can run on a path, the best first.
    pub fn all(path: CpuPath) -> Vec<Engine> {
        let mut engines = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if path == CpuPath::Amx {
                engines.push(Engine::Amx);
            }
            if path.is_512() && is_x86_feature_detected!("avx512vnni") {
                engines.push(Engine::Avx512);
            }
            if path != CpuPath::Portable && is_x86_feature_detected!("f16c") {
                if is_x86_feature_detected!("avxvnni") {
                    engines.push(Engine::AvxVnni);
                }
                engines.push(Engine::Avx2);
            }
        }
        let _ = path;
        engines.push(Engine::Plain);
        engines
    }

    /// The best on a path.
    pub fn of(path: CpuPath) -> Engine {
        Engine::all(path)[0]
    }

    /// Whether products of bf16 pairs are an instruction.
    fn has_pairs(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self == Engine::Amx || self == Engine::Avx512 && cpu::has_bf16()
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            cpu::has_bf16()
        }
    }

    /// Whether rows of the two classes become other words for weights of a tile type, and so get other bits.
    pub fn tells_classes_apart(self, kind: Stored) -> bool {
        self.words(kind, RowClass::Bulk) != self.words(kind, RowClass::Step)
    }

    /// What activations of a class become for weights of a tile type.
    pub fn words(self, kind: Stored, class: RowClass) -> Words {
        match kind {
            #[cfg(target_arch = "x86_64")]
            _ if self == Engine::Amx && class == RowClass::Bulk && kind.block_len() > 1 => Words::Pairs,
            Stored::F32 | Stored::F16 => Words::F32,
            Stored::Bf16 if self.has_pairs() => Words::Pairs,
            Stored::Bf16 => Words::Rounded,
            Stored::Q4K | Stored::Q5K | Stored::Q6K => Words::Bytes256,
            Stored::Q4_1 | Stored::Q5_1 => Words::Bytes32Least,
            Stored::Q4_0 => Words::Bytes32 { offset: 8 },
            Stored::Q5_0 => Words::Bytes32 { offset: 16 },
            _ => Words::Bytes32 { offset: self.wide_offset() },
        }
    }

    /// What products of eight bits leave to be subtracted.
    fn wide_offset(self) -> i32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Engine::Amx | Engine::Avx512 => Avx512Vnni::OFFSET,
            #[cfg(target_arch = "x86_64")]
            Engine::AvxVnni => Avx2::<Vnni>::OFFSET,
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2 => Avx2::<Maddubs>::OFFSET,
            Engine::Plain => Plain::OFFSET,
        }
    }

    /// The engine whose tiles multiply `m` rows of some words: tiles of bytes bring nothing where rows are few, and no
    /// other bits.
    fn for_rows(self, words: Words, m: usize) -> Engine {
        match self {
            #[cfg(target_arch = "x86_64")]
            Engine::Amx if words == Words::Pairs || words.are_bytes() && m >= AMX_BYTES_MIN => Engine::Amx,
            #[cfg(target_arch = "x86_64")]
            Engine::Amx => Engine::Avx512,
            other => other,
        }
    }

    /// How `m` rows of some words pass by a weight.
    pub fn blocking(self, words: Words, m: usize) -> Blocking {
        match self.for_rows(words, m) {
            #[cfg(target_arch = "x86_64")]
            Engine::Amx if m >= AMX_GROUP_MIN && words == Words::Pairs => {
                Blocking { stretch_bytes: 256 << 10, group: GROUP_MAX }
            }
            #[cfg(target_arch = "x86_64")]
            Engine::Amx if m >= AMX_GROUP_MIN => Blocking { stretch_bytes: 128 << 10, group: GROUP_MAX },
            _ => Blocking { stretch_bytes: 128 << 10, group: 1 },
        }
    }

    /// How the panels of `m` rows lie.
    pub fn order(self, words: Words, m: usize) -> Order {
        match self.for_rows(words, m) {
            #[cfg(target_arch = "x86_64")]
            Engine::Amx => Order::Lines,
            _ => Order::Steps,
        }
    }

    /// Lays this thread's tiles out, where it has some, for a shape of `m` rows of some words until the session ends.
    ///
    /// # Safety
    /// The processor has the engine; the thread has no session.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn begin(self, words: Words, kind: Stored, shape: usize, m: usize) -> Option<Session> {
        let is_amx = self.for_rows(words, m) == Engine::Amx;
        // SAFETY: the caller's.
        is_amx.then(|| unsafe { amx::layout(words, kind, shape).begin() })
    }

    /// How a weight comes from memory.
    pub fn stream(self) -> Stream {
        match self {
            #[cfg(target_arch = "x86_64")]
            Engine::Amx => Stream::MemoryByTwo,
            _ => Stream::Memory,
        }
    }

    /// The shapes of the tiles over some words.
    pub fn shapes(self, words: Words, m: usize) -> Shapes {
        match (self.for_rows(words, m), words) {
            #[cfg(target_arch = "x86_64")]
            (Engine::Amx, Words::Pairs) => Shapes { all: &amx::PAIRS, main: amx::PAIRS_MAIN },
            #[cfg(target_arch = "x86_64")]
            (Engine::Amx, _) => Shapes { all: &amx::SHAPES, main: amx::MAIN },
            #[cfg(target_arch = "x86_64")]
            (Engine::Avx512, Words::Bytes32 { .. } | Words::Bytes32Least) => {
                Shapes { all: &SMALL_AVX512, main: 3 }
            }
            #[cfg(target_arch = "x86_64")]
            (Engine::Avx512, Words::Bytes256) if LOW.contains(&m) => Shapes { all: &SUPER_AVX512, main: 2 },
            #[cfg(target_arch = "x86_64")]
            (Engine::Avx512, Words::Bytes256) => Shapes { all: &SUPER_AVX512, main: 3 },
            #[cfg(target_arch = "x86_64")]
            (Engine::Avx512, _) => Shapes { all: &FLOATS_AVX512, main: 4 },
            _ => Shapes { all: &NARROW, main: 1 },
        }
    }

    /// The function of shape `shape` for a tile type.
    pub fn tile(self, kind: Stored, shape: usize) -> TileFn {
        match self {
            #[cfg(target_arch = "x86_64")]
            Engine::Amx if kind == Stored::Bf16 => amx::BF16[shape],
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512 if kind == Stored::Bf16 && self.has_pairs() => PAIRS_AVX512[shape],
            #[cfg(target_arch = "x86_64")]
            Engine::Amx | Engine::Avx512 => table_avx512(kind, shape),
            #[cfg(target_arch = "x86_64")]
            Engine::AvxVnni => table_avx_vnni(kind, shape),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2 => table_avx2(kind, shape),
            Engine::Plain => table_plain(kind, shape),
        }
    }

    /// What adds the outliers' part to products with a tile type; None: its activations have none.
    pub fn complete(self, kind: Stored) -> Option<CompleteFn> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Engine::Amx | Engine::Avx512 => complete_avx512(kind),
            #[cfg(target_arch = "x86_64")]
            Engine::AvxVnni => complete_avx_vnni(kind),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2 => complete_avx2(kind),
            Engine::Plain => complete_plain(kind),
        }
    }

    /// How weights of a tile type are opened for `m` rows of some words: where that is faster, or the words ask for it.
    pub fn opened(self, kind: Stored, words: Words, m: usize) -> Option<&'static Opened> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Engine::Amx if words == Words::Pairs => amx::opened_pairs(kind),
            #[cfg(target_arch = "x86_64")]
            Engine::Amx if m >= AMX_BYTES_MIN => amx::opened_bytes(kind),
            #[cfg(target_arch = "x86_64")]
            Engine::Amx | Engine::Avx512 if m >= OPENED_MIN => match kind {
                Stored::Q4K => Some(&avx512::Q4K),
                Stored::Q5K => Some(&avx512::Q5K),
                Stored::Q6K => Some(&avx512::Q6K),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A type whose blocks are opened: how, the bytes of a tile's head and body then, and its tiles, in the order of
/// the shapes.
pub(super) struct Opened {
    pub open: OpenFn,
    pub head: usize,
    pub body: usize,
    pub tiles: &'static [TileFn],
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::super::formats;
    use super::super::opened::{Opened16, Opened32, Opening, open_super};
    use super::super::tile::Tile;
    use super::{Avx512Vnni, Opened, Super, TileFn, tile};

    macro_rules! opened {
        ($kind:ident as $opened:ident) => {
            pub(super) static $kind: Opened = {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
                unsafe fn open(opening: &Opening) {
                    // SAFETY: the caller's; the features are enabled here.
                    unsafe { open_super::<Avx512Vnni, formats::$kind, $opened>(opening) }
                }
                Opened { open, head: $opened::HEAD, body: $opened::BODY, tiles: tiles::<$opened>() }
            };
        };
    }
    opened!(Q4K as Opened32);
    opened!(Q5K as Opened32);
    opened!(Q6K as Opened16);

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn large<F: Super, const R: usize, const V: usize>(t: &Tile) {
        // SAFETY: the caller's; the features are enabled here.
        unsafe { tile::super_blocks::<Avx512Vnni, F, R, V>(t) }
    }
    const fn tiles<F: Super>() -> &'static [TileFn] {
        &[large::<F, 1, 4>, large::<F, 2, 4>, large::<F, 4, 2>, large::<F, 6, 2>, large::<F, 8, 2>]
    }
}

/// Numbers of a row that stand together in [`Order::Lines`].
pub(super) const LINE_NUMBERS: usize = 32;

/// How a panel's words follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A word of each row, then the next word of each.
    Steps,
    /// 32 numbers of the first row, of the second, ..., then the next 32 of each; what is missing at the end is zero.
    Lines,
}

/// What a panel of activations holds along `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// Four bytes in a word, a scale for 32 numbers; for weights that mean `q − offset`.
    Bytes32 {
        offset: i32,
    },
    /// The same for weights with a minimum.
    Bytes32Least,
    /// Four bytes in a word, a scale for 256 numbers.
    Bytes256,
    /// Two bf16 in a word.
    Pairs,
    /// f32 rounded to bf16.
    Rounded,
    F32,
}

impl Words {
    /// Whether activations become bytes, and lose what stands out before.
    pub fn are_bytes(self) -> bool {
        matches!(self, Words::Bytes32 { .. } | Words::Bytes32Least | Words::Bytes256)
    }

    /// Blocks that a stretch of a weight has a multiple of, but the last: those of a line of activations
    /// ([`Order::Lines`]), and whole ones of the weight's own.
    pub fn blocks_together(self, kind: Stored) -> usize {
        match self {
            Words::Pairs => kind.block_len().max(LINE_NUMBERS) / self.block_len(),
            _ => 1,
        }
    }

    /// Numbers along `k` of a block that tiles multiply: a weight's own, or what it is opened to.
    pub fn block_len(self) -> usize {
        match self {
            Words::Bytes32 { .. } | Words::Bytes32Least => 32,
            Words::Bytes256 => 256,
            Words::Pairs | Words::Rounded | Words::F32 => 2,
        }
    }
}

/// Rows of activations and tiles of the weight that one call multiplies; the span divides the tiles that are woven.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub height: usize,
    pub span: usize,
}

/// The shapes that some words have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shapes {
    /// The lowest first; the first is one row.
    pub all: &'static [Shape],
    /// The fastest, which many rows are cut into. A taller one takes what would be left of them.
    pub main: usize,
}

impl Shape {
    pub const fn new(height: usize, span: usize) -> Shape {
        Shape { height, span }
    }
}

// Accumulators (of integers two sets: a block's, and the whole's), the weights of a step and one broadcast within 32
// or 16 registers; the tallest of integers goes beyond, which costs less than two rows alone.
#[cfg(target_arch = "x86_64")]
static SMALL_AVX512: [Shape; 5] =
    [Shape::new(1, 4), Shape::new(2, 4), Shape::new(4, 2), Shape::new(6, 2), Shape::new(8, 2)];
#[cfg(target_arch = "x86_64")]
static SUPER_AVX512: [Shape; 5] =
    [Shape::new(1, 4), Shape::new(2, 4), Shape::new(4, 2), Shape::new(6, 2), Shape::new(8, 2)];
#[cfg(target_arch = "x86_64")]
static FLOATS_AVX512: [Shape; 5] =
    [Shape::new(1, 4), Shape::new(2, 4), Shape::new(4, 4), Shape::new(6, 4), Shape::new(12, 2)];
static NARROW: [Shape; 2] = [Shape::new(1, 2), Shape::new(4, 1)];

macro_rules! table {
    ($table:ident, $complete:ident, $lanes:ty, per_tile $pt:literal, small [$($r:literal x $s:literal),*], large [$($lr:literal x $ls:literal),*],
     floats [$($fr:literal x $fs:literal),*]
     $(, $feature:literal)?) => {
        fn $table(kind: Stored, shape: usize) -> TileFn {
            $(#[target_feature(enable = $feature)])?
            unsafe fn small<F: Small, const R: usize, const V: usize>(t: &Tile) {
                // SAFETY: the caller's; the features are enabled here.
                unsafe { tile::small::<$lanes, F, R, V>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn large<F: Super, const R: usize, const V: usize>(t: &Tile) {
                // SAFETY: as above.
                unsafe { tile::super_blocks::<$lanes, F, R, V>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn floats<F: Floats, const R: usize, const V: usize>(t: &Tile) {
                // SAFETY: as above.
                unsafe { tile::floats::<$lanes, F, R, V>(t) }
            }
            const fn small_of<F: Small>() -> &'static [TileFn] { &[$(small::<F, $r, { $s * $pt }>),*] }
            const fn large_of<F: Super>() -> &'static [TileFn] { &[$(large::<F, $lr, { $ls * $pt }>),*] }
            const fn floats_of<F: Floats>() -> &'static [TileFn] { &[$(floats::<F, $fr, { $fs * $pt }>),*] }
            const { assert!(16 / <$lanes as Lanes>::N == $pt) };
            let tiles = match kind {
                Stored::Q4_0 => small_of::<Q4_0>(),
                Stored::Q4_1 => small_of::<Q4_1>(),
                Stored::Q5_0 => small_of::<Q5_0>(),
                Stored::Q5_1 => small_of::<Q5_1>(),
                Stored::Q8_0 => small_of::<Q8_0>(),
                Stored::Q4K => large_of::<Q4K>(),
                Stored::Q5K => large_of::<Q5K>(),
                Stored::Q6K => large_of::<Q6K>(),
                Stored::F32 => floats_of::<F32>(),
                Stored::F16 => floats_of::<F16>(),
                Stored::Bf16 => floats_of::<Bf16>(),
                Stored::Q2K | Stored::Q3K => unreachable!("{} has no tile: bug", kind.name()),
            };
            tiles[shape]
        }

        fn $complete(kind: Stored) -> Option<CompleteFn> {
            $(#[target_feature(enable = $feature)])?
            unsafe fn complete<F: Column>(c: &mut outliers::Completion<'_>) {
                // SAFETY: as above.
                unsafe { outliers::complete::<$lanes, F>(c) }
            }
            Some(match kind {
                Stored::Q4_0 => complete::<Of32<Q4_0>>,
                Stored::Q4_1 => complete::<Of32<Q4_1>>,
                Stored::Q5_0 => complete::<Of32<Q5_0>>,
                Stored::Q5_1 => complete::<Of32<Q5_1>>,
                Stored::Q8_0 => complete::<Of32<Q8_0>>,
                Stored::Q4K => complete::<Of256<Q4K>>,
                Stored::Q5K => complete::<Of256<Q5K>>,
                Stored::Q6K => complete::<Of256<Q6K>>,
                Stored::F32 | Stored::F16 | Stored::Bf16 | Stored::Q2K | Stored::Q3K => return None,
            })
        }
    };
}

#[cfg(target_arch = "x86_64")]
static PAIRS_AVX512: [TileFn; 5] = [
    tile::bf16_pairs::<1, 4>,
    tile::bf16_pairs::<2, 4>,
    tile::bf16_pairs::<4, 4>,
    tile::bf16_pairs::<6, 4>,
    tile::bf16_pairs::<12, 2>,
];
#[cfg(target_arch = "x86_64")]
table!(table_avx512, complete_avx512, Avx512Vnni, per_tile 1, small [1 x 4, 2 x 4, 4 x 2, 6 x 2, 8 x 2],
    large [1 x 4, 2 x 4, 4 x 2, 6 x 2, 8 x 2],
    floats [1 x 4, 2 x 4, 4 x 4, 6 x 4, 12 x 2],
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
table!(table_avx_vnni, complete_avx_vnni, Avx2<Vnni>, per_tile 2, small [1 x 2, 4 x 1], large [1 x 2, 4 x 1], floats [1 x 2, 4 x 1],
    "avxvnni,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
table!(table_avx2, complete_avx2, Avx2<Maddubs>, per_tile 2, small [1 x 2, 4 x 1], large [1 x 2, 4 x 1], floats [1 x 2, 4 x 1],
    "avx2,fma,f16c");
table!(table_plain, complete_plain, Plain, per_tile 2, small [1 x 2, 4 x 1], large [1 x 2, 4 x 1], floats [1 x 2, 4 x 1]);
