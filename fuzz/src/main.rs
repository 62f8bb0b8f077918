//! The coverage-guided driver; `fuzz/run` builds and runs it. One program for all targets, because linking is most of the
//! time of a short run; `HOLDFAST_FUZZ_TARGET` says which.
#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("HOLDFAST_FUZZ_TARGET").unwrap_or_default();
        holdfast_fuzz::target(&name).unwrap_or_else(|| panic!("HOLDFAST_FUZZ_TARGET names no target: `{name}`"))
    });
    target(data);
});
