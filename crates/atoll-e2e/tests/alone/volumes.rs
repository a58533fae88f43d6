//! Volumes that somebody made, and the claims that get them.

use atoll_e2e::eventually;
use serde_json::{Value, json};

use super::{Alone, SOON};

fn volume(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "by-hand", "hostPath": {"path": "/none"}}})
}

fn claim(name: &str, volume: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand",
            "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}})
}

fn has_phase(alone: &Alone, what: &[&str], phase: &str) -> Value {
    eventually(SOON, &format!("{what:?} is {phase}"), || {
        let object = alone.get(what);
        if object["status"]["phase"] == phase { Ok(object) } else { Err(object.to_string()) }
    })
}

/// A volume that is given back by hand, and one that its claim named before it was there.
pub(crate) fn no_claim_waits_in_vain(alone: &Alone) {
    alone.create(&[volume("again"), claim("first", "")]);
    has_phase(alone, &["pvc", "first"], "Bound");
    alone.delete(&["pvc", "first"], "background");
    has_phase(alone, &["pv", "again"], "Released");
    alone.patch(&["pv", "again"], &json!({"spec": {"claimRef": null}}));
    has_phase(alone, &["pv", "again"], "Available");
    alone.create(&[claim("second", "")]);
    let second = has_phase(alone, &["pvc", "second"], "Bound");
    assert_eq!(second["spec"]["volumeName"], "again");
    alone.create(&[claim("early", "late")]);
    has_phase(alone, &["pvc", "early"], "Pending");
    alone.create(&[volume("late")]);
    has_phase(alone, &["pvc", "early"], "Bound");
    alone.delete(&["pvc", "second", "early"], "background");
    alone.delete(&["pv", "again", "late"], "background");
}
