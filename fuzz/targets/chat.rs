//! libFuzzer's entry for the door `chat`.

#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lyceum_fuzz::chat(bytes));
