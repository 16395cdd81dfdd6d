//! `proxy_header` for cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tern_server_fuzz::proxy_header(input));
