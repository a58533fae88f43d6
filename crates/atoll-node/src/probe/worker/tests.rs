//! Which verdicts end a probe.

use super::*;

#[test]
fn zero_means_the_default() {
    assert_eq!(seconds(Some(0), 10), Duration::from_secs(10));
    assert_eq!(seconds(None, 1), Duration::from_secs(1));
    assert_eq!(seconds(Some(3), 1), Duration::from_secs(3));
}
