//! The status of a Job: what controllers, ours and others', may make of it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::batch::holds;
use crate::kinds::batch::indexes::Indexes;
use crate::validate::not_negative;

/// A Job's status before and after.
struct Change<'a> {
    new: &'a Value,
    old: &'a Value,
    at: Path,
}

pub(crate) fn update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let change = Change { new, old, at: Path::new("status") };
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(&change.at.child(field), change.count(field), &mut errors);
    }
    change.uncounted(&mut errors);
    change.conditions(&mut errors);
    change.times(&mut errors);
    change.finished(&mut errors);
    change.indexes(&mut errors);
    if (change.changed("ready") || change.changed("active"))
        && change.count("ready") > change.count("active")
    {
        let text = "cannot set more ready pods than active";
        errors.push(change.at.child("ready").invalid(change.count("ready"), text));
    }
    change.monotone(&mut errors);
    errors
}

impl Change<'_> {
    fn count(&self, field: &str) -> i64 {
        self.new["status"].int(field).unwrap_or(0)
    }

    fn changed(&self, field: &str) -> bool {
        self.new["status"].get(field) != self.old["status"].get(field)
    }

    /// Whether a condition is another than before.
    fn turned(&self, condition: &str) -> bool {
        holds(self.new, condition) != holds(self.old, condition)
    }

    fn is_finished(&self) -> bool {
        holds(self.new, "Complete") || holds(self.new, "Failed")
    }

    fn uncounted(&self, errors: &mut Vec<Error>) {
        let at = self.at.child("uncountedTerminatedPods");
        let mut seen = BTreeSet::new();
        for list in ["succeeded", "failed"] {
            let uids = self.new["status"]["uncountedTerminatedPods"].items(list);
            for (index, uid) in uids.iter().enumerate() {
                let (at, uid) = (at.child(list).index(index), uid.as_str().unwrap_or(""));
                if uid.is_empty() {
                    errors.push(at.invalid(uid, "must not be empty"));
                } else if !seen.insert(uid) {
                    errors.push(at.duplicate(uid));
                }
            }
        }
    }

    fn conditions(&self, errors: &mut Vec<Error>) {
        let at = self.at.child("conditions");
        let has = |condition: &str| holds(self.new, condition);
        let (complete, failed) = (self.turned("Complete"), self.turned("Failed"));
        let (target, met) = (self.turned("FailureTarget"), self.turned("SuccessCriteriaMet"));
        let rules = [
            (
                complete || failed,
                "Complete",
                "Failed",
                "cannot set Complete=True and Failed=true conditions",
            ),
            (
                complete || target,
                "Complete",
                "FailureTarget",
                "cannot set Complete=True and FailureTarget=true conditions",
            ),
            (
                true,
                "SuccessCriteriaMet",
                "Failed",
                "cannot set SuccessCriteriaMet=True and Failed=true conditions",
            ),
            (
                true,
                "SuccessCriteriaMet",
                "FailureTarget",
                "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
            ),
        ];
        for (applies, one, other, text) in rules {
            if applies && has(one) && has(other) {
                errors.push(at.invalid_whole(text));
            }
        }
        if (failed || target) && has("Failed") && !has("FailureTarget") {
            let text = "cannot set Failed=True condition without the FailureTarget=true condition";
            errors.push(at.invalid_whole(text));
        }
        if (complete || met) && has("Complete") && !has("SuccessCriteriaMet") {
            let text =
                "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
            errors.push(at.invalid_whole(text));
        }
        for condition in ["Failed", "Complete", "FailureTarget"] {
            if holds(self.old, condition) && !has(condition) {
                let text = format!("cannot disable the terminal {condition}=True condition");
                errors.push(at.invalid_whole(text));
            }
        }
        if holds(self.old, "SuccessCriteriaMet") && !has("SuccessCriteriaMet") {
            errors.push(at.invalid_whole("cannot disable the SuccessCriteriaMet=True condition"));
        }
    }

    fn times(&self, errors: &mut Vec<Error>) {
        let (status, was) = (&self.new["status"], &self.old["status"]);
        let complete = holds(self.new, "Complete");
        let at = self.at.child("completionTime");
        let touched = self.turned("Complete") || self.changed("completionTime");
        if touched && status.has("completionTime") && !complete {
            let text = "cannot set completionTime when there is no Complete=True condition";
            errors.push(at.invalid(status["completionTime"].clone(), text));
        }
        if touched && !status.has("completionTime") && complete {
            errors.push(at.required("completionTime is required for Complete jobs"));
        }
        let time = |field: &str| status.text(field).parse::<Timestamp>().ok();
        if (self.changed("startTime") || self.changed("completionTime"))
            && time("startTime").zip(time("completionTime")).is_some_and(|(start, end)| end < start)
        {
            let text = "completionTime cannot be set before startTime";
            errors.push(at.invalid(status["completionTime"].clone(), text));
        }
        if status.has("completionTime")
            && was.has("completionTime")
            && self.changed("completionTime")
        {
            let text = "completionTime cannot be mutated";
            errors.push(at.invalid(status["completionTime"].clone(), text));
        }
        let running = !self.new["spec"].flag("suspend");
        if was.has("startTime") && self.changed("startTime") && running {
            let text = "startTime cannot be removed for unsuspended job";
            errors.push(self.at.child("startTime").required(text));
        }
    }

    fn finished(&self, errors: &mut Vec<Error>) {
        if !self.is_finished() {
            return;
        }
        let turned = self.turned("Complete") || self.turned("Failed");
        for field in ["active", "terminating"] {
            if (turned || self.changed(field)) && self.count(field) > 0 {
                let text = format!("{field}>0 is invalid for finished job");
                errors.push(self.at.child(field).invalid(self.count(field), text));
            }
        }
        let status = &self.new["status"];
        if (turned || self.changed("startTime")) && !status.has("startTime") {
            let text = "startTime is required for finished job";
            errors.push(self.at.child("startTime").required(text));
        }
        let uncounted = &status["uncountedTerminatedPods"];
        let any = ["succeeded", "failed"].iter().any(|list| !uncounted.items(list).is_empty());
        if (turned || self.changed("uncountedTerminatedPods")) && any {
            let text = "uncountedTerminatedPods needs to be empty for finished job";
            let at = self.at.child("uncountedTerminatedPods");
            errors.push(at.invalid(uncounted.clone(), text));
        }
    }

    fn indexes(&self, errors: &mut Vec<Error>) {
        let spec = &self.new["spec"];
        let status = &self.new["status"];
        let completions = spec.int("completions").and_then(|count| i32::try_from(count).ok());
        let mut sets = Vec::new();
        for field in ["completedIndexes", "failedIndexes"] {
            let (at, text) = (self.at.child(field), status.text(field));
            let Some(completions) = completions else { continue };
            match Indexes::parse(text, completions) {
                Ok(indexes) => sets.push(indexes),
                Err(why) if self.changed(field) => {
                    errors.push(at.invalid(text, format!("error parsing {field}: {why}")));
                }
                Err(_) => {}
            }
        }
        let completed = status.text("completedIndexes");
        if self.changed("completedIndexes")
            && !completed.is_empty()
            && spec.text("completionMode") != "Indexed"
        {
            let text = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.push(self.at.child("completedIndexes").invalid(completed, text));
        }
        let at = self.at.child("failedIndexes");
        let failed = status.text("failedIndexes");
        if self.changed("failedIndexes")
            && status.has("failedIndexes")
            && !spec.has("backoffLimitPerIndex")
        {
            let text = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.push(at.invalid(failed, text));
        }
        if let [completed, failing] = sets.as_slice()
            && (self.changed("completedIndexes") || self.changed("failedIndexes"))
            && let Some(index) = completed.first_common(failing)
        {
            let text = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.push(at.invalid(failed, text));
        }
    }

    fn monotone(&self, errors: &mut Vec<Error>) {
        let indexed = self.new["spec"].text("completionMode") == "Indexed";
        let stretched = self.new["spec"].get("completions") != self.old["spec"].get("completions");
        for (field, applies) in [("failed", true), ("succeeded", !(indexed && stretched))] {
            let was = self.old["status"].int(field).unwrap_or(0);
            if applies && self.count(field) < was {
                let text = format!("cannot decrease the {field} counter");
                errors.push(self.at.child(field).invalid(self.count(field), text));
            }
        }
    }
}
