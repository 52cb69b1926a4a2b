//! Draws and noise as functions of a key and the step: ChaCha20, whose output nobody can tell from chance
//! without the key. A resumed run, which has the key in its checkpoint, repeats what the stopped one drew and
//! spends nothing twice.
//!
//! Floating point leaves traces in a Gaussian sample from which noise can be told from data (Mironov 2012). Here
//! gradients and noise are rounded to one grid that no row decides before they meet ([`gaussian`]), so the bits
//! of their sum below it say nothing; what rounding adds to an example's share is taken off the clip
//! ([`Noise::rounding`]). What remains outside the proof is that the noise's probabilities are those of
//! floating-point functions of 96 random bits a pair, and reports say so.

use lyceum_kernels::gaussian;
use lyceum_nn::{Grads, ParamKind, Params};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use sha2::{Digest, Sha256};

/// What turns a key into noise: a checkpoint continues under the same one only.
pub const GENERATOR: &str = "chacha20, pairs on a grid";

/// The secret that draws and noise come from. It shows nothing of itself in logs.
#[derive(Clone, PartialEq)]
pub struct Noise {
    key: [u8; 32],
}

impl std::fmt::Debug for Noise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Noise(…)")
    }
}

impl Noise {
    pub fn from_key(key: [u8; 32]) -> Self {
        Noise { key }
    }

    /// Noise that whoever knows the seed can take away again: tests only.
    pub fn insecure(seed: u64) -> Self {
        Noise { key: Sha256::digest(seed.to_le_bytes()).into() }
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// What masks of dropout and starts of attacks are drawn from. They fall to the drawn examples by their place, which
    /// says something about the others: with a seed that everybody knows, one example more would change what the others
    /// are multiplied by, and the sum by more than its clip. From the secret they are independent of all examples, so
    /// whose mask is whose makes no difference to any probability.
    pub(super) fn mask_seed(&self) -> u64 {
        let hash = Sha256::new().chain_update(self.key).chain_update("masks").finalize();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash[..8]);
        u64::from_le_bytes(bytes)
    }

    /// Poisson sampling: each of `n` examples with probability `q`, by itself.
    pub fn draw(&self, step: u64, n: usize, q: f64, rows: &mut Vec<usize>) {
        let mut rng = ChaCha20Rng::from_seed(self.key);
        rng.set_stream(2 * step);
        rows.clear();
        rows.extend((0..n).filter(|_| rng.random::<f64>() < q));
    }

    /// How much farther apart two sums of `n` gradients can be on the grid of this noise than they were.
    pub(super) fn rounding(deviation: f64, n: usize) -> f64 {
        if deviation == 0.0 { 0.0 } else { (n as f64).sqrt() * gaussian::grid(deviation) }
    }

    /// Adds N(0, deviation²) to every learnt number; the same on any number of threads and any processor.
    pub fn add(&self, step: u64, deviation: f64, params: &Params, grads: &mut Grads) {
        if deviation == 0.0 {
            return;
        }
        let mut chunks_before = 0;
        for id in params.ids().filter(|&id| params.kind(id) == ParamKind::Weight) {
            let values = grads.value_mut(id);
            gaussian::add_normal(&self.key, 2 * step + 1, chunks_before, deviation, values);
            chunks_before += values.len().div_ceil(gaussian::CHUNK) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_nn::Init;

    #[test]
    fn draws_have_their_rate_repeat_and_differ_between_steps() {
        let noise = Noise::from_key([7; 32]);
        let draw = |step| {
            let mut rows = Vec::new();
            noise.draw(step, 20_000, 0.1, &mut rows);
            rows
        };
        let (one, two) = (draw(0), draw(1));
        assert_eq!(one, draw(0));
        assert_ne!(one, two);
        // Binomial(20000, 0.1): 2000 ± 42.
        assert!(one.len().abs_diff(2000) < 200 && two.len().abs_diff(2000) < 200);
        // 200 of the 2000 are in both, but for chance.
        let both = one.iter().filter(|row| two.contains(row)).count();
        assert!(both.abs_diff(200) < 70, "{both}");
    }

    #[test]
    fn noise_is_normal_and_never_the_same_twice() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let mut params = Params::new();
        let ids = [("a", 50_000), ("b", 30_000)]
            .map(|(name, n)| params.add(name, &[n], ParamKind::Weight, Init::Zeros, &mut rng));
        let noise = Noise::from_key([1; 32]);
        let of = |step| {
            let mut grads = Grads::new(&params);
            grads.finish();
            noise.add(step, 2.0, &params, &mut grads);
            ids.map(|id| grads.value(id).to_vec()).concat()
        };
        let (one, two) = (of(3), of(4));
        assert_eq!(one, of(3));
        assert_ne!(one, two);
        let n = one.len() as f64;
        let moment = |k: i32| one.iter().map(|&x| (f64::from(x) / 2.0).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.03);
        assert!(moment(3).abs() < 0.06 && (moment(4) - 3.0).abs() < 0.2);
        // Neither tensor nor chunk repeats another.
        assert_ne!(one[..1024], one[1024..2048]);
        assert_ne!(one[..1024], one[50_000..51_024]);
        let product = one.iter().zip(&two).map(|(a, b)| f64::from(a * b) / 4.0).sum::<f64>() / n;
        assert!(product.abs() < 0.02);
    }
}
