//! libFuzzer's entry for the door `responses`.

#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lyceum_fuzz::responses(bytes));
