//! libFuzzer's entry for the door `tokenizer`.

#![no_main]
libfuzzer_sys::fuzz_target!(init: lyceum_fuzz::only_panics_that_escape(), |bytes: &[u8]| {
    lyceum_fuzz::doors::tokenizer(bytes)
});
