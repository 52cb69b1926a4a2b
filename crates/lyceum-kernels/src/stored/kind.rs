//! The types of a stored number, as GGUF names and lays them out.

/// How a weight's numbers are stored: plain, or in blocks that share their scales (the layouts of ggml).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stored {
    F32,
    F16,
    Bf16,
    /// Blocks of 32: a scale and 4 bits a number.
    Q4_0,
    /// Blocks of 32: a scale, a minimum and 4 bits a number.
    Q4_1,
    /// Blocks of 32: a scale and 5 bits a number.
    Q5_0,
    /// Blocks of 32: a scale, a minimum and 5 bits a number.
    Q5_1,
    /// Blocks of 32: a scale and 8 bits a number.
    Q8_0,
    /// Blocks of 256: scales and minima of 16 numbers in 4 bits each, 2 bits a number.
    Q2K,
    /// Blocks of 256: scales of 16 numbers in 6 bits, 3 bits a number.
    Q3K,
    /// Blocks of 256: scales and minima of 32 numbers in 6 bits each, 4 bits a number.
    Q4K,
    /// Blocks of 256: scales and minima of 32 numbers in 6 bits each, 5 bits a number.
    Q5K,
    /// Blocks of 256: scales of 16 numbers in 8 bits, 6 bits a number.
    Q6K,
}

impl Stored {
    /// Every type.
    pub const ALL: [Stored; 13] = [
        Stored::F32,
        Stored::F16,
        Stored::Bf16,
        Stored::Q4_0,
        Stored::Q4_1,
        Stored::Q5_0,
        Stored::Q5_1,
        Stored::Q8_0,
        Stored::Q2K,
        Stored::Q3K,
        Stored::Q4K,
        Stored::Q5K,
        Stored::Q6K,
    ];

    /// The name, lower case, as the command line takes it.
    pub fn name(self) -> &'static str {
        match self {
            Stored::F32 => "f32",
            Stored::F16 => "f16",
            Stored::Bf16 => "bf16",
            Stored::Q4_0 => "q4_0",
            Stored::Q4_1 => "q4_1",
            Stored::Q5_0 => "q5_0",
            Stored::Q5_1 => "q5_1",
            Stored::Q8_0 => "q8_0",
            Stored::Q2K => "q2_k",
            Stored::Q3K => "q3_k",
            Stored::Q4K => "q4_k",
            Stored::Q5K => "q5_k",
            Stored::Q6K => "q6_k",
        }
    }

    /// Numbers in a block.
    pub fn block_len(self) -> usize {
        match self {
            Stored::F32 | Stored::F16 | Stored::Bf16 => 1,
            Stored::Q4_0 | Stored::Q4_1 | Stored::Q5_0 | Stored::Q5_1 | Stored::Q8_0 => 32,
            Stored::Q2K | Stored::Q3K | Stored::Q4K | Stored::Q5K | Stored::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Stored::F32 => 4,
            Stored::F16 | Stored::Bf16 => 2,
            Stored::Q4_0 => 2 + 16,
            Stored::Q4_1 => 2 + 2 + 16,
            Stored::Q5_0 => 2 + 4 + 16,
            Stored::Q5_1 => 2 + 2 + 4 + 16,
            Stored::Q8_0 => 2 + 32,
            Stored::Q2K => 16 + 64 + 2 + 2,
            Stored::Q3K => 32 + 64 + 12 + 2,
            Stored::Q4K => 2 + 2 + 12 + 128,
            Stored::Q5K => 2 + 2 + 12 + 32 + 128,
            Stored::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row of `k` numbers; `None` where `k` is not a whole number of blocks, or too large.
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block_len()) {
            return None;
        }
        (k / self.block_len()).checked_mul(self.block_bytes())
    }
}
