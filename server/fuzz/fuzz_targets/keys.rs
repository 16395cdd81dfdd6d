//! `keys` for cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tern_fuzz::keys(input));
