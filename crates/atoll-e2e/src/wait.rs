//! Waiting for something to become true, with a deadline and a reason.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Looks again every 50 ms until `check` gives a value; panics with its last complaint.
pub fn eventually<T>(
    within: Duration,
    what: &str,
    mut check: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match check() {
            Ok(value) => return value,
            Err(why) if Instant::now() > deadline => {
                panic!("{what}: not within {within:?}; at last: {why}")
            }
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}
