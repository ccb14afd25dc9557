//! One libFuzzer binary a target. With `--cfg fuzzing` the library has the bodies, which stand in
//! `tests/inside/fuzz`.

pub use aegis_blocks::fuzz::target;
pub use libfuzzer_sys;

/// Makes the binary of a target. Three mutations of four get their checksums made right.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        use $crate::libfuzzer_sys;

        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            ($crate::target($name).run)(data);
        });

        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let len = libfuzzer_sys::fuzzer_mutate(data, size, max_size);
            if seed % 4 != 0 {
                ($crate::target($name).seal)(&mut data[..len]);
            }
            len
        });
    };
}
