//! A checker of histories: what clients and watchers were told, against the one order of writes.
//!
//! Each write has a revision, so the order need not be searched for: the log of changes that the
//! store itself gives in the end is replayed, in linear time, and everything that anybody was told
//! must agree with it. Six rules:
//! 1. every acknowledged write is in the log, once, at the revision it was told, and did there what
//!    it was told;
//! 2. no answer has a lower revision than one that was known before it was asked for;
//! 3. every read equals the state at its revision;
//! 4. a write whose outcome is unknown is in the log whole and once, after it was asked for, or
//!    never, and one that was refused never;
//! 5. a watch sees every change once, whole and in order, and none after it was told to be past it;
//! 6. a key of a lease goes only when somebody takes it or when the lease may have run out.
//!
//! A long history is checked piece by piece; between the pieces a [`Checker`] keeps the state and
//! the writes that may still happen, and nothing else.

mod checker;
mod explained;
mod log;
mod model;
mod watch;
mod write;

pub use checker::{Checker, Window};
pub use model::{Ask, Batch, Call, Change, Found, How, Lease, Outcome, Range, Watched};
