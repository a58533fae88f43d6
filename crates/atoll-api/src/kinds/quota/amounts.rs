//! Amounts by resource: added, compared, and what a pod asks for altogether.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::access::Access as _;
use crate::kinds::pod::is_sidecar;
use crate::quantity::{Format, Quantity};

/// Amounts by the name of the resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// A resource list; what is no quantity is left out.
#[must_use]
pub fn read(list: &Value) -> Amounts {
    let quantity = |value: &Value| match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    };
    let fields = list.as_object().into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

/// As a resource list is written.
#[must_use]
pub fn write(amounts: &Amounts) -> Value {
    let fields: Map<String, Value> = amounts
        .iter()
        .map(|(name, amount)| (name.clone(), Value::from(amount.to_string())))
        .collect();
    Value::Object(fields)
}

/// `a=1,b=2`: how errors of quotas show amounts.
#[must_use]
pub fn text(amounts: &Amounts) -> String {
    let terms: Vec<String> =
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    terms.join(",")
}

pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |known| *known + *amount);
        total.insert(name.clone(), sum);
    }
}

/// What of `new` goes beyond `old`; nothing below zero.
#[must_use]
pub fn growth(new: &Amounts, old: &Amounts) -> Amounts {
    let grown = |(name, amount): (&String, &Quantity)| {
        let more = old.get(name).map_or(*amount, |before| *amount - *before);
        (!more.is_zero() && !more.is_negative()).then(|| (name.clone(), more))
    };
    new.iter().filter_map(grown).collect()
}

/// A number of things.
#[must_use]
pub fn number(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

fn greatest(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let more = total.get(name).is_none_or(|known| amount > known);
        if more {
            total.insert(name.clone(), *amount);
        }
    }
}

/// What a pod counts for: as [`of_spec`], with what a container holds where that is more than it
/// asks for, until its node has resized it (KEP-1287).
#[must_use]
pub fn of_pod(pod: &Value, list: &str) -> Amounts {
    effective(&pod["spec"], list, &|container| held(&pod["status"], container, list))
}

/// What a pod asks for (`requests`) or is bounded by (`limits`): its containers together, or
/// more where an init container needs more; its overhead on top (KEP-753, KEP-688). Resources
/// of the pod as a whole overrule (KEP-2837).
#[must_use]
pub fn of_spec(spec: &Value, list: &str) -> Amounts {
    effective(spec, list, &|container| read(&container["resources"][list]))
}

fn held(status: &Value, container: &Value, list: &str) -> Amounts {
    let mut own = read(&container["resources"][list]);
    let mut statuses = ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .flat_map(|statuses| status.items(statuses));
    let known = statuses.find(|one| one.text("name") == container.text("name"));
    let Some(known) = known.filter(|known| known.has("resources")) else { return own };
    let mut held = read(&known["resources"][list]);
    if list == "requests" {
        greatest(&mut held, &read(&known["allocatedResources"]));
    }
    if is_infeasible(status) {
        return held;
    }
    greatest(&mut own, &held);
    own
}

/// Whether the node has said that it will never do the resize that is asked for.
fn is_infeasible(status: &Value) -> bool {
    status.items("conditions").iter().any(|condition| {
        condition.text("type") == "PodResizePending" && condition.text("reason") == "Infeasible"
    })
}

fn effective(spec: &Value, list: &str, of: &dyn Fn(&Value) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for container in spec.items("containers") {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.items("initContainers") {
        let own =
            if is_sidecar(container) { of(container) } else { read(&container["resources"][list]) };
        if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            greatest(&mut peak, &sidecars);
        } else {
            let mut meanwhile = sidecars.clone();
            add(&mut meanwhile, &own);
            greatest(&mut peak, &meanwhile);
        }
    }
    greatest(&mut total, &peak);
    for (name, amount) in read(&spec["resources"][list]) {
        total.insert(name, amount);
    }
    let overhead = read(&spec["overhead"]);
    if list == "requests" {
        add(&mut total, &overhead);
    } else {
        // A limit that is not there stays away.
        for (name, amount) in overhead {
            if let Some(known) = total.get(&name).filter(|known| !known.is_zero()) {
                let sum = *known + amount;
                total.insert(name, sum);
            }
        }
    }
    total
}
