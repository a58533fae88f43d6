//! When a certificate is to be renewed, as a function of its life.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::error::IdentityError;
use crate::peer::PeerIdentity;

/// The moment for renewal: two thirds into the life, moved by up to a twentieth of it
/// either way. `seed` (the holder's name) decides how far, so that a fleet that was
/// installed in one minute does not come back in one minute, and a restart changes nothing.
#[must_use]
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, seed: &str) -> Timestamp {
    let life = not_after.duration_since(not_before).max(SignedDuration::ZERO);
    let digest = Sha256::digest(seed.as_bytes());
    let draw = i64::from(u16::from_be_bytes([digest[0], digest[1]]));
    // From -1/20 to +1/20 of the life in steps of 1/65536.
    let life_ms = i64::try_from(life.as_millis()).unwrap_or(i64::MAX / 4);
    let shift_ms = (life_ms / 10 / 65_536).saturating_mul(draw) - life_ms / 20;
    let two_thirds_ms = life_ms / 3 * 2;
    not_before
        .checked_add(SignedDuration::from_millis(two_thirds_ms + shift_ms))
        .unwrap_or(not_after)
}

/// [`renew_at`] for a certificate in PEM, seeded with its own subject.
pub fn renewal_of(certificate_pem: &str) -> Result<Timestamp, IdentityError> {
    let leaf = PeerIdentity::from_pem(certificate_pem)?;
    Ok(renew_at(leaf.not_before, leaf.not_after, &leaf.common_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn renewal_lies_between_sixty_and_seventy_three_percent() {
        for node in 0..200 {
            let when = renew_at(at(0), at(1_000_000), &format!("node-{node}")).as_second();
            assert!((616_000..=717_000).contains(&when), "{when}");
        }
    }

    #[test]
    fn holders_are_spread_and_each_keeps_its_moment() {
        let one = renew_at(at(0), at(1_000_000), "node-1");
        assert_eq!(one, renew_at(at(0), at(1_000_000), "node-1"));
        assert_ne!(one, renew_at(at(0), at(1_000_000), "node-2"));
    }

    #[test]
    fn a_life_that_ends_before_it_starts_is_due_at_once() {
        assert_eq!(renew_at(at(100), at(50), "x"), at(100));
    }
}
