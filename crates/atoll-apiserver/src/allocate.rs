//! Addresses, ports and pod networks, handed out in the transaction of the object that gets
//! them.
//!
//! Each is a key of its own that must not exist yet; the key goes with the object. So two
//! objects never hold one, and none is lost when a server dies.

mod addresses;
mod families;
mod nodes;
pub(crate) mod repair;
mod services;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::call::Call;
use crate::status::Status;
use crate::storage::Extra;

/// Under this prefix stands one key for each thing handed out; its value names the owner.
const PREFIX: &str = "/registry/allocations";

/// What a kind gets with its objects.
struct Allocator {
    group: &'static str,
    resource: &'static str,
    /// Completes a new object. `attempt` counts earlier ones that met a taken key.
    create: for<'a> fn(&'a Call, &'a mut Value, usize) -> BoxFuture<'a, Result<Extra, Status>>,
    update: for<'a> fn(&'a Call, &'a Value, &'a mut Value) -> BoxFuture<'a, Result<Extra, Status>>,
    /// Everything that the object holds.
    held: fn(&Value) -> Vec<String>,
}

static ALLOCATORS: &[Allocator] = &[services::ALLOCATOR, nodes::ALLOCATOR];

fn allocator(call: &Call) -> Option<&'static Allocator> {
    ALLOCATORS.iter().find(|one| one.group == call.row.group && one.resource == call.row.resource)
}

pub(crate) async fn on_create(
    call: &Call,
    object: &mut Value,
    attempt: usize,
) -> Result<Extra, Status> {
    match allocator(call) {
        Some(allocator) => (allocator.create)(call, object, attempt).await,
        None => Ok(Extra::default()),
    }
}

pub(crate) async fn on_update(call: &Call, old: &Value, new: &mut Value) -> Result<Extra, Status> {
    match allocator(call).filter(|_| call.part.is_none()) {
        Some(allocator) => (allocator.update)(call, old, new).await,
        None => Ok(Extra::default()),
    }
}

pub(crate) fn on_delete(call: &Call, object: &Value) -> Extra {
    let mut extra = Extra::default();
    if let Some(allocator) = allocator(call) {
        for key in (allocator.held)(object) {
            extra.release(key);
        }
    }
    extra
}

pub(crate) use addresses::{GROUP as NETWORKING, follow as follow_address};

/// The key of a Service's address.
pub(crate) fn address_key(address: std::net::Ipv4Addr) -> String {
    format!("{PREFIX}/serviceips/{address}")
}

/// What the object held and holds no more is given back; what it holds now and did not is
/// claimed.
fn difference(owner: &Value, before: &[String], after: &[String]) -> Extra {
    let mut extra = Extra::default();
    for key in after.iter().filter(|key| !before.contains(key)) {
        extra.claim(key.clone(), owner["metadata"]["uid"].as_str().unwrap_or("").to_owned());
    }
    for key in before.iter().filter(|key| !after.contains(key)) {
        extra.release(key.clone());
    }
    extra
}
