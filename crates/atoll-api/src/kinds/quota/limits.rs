//! LimitRange: defaults for containers, and bounds for containers, pods and claims.

use serde_json::{Map, Value};

use super::amounts::{self, Amounts};
use crate::access::Access as _;
use crate::kinds::metadata;
use crate::quantity::Quantity;

/// Tells a person which defaults a pod was given.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Gives the containers of a new pod what they leave out, and notes it in an annotation.
pub fn complete(pod: &mut Value, range: &Value) {
    let (mut limits, mut requests) = (Map::new(), Map::new());
    for item in range["spec"].items("limits").iter().filter(|one| one.text("type") == "Container") {
        limits.extend(item.fields("default").cloned().unwrap_or_default());
        requests.extend(item.fields("defaultRequest").cloned().unwrap_or_default());
    }
    let mut notes = Vec::new();
    for (list, word) in LISTS.iter().zip(["container", "init container"]) {
        let containers = pod["spec"].get_mut(*list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container.text("name").to_owned();
            let asked = fill(container, "requests", &requests);
            let bounded = fill(container, "limits", &limits);
            for (names, kind) in [(asked, "request"), (bounded, "limit")] {
                if !names.is_empty() {
                    notes.push(format!("{} {kind} for {word} {name}", names.join(", ")));
                }
            }
        }
    }
    if notes.is_empty() {
        return;
    }
    let own = metadata::of(pod).entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(annotations) = own {
        let text = format!("LimitRanger plugin set: {}", notes.join("; "));
        annotations.insert(ANNOTATION.to_owned(), Value::from(text));
    }
}

/// Fills in what is missing; gives the names of it.
fn fill(container: &mut Value, list: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let missing: Vec<(String, Value)> = defaults
        .iter()
        .filter(|(name, _)| !container["resources"][list].has(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let names = missing.iter().map(|(name, _)| name.clone()).collect();
    metadata::grandchild(container, "resources", list).extend(missing);
    names
}

/// What the pod does that the range does not allow, in upstream's words.
#[must_use]
pub fn check_pod(pod: &Value, range: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for item in range["spec"].items("limits") {
        let bounds = Bounds::of(item);
        match item.text("type") {
            "Container" => {
                for list in LISTS {
                    for container in pod["spec"].items(list) {
                        let resources = &container["resources"];
                        let requests = amounts::read(&resources["requests"]);
                        let limits = amounts::read(&resources["limits"]);
                        bounds.check("Container", &requests, &limits, &mut wrong);
                    }
                }
            }
            "Pod" => {
                let requests = amounts::of_spec(&pod["spec"], "requests");
                let limits = amounts::of_spec(&pod["spec"], "limits");
                bounds.check("Pod", &requests, &limits, &mut wrong);
            }
            _ => {}
        }
    }
    wrong
}

/// The same for a claim.
#[must_use]
pub fn check_claim(claim: &Value, range: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let requests = amounts::read(&claim["spec"]["resources"]["requests"]);
    for item in range["spec"].items("limits") {
        let kind = "PersistentVolumeClaim";
        if item.text("type") != kind {
            continue;
        }
        let bounds = Bounds::of(item);
        // A claim has only a size, which is a request.
        for (name, min) in &bounds.min {
            min_bound(kind, name, *min, &requests, &Amounts::new(), &mut wrong);
        }
        for (name, max) in &bounds.max {
            max_request(kind, name, *max, &requests, &mut wrong);
        }
    }
    wrong
}

struct Bounds {
    min: Amounts,
    max: Amounts,
    ratio: Amounts,
}

impl Bounds {
    fn of(item: &Value) -> Self {
        let list = |field: &str| amounts::read(&item[field]);
        Self { min: list("min"), max: list("max"), ratio: list("maxLimitRequestRatio") }
    }

    fn check(&self, kind: &str, requests: &Amounts, limits: &Amounts, wrong: &mut Vec<String>) {
        for (name, min) in &self.min {
            min_bound(kind, name, *min, requests, limits, wrong);
        }
        for (name, max) in &self.max {
            max_bound(kind, name, *max, requests, limits, wrong);
        }
        for (name, ratio) in &self.ratio {
            ratio_bound(kind, name, *ratio, requests, limits, wrong);
        }
    }
}

fn min_bound(
    kind: &str,
    name: &str,
    min: Quantity,
    requests: &Amounts,
    limits: &Amounts,
    wrong: &mut Vec<String>,
) {
    let (request, limit) = (requests.get(name), limits.get(name));
    match request {
        None => wrong
            .push(format!("minimum {name} usage per {kind} is {min}.  No request is specified")),
        Some(request) if *request < min => wrong
            .push(format!("minimum {name} usage per {kind} is {min}, but request is {request}")),
        Some(_) => {}
    }
    if let Some(limit) = limit.filter(|limit| **limit < min) {
        wrong.push(format!("minimum {name} usage per {kind} is {min}, but limit is {limit}"));
    }
}

fn max_bound(
    kind: &str,
    name: &str,
    max: Quantity,
    requests: &Amounts,
    limits: &Amounts,
    wrong: &mut Vec<String>,
) {
    let (request, limit) = (requests.get(name), limits.get(name));
    match limit {
        None => {
            wrong.push(format!("maximum {name} usage per {kind} is {max}.  No limit is specified"));
        }
        Some(limit) if *limit > max => {
            wrong.push(format!("maximum {name} usage per {kind} is {max}, but limit is {limit}"));
        }
        Some(_) => {}
    }
    if let Some(request) = request.filter(|request| **request > max) {
        wrong.push(format!("maximum {name} usage per {kind} is {max}, but request is {request}"));
    }
}

fn max_request(kind: &str, name: &str, max: Quantity, requests: &Amounts, wrong: &mut Vec<String>) {
    match requests.get(name) {
        None => wrong
            .push(format!("maximum {name} usage per {kind} is {max}.  No request is specified")),
        Some(request) if *request > max => wrong
            .push(format!("maximum {name} usage per {kind} is {max}, but request is {request}")),
        Some(_) => {}
    }
}

fn ratio_bound(
    kind: &str,
    name: &str,
    ratio: Quantity,
    requests: &Amounts,
    limits: &Amounts,
    wrong: &mut Vec<String>,
) {
    let positive = |amounts: &Amounts| {
        amounts.get(name).copied().filter(|one| !one.is_zero() && !one.is_negative())
    };
    let text = format!("{name} max limit to request ratio per {kind} is {ratio}");
    let (Some(request), Some(limit)) = (positive(requests), positive(limits)) else {
        let what = if positive(requests).is_none() { "request" } else { "limit" };
        wrong.push(format!("{text}, but no {what} is specified or {what} is 0"));
        return;
    };
    // limit / request > ratio, without a division.
    let bound = request.nanos().saturating_mul(ratio.nanos()) / crate::kinds::amount::UNIT;
    if limit.nanos() > bound {
        let observed = limit.milli() as f64 / request.milli().max(1) as f64;
        wrong.push(format!("{text}, but provided ratio is {observed:.6}"));
    }
}
