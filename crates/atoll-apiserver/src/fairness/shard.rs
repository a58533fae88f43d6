//! Shuffle sharding: each flow has a hand of queues of its own choice, so that two flows seldom
//! share all of theirs.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The same for the same schema and distinguisher, in every server.
pub(super) fn flow(schema: &str, distinguisher: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    schema.hash(&mut hasher);
    distinguisher.hash(&mut hasher);
    hasher.finish()
}

/// `size` different cards of a deck.
pub(super) fn hand(flow: u64, deck: usize, size: usize) -> Vec<usize> {
    let mut left: u64 = flow;
    let mut cards: Vec<usize> = Vec::with_capacity(size);
    for dealt in 0..size.min(deck) {
        let remaining = (deck - dealt) as u64;
        let mut card = usize::try_from(left % remaining).unwrap_or(0);
        left /= remaining;
        // The n-th of those that are still in the deck.
        let mut sorted = cards.clone();
        sorted.sort_unstable();
        for taken in sorted {
            if card >= taken {
                card += 1;
            }
        }
        cards.push(card);
    }
    cards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_has_no_card_twice() {
        for flow in 0..1000u64 {
            let mut cards = hand(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15), 16, 4);
            assert!(cards.iter().all(|card| *card < 16));
            cards.sort_unstable();
            cards.dedup();
            assert_eq!(cards.len(), 4);
        }
        assert_eq!(hand(7, 2, 5).len(), 2);
    }
}
