//! One libFuzzer program for the whole table: `ATOLL_FUZZ_TARGET` names the target.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(|input: &[u8]| TARGET.get_or_init(chosen)(input));

fn chosen() -> fn(&[u8]) {
    let name = std::env::var("ATOLL_FUZZ_TARGET").unwrap_or_default();
    let targets = atoll_fuzz::targets();
    match targets.iter().find(|target| target.name == name) {
        Some(target) => target.run,
        None => {
            let names: Vec<_> = targets.iter().map(|target| target.name).collect();
            panic!("ATOLL_FUZZ_TARGET={name:?} is none of: {}", names.join(" "));
        }
    }
}
