#![no_main]

use nas_tests::formats::Format;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nas_fuzz::read(Format::Operators, bytes));
