//! What is refused of flow schemas and priority levels.

use serde_json::json;

use super::*;
use crate::kinds::flow::builtin;

#[test]
fn what_every_cluster_begins_with_is_valid() {
    for one in builtin() {
        let object = json!({"metadata": {"name": one.name}, "spec": one.spec});
        let errors = if one.kind == "FlowSchema" { schema(&object) } else { level(&object) };
        assert_eq!(errors, [], "{} {}", one.kind, one.name);
    }
}

fn texts(errors: &[Error]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn the_mandatory_ones_stay_as_they_are() {
    let mut object = json!({"metadata": {"name": "catch-all"}, "spec": {}});
    object["spec"] = mandatory_spec("PriorityLevelConfiguration", "catch-all").unwrap();
    object["spec"]["limited"]["nominalConcurrencyShares"] = json!(6);
    assert!(texts(&level(&object))[0].ends_with("spec of 'catch-all' must equal the fixed value"));
    let mut exempt = json!({"metadata": {"name": "exempt"}, "spec": {}});
    exempt["spec"] = mandatory_spec("PriorityLevelConfiguration", "exempt").unwrap();
    exempt["spec"]["exempt"]["nominalConcurrencyShares"] = json!(6);
    assert_eq!(level(&exempt), []);
}

#[test]
fn faults_in_upstreams_words() {
    let bad = json!({"metadata": {"name": "x"}, "spec": {
        "matchingPrecedence": 1,
        "priorityLevelConfiguration": {},
        "rules": [{"subjects": [{"kind": "User"}]}],
    }});
    assert_eq!(
        texts(&schema(&bad)),
        [
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have \
             matchingPrecedence 1",
            "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            "spec.rules[0].subjects[0].user: Required value: user is required when subject kind \
             is 'User'",
            "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules \
             has to be non-empty",
        ]
    );
    let queuing = |queues: i64, hand: i64| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 1});
        let limited = json!({"limitResponse": {"type": "Queue", "queuing": queuing}});
        let spec = json!({"type": "Limited", "limited": limited});
        texts(&level(&json!({"metadata": {"name": "x"}, "spec": spec})))
    };
    let at = "spec.limited.limitResponse.queuing.handSize";
    assert_eq!(
        queuing(2, 3),
        [format!("{at}: Invalid value: 3: should not be greater than queues (2)")]
    );
    assert_eq!(
        queuing(1024, 7),
        [format!(
            "{at}: Invalid value: 7: required entropy bits of deckSize 1024 and handSize 7 should \
             not be greater than 60"
        )]
    );
    assert_eq!(queuing(128, 6), [] as [&str; 0]);
}
