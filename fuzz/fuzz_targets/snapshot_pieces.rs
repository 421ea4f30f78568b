#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| evoring_tests::fuzz::snapshot_pieces(data));
