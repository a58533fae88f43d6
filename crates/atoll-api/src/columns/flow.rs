//! FlowSchema and PriorityLevelConfiguration.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;

pub(crate) const SCHEMA: &[Column] = &[
    NAME,
    text(
        "PriorityLevel",
        "`name` is the name of the priority level configuration being referenced Required.",
    ),
    text(
        "MatchingPrecedence",
        "`matchingPrecedence` is used to choose among the FlowSchemas that match a given request.",
    ),
    text(
        "DistinguisherMethod",
        "`type` is the type of flow distinguisher method. The supported types are \"ByUser\" and \
         \"ByNamespace\". Required.",
    ),
    AGE,
    text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
];

pub(crate) const LEVEL: &[Column] = &[
    NAME,
    text("Type", "`type` indicates whether this priority level is subject to limitation."),
    text(
        "NominalConcurrencyShares",
        "`nominalConcurrencyShares` (NCS) contributes to the computation of the nominal \
         concurrency limit (NominalCL) of this level.",
    ),
    text("Queues", "`queues` is the number of queues for this priority level."),
    text("HandSize", "`handSize` is how many queues a flow may wait in."),
    text(
        "QueueLengthLimit",
        "`queueLengthLimit` is the maximum number of requests allowed to be waiting in a given \
         queue of this priority level at a time; excess requests are rejected.",
    ),
    AGE,
];

pub(crate) fn schema(schema: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &schema["spec"];
    let method = spec["distinguisherMethod"].opt_text("type").unwrap_or("<none>");
    let conditions = schema["status"].items("conditions");
    let dangling = conditions.iter().find(|condition| condition.text("type") == "Dangling");
    vec![
        name(schema),
        json!(spec["priorityLevelConfiguration"].text("name")),
        json!(spec.int("matchingPrecedence").unwrap_or(0)),
        json!(method),
        age(schema, now),
        json!(dangling.map_or("?", |condition| condition.text("status"))),
    ]
}

pub(crate) fn level(level: &Value, now: Timestamp) -> Vec<Value> {
    let limited = &level["spec"]["limited"];
    let queuing = &limited["limitResponse"]["queuing"];
    let number = |of: &Value, field: &str| match of.int(field) {
        Some(number) => json!(number),
        None => json!("<none>"),
    };
    vec![
        name(level),
        json!(level["spec"].text("type")),
        number(limited, "nominalConcurrencyShares"),
        number(queuing, "queues"),
        number(queuing, "handSize"),
        number(queuing, "queueLengthLimit"),
        age(level, now),
    ]
}
