//! What holds for every store: etcd's guarantees, statement by statement.

use futures::future::BoxFuture;

use crate::world::World;

mod compaction;
mod leases;
mod progress;
mod reads;
mod txns;
mod watches;

/// A statement and the trial of it.
pub(crate) type Check = (&'static str, fn(World) -> BoxFuture<'static, ()>);

/// Makes the list of a module's statements from their names.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        pub(in crate::checks) const CHECKS: &[crate::checks::Check] =
            &[$((stringify!($name), |world| Box::pin($name(world)))),*];
    };
}
use checks;

pub(crate) fn all() -> impl Iterator<Item = Check> {
    [
        reads::CHECKS,
        txns::CHECKS,
        leases::CHECKS,
        compaction::CHECKS,
        watches::CHECKS,
        progress::CHECKS,
    ]
    .into_iter()
    .flatten()
    .copied()
}
