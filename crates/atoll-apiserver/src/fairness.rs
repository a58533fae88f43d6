//! Priority and fairness: whose requests go first when there are more than this server takes.
//!
//! Flow schemas sort requests into priority levels and, within one, into flows. Each level has
//! a share of the seats; those that it does not need others borrow. A request that finds no
//! seat waits in a queue of its flow, and is told to come again when there is no room or the
//! wait was too long: whoever sends too much waits behind himself.

mod borrow;
mod builtin;
mod configured;
mod level;
mod queues;
mod shard;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::authz::Attributes;
use crate::registry::Registry;
use crate::status::Status;

pub(crate) use builtin::{create, keep};

use configured::Configured;
pub(crate) use level::Ticket;

use level::Level;

/// How long a request waits for a seat: a quarter of the time it has, as upstream.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Objects that take one seat of a list; upstream's number.
const OBJECTS_PER_SEAT: usize = 100;
/// Seats of one request; upstream's number.
const SEATS_MAX: u32 = 10;

/// Decides for one server.
pub(crate) struct Fairness {
    configured: Configured,
}

/// How a request was sorted: what its answer says of it.
#[derive(Debug, Clone)]
pub(crate) struct Sorted {
    pub schema_uid: HeaderValue,
    pub level_uid: HeaderValue,
}

impl Fairness {
    /// `seats` is what this server does at once.
    pub(crate) fn new(registry: &Arc<Registry>, seats: usize) -> Self {
        Self { configured: Configured::new(registry, u32::try_from(seats).unwrap_or(u32::MAX)) }
    }

    /// Where a request belongs; `None` before there are any priority levels.
    pub(crate) fn sort(&self, asked: &Attributes<'_>) -> Option<(Sorted, Place)> {
        let current = self.configured.current();
        let schema = current.schemas.iter().find(|schema| schema.fits(asked))?;
        let place = Place { level: schema.level.clone(), flow: schema.flow(asked) };
        let level_uid = schema.level.uid();
        Some((Sorted { schema_uid: schema.uid.clone(), level_uid }, place))
    }

    /// Takes seats, waiting for them if need be.
    ///
    /// # Errors
    ///
    /// 429 when there is no room to wait, or waiting took too long.
    pub(crate) async fn admit(&self, place: &Place, seats: u32) -> Result<Ticket, Status> {
        self.configured.adjust();
        let admitted = Level::admit(&place.level, place.flow, seats, WAIT_MAX).await;
        admitted.ok_or_else(too_many)
    }

    /// Series of all levels as Prometheus reads them.
    pub(crate) fn render(&self, text: &mut String) {
        self.configured.render(text);
    }
}

/// The queue of one flow.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    level: Arc<Level>,
    flow: u64,
}

/// What a list of so many objects takes.
pub(crate) fn list_seats(objects: usize) -> u32 {
    let seats = u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(u32::MAX);
    seats.clamp(1, SEATS_MAX)
}

fn too_many() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1)
}

#[cfg(test)]
mod tests;
