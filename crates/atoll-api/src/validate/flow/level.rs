//! PriorityLevelConfiguration.

use serde_json::Value;

use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::flow::mandatory_spec;

const TYPES: [&str; 2] = ["Exempt", "Limited"];
const RESPONSES: [&str; 2] = ["Queue", "Reject"];
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash by which hands are dealt.
const HASH_BITS_MAX: i64 = 60;

pub(crate) fn level(level: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (name, at) = (level["metadata"].text("name"), Path::new("spec"));
    spec(&at, name, &level["spec"], &mut errors);
    if let Some(fixed) = mandatory_spec("PriorityLevelConfiguration", name) {
        mandatory(&at, name, &level["spec"], fixed, &mut errors);
    }
    errors.extend(super::conditions(level));
    errors
}

pub(crate) fn level_update(new: &Value, _: &Value) -> Vec<Error> {
    level(new)
}

/// What `exempt` takes and lends may be changed, nothing else.
fn mandatory(at: &Path, name: &str, spec: &Value, mut fixed: Value, errors: &mut Vec<Error>) {
    let mut text = format!("spec of '{name}' must equal the fixed value");
    if name == "exempt" {
        fixed["exempt"] = spec["exempt"].clone();
        text = format!("spec of '{name}' except the spec.exempt field must equal the fixed value");
    }
    if *spec != fixed {
        errors.push(at.invalid(spec.clone(), text));
    }
}

fn spec(at: &Path, name: &str, spec: &Value, errors: &mut Vec<Error>) {
    let kind = spec.text("type");
    if (name == "exempt") != (kind == "Exempt") {
        let text = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.push(at.child("type").invalid(kind, text));
    }
    match kind {
        "Exempt" => {
            if spec.has("limited") {
                let text = "must be nil if the type is not Limited";
                errors.push(at.child("limited").forbidden(text));
            }
            shares(&at.child("exempt"), &spec["exempt"], errors);
        }
        "Limited" => {
            if spec.has("exempt") {
                let text = "must be nil if the type is not Exempt";
                errors.push(at.child("exempt").forbidden(text));
            }
            if spec.has("limited") {
                limited(&at.child("limited"), &spec["limited"], errors);
            } else {
                let text = "must not be empty when type is Limited";
                errors.push(at.child("limited").required(text));
            }
        }
        other => errors.push(at.child("type").not_supported(other, &TYPES)),
    }
}

fn shares(at: &Path, of: &Value, errors: &mut Vec<Error>) {
    let field = "nominalConcurrencyShares";
    if let Some(shares) = of.int(field).filter(|shares| *shares < 0) {
        errors.push(at.child(field).invalid(shares, "must be a non-negative integer"));
    }
    let field = "lendablePercent";
    if let Some(percent) = of.int(field).filter(|percent| !(0..=100).contains(percent)) {
        errors.push(at.child(field).invalid(percent, "must be between 0 and 100, inclusive"));
    }
}

fn limited(at: &Path, limited: &Value, errors: &mut Vec<Error>) {
    shares(at, limited, errors);
    response(&at.child("limitResponse"), &limited["limitResponse"], errors);
    let field = "borrowingLimitPercent";
    if let Some(percent) = limited.int(field).filter(|percent| *percent < 0) {
        let text = "if specified, must be a non-negative integer";
        errors.push(at.child(field).invalid(percent, text));
    }
}

fn response(at: &Path, response: &Value, errors: &mut Vec<Error>) {
    let queuing = response.has("queuing");
    let own = at.child("queuing");
    match response.text("type") {
        "Reject" if queuing => {
            errors.push(own.forbidden("must be nil if limited.limitResponse.type is not Limited"));
        }
        "Queue" if !queuing => {
            errors.push(own.required("must not be empty if limited.limitResponse.type is Limited"));
        }
        "Queue" => self::queuing(&own, &response["queuing"], errors),
        "Reject" => {}
        other => errors.push(at.child("type").not_supported(other, &RESPONSES)),
    }
}

fn queuing(at: &Path, queuing: &Value, errors: &mut Vec<Error>) {
    let number = |field: &str| queuing.int(field).unwrap_or(0);
    let positive = "must be positive";
    let length = number("queueLengthLimit");
    if length <= 0 {
        errors.push(at.child("queueLengthLimit").invalid(length, positive));
    }
    let (queues, hand) = (number("queues"), number("handSize"));
    if queues <= 0 {
        errors.push(at.child("queues").invalid(queues, positive));
    } else if queues > QUEUES_MAX {
        let text = format!("must not be greater than {QUEUES_MAX}");
        errors.push(at.child("queues").invalid(queues, text));
    }
    let own = at.child("handSize");
    if hand <= 0 {
        errors.push(own.invalid(hand, positive));
    } else if hand > queues {
        errors.push(own.invalid(hand, format!("should not be greater than queues ({queues})")));
    } else if entropy_bits(queues, hand).is_none_or(|bits| bits > HASH_BITS_MAX) {
        let text = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater \
             than {HASH_BITS_MAX}"
        );
        errors.push(own.invalid(hand, text));
    }
}

/// Bits of hash that dealing a hand takes: the hand's falling factorial of the deck.
fn entropy_bits(deck: i64, hand: i64) -> Option<i64> {
    let mut bits = 0.0f64;
    for dealt in 0..hand.min(HASH_BITS_MAX + 1) {
        let left = u32::try_from(deck - dealt).ok()?;
        bits += f64::from(left).log2();
    }
    // A hand of more than sixty is out of bounds anyway.
    #[allow(clippy::cast_possible_truncation, reason = "at most 61 times 24 bits")]
    let bits = bits.ceil() as i64;
    Some(bits)
}
