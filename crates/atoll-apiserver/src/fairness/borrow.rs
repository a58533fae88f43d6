//! How seats are divided among priority levels: by their shares, and what one does not need
//! goes to those that want more.

/// One level's claim.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Claim {
    pub(super) nominal: u32,
    /// What it keeps, however little it needs.
    pub(super) least: u32,
    /// What it may have, however much it wants.
    pub(super) most: u32,
    /// What it wanted lately.
    pub(super) wanted: u32,
}

/// The seats of a level by its share of all shares; rounded up, as upstream.
pub(super) fn nominal(total: u32, shares: u64, all_shares: u64) -> u32 {
    if all_shares == 0 {
        return total;
    }
    let seats = (u64::from(total) * shares).div_ceil(all_shares);
    u32::try_from(seats).unwrap_or(u32::MAX)
}

/// Seats for each claim; together about `total`.
pub(super) fn divide(total: u32, claims: &[Claim]) -> Vec<u32> {
    let target = |claim: &Claim| claim.wanted.clamp(claim.least, claim.most.max(claim.least));
    let wanted: u64 = claims.iter().map(|claim| u64::from(target(claim))).sum();
    if wanted <= u64::from(total) {
        // Everyone has what he wants; what is left over belongs to whose it is nominally.
        return claims
            .iter()
            .map(|claim| target(claim).max(claim.nominal.min(claim.most)))
            .collect();
    }
    // As many times everyone's want as there is, but nobody below what he keeps.
    let mut low = 0.0_f64;
    let mut high = 1.0_f64;
    let at = |factor: f64| -> Vec<u32> {
        claims
            .iter()
            .map(|claim| {
                let part = f64::from(target(claim)) * factor;
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and what was a u32"
                )]
                let part = part.round() as u32;
                part.max(claim.least)
            })
            .collect()
    };
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        let sum: u64 = at(middle).iter().map(|seats| u64::from(*seats)).sum();
        if sum <= u64::from(total) {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(nominal: u32, least: u32, wanted: u32) -> Claim {
        Claim { nominal, least, most: 100, wanted }
    }

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!(nominal(600, 5, 245), 13);
        assert_eq!(nominal(600, 100, 245), 245);
    }

    #[test]
    fn what_one_does_not_need_others_have() {
        let seats = divide(100, &[claim(50, 5, 0), claim(50, 5, 90)]);
        assert!(seats[1] >= 90 && seats[0] >= 5, "{seats:?}");
    }

    #[test]
    fn nobody_falls_below_what_he_keeps() {
        let seats = divide(100, &[claim(20, 20, 1), claim(80, 10, 1000)]);
        assert_eq!(seats[0], 20);
        assert!(seats[0] + seats[1] <= 100, "{seats:?}");
    }

    #[test]
    fn who_may_not_borrow_does_not() {
        let mut greedy = claim(10, 5, 90);
        greedy.most = 10;
        assert_eq!(divide(100, &[greedy, claim(90, 5, 0)])[0], 10);
    }
}
