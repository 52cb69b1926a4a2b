//! GPT-2's alphabet: each byte is one visible character, so that a vocabulary of bytes can be a vocabulary of
//! strings. (Radford et al. 2019, `encoder.py`: printable Latin-1 stands for itself, the other 68 bytes are
//! U+0100 and following in order.)

/// The bytes of a token in this alphabet; `None` where a character is not of it.
pub(super) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        // 0x00..=0x20, then 0x7F..=0xA0, then 0xAD
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn the_alphabet_is_that_of_the_library() {
        let mut bytes: Vec<u8> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .map(|c| bytes_of(&c.to_string()).unwrap()[0])
            .collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(bytes_of("Ġthe"), Some(b" the".to_vec()));
        assert_eq!(bytes_of("ĊÃ©"), Some("\né".as_bytes().to_vec()));
        assert_eq!(bytes_of("▁"), None);
    }
}
