//! Addresses of wallets, by their checksums: Base58Check and Bech32 of Bitcoin, EIP-55 of Ethereum.

use sha2::{Digest, Sha256};
use sha3::Keccak256;

/// How sure it is that a word is an address.
pub(super) fn find(word: &str) -> Option<f32> {
    let is_it = match word.as_bytes() {
        [b'1' | b'3', ..] if (25..=35).contains(&word.len()) => base58_check(word),
        [b'b' | b'B', b'c' | b'C', b'1', ..] if (14..=74).contains(&word.len()) => bech32(word),
        [b'0', b'x', hex @ ..] if hex.len() == 40 => return ethereum(&word[2..]),
        _ => false,
    };
    is_it.then_some(1.0)
}

/// One byte of version, twenty of hash, four of checksum: the first of the hash's hash.
fn base58_check(word: &str) -> bool {
    const ALPHABET: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut bytes = [0u8; 25];
    for byte in word.bytes() {
        let Some(digit) = ALPHABET.iter().position(|letter| *letter == byte) else { return false };
        let mut carry = digit as u32;
        for place in bytes.iter_mut().rev() {
            carry += u32::from(*place) * 58;
            *place = carry as u8;
            carry >>= 8;
        }
        if carry != 0 {
            return false;
        }
    }
    let (rest, check) = bytes.split_at(21);
    let hash = Sha256::digest(Sha256::digest(rest));
    matches!(rest[0], 0 | 5) && hash[..4] == *check
}

/// BIP 173 and BIP 350.
fn bech32(word: &str) -> bool {
    const ALPHABET: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let lower = word.to_ascii_lowercase();
    if lower != word && word.to_ascii_uppercase() != word {
        return false;
    }
    let values = lower.bytes().skip(3).map(|byte| ALPHABET.iter().position(|letter| *letter == byte));
    let Some(values): Option<Vec<usize>> = values.collect() else { return false };
    // The name `bc`: high bits, zero, low bits.
    let all = [3, 3, 0, 2, 3].into_iter().chain(values);
    let rest = all.fold(1u32, |rest, value| {
        let top = rest >> 25;
        let next = (rest & 0x01ff_ffff) << 5 ^ value as u32;
        GENERATOR
            .iter()
            .enumerate()
            .fold(next, |next, (i, g)| if top >> i & 1 == 1 { next ^ g } else { next })
    });
    matches!(rest, 1 | 0x2bc8_30a3)
}

/// Letters are upper case where the hash of the lower-case address has a high nibble; an address in one case has no
/// checksum.
fn ethereum(hex: &str) -> Option<f32> {
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let lower = hex.to_ascii_lowercase();
    if hex == lower || hex == hex.to_ascii_uppercase() {
        return Some(0.6);
    }
    let hash = Keccak256::digest(lower.as_bytes());
    let is_upper = |i: usize| (hash[i / 2] >> (4 * (1 - i % 2)) & 0xf) >= 8;
    let is_right = hex
        .bytes()
        .enumerate()
        .all(|(i, byte)| !byte.is_ascii_alphabetic() || byte.is_ascii_uppercase() == is_upper(i));
    is_right.then_some(1.0)
}
