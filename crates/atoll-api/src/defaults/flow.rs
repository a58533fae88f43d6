//! FlowSchema and PriorityLevelConfiguration.

use serde_json::Value;

use super::{absent, normalise, within, zero};

const PRECEDENCE: i64 = 1000;
const SHARES: i64 = 30;
const QUEUES: i64 = 64;
const HAND_SIZE: i64 = 8;
const QUEUE_LENGTH: i64 = 50;

pub(crate) fn schema(schema: &mut Value) {
    normalise(schema);
    super::empty(schema, "status");
    within(schema, "spec", |spec| zero(spec, "matchingPrecedence", PRECEDENCE));
}

pub(crate) fn level(level: &mut Value) {
    normalise(level);
    super::empty(level, "status");
    within(level, "spec", |spec| {
        within(spec, "exempt", |exempt| {
            absent(exempt, "nominalConcurrencyShares", 0);
            absent(exempt, "lendablePercent", 0);
        });
        within(spec, "limited", |limited| {
            absent(limited, "nominalConcurrencyShares", SHARES);
            absent(limited, "lendablePercent", 0);
            within(limited, "limitResponse", |response| within(response, "queuing", queuing));
        });
    });
}

fn queuing(queuing: &mut Value) {
    zero(queuing, "handSize", HAND_SIZE);
    zero(queuing, "queues", QUEUES);
    zero(queuing, "queueLengthLimit", QUEUE_LENGTH);
}
