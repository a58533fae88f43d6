//! The database of redb, whose panics become errors: it panics on pages that hold nonsense, and
//! whoever reads or writes wants an answer.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

thread_local! {
    /// What panics here is dealt with and said in other words.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Pages that do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonsense;

pub(super) fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, Nonsense> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                hook(panic);
            }
        }));
    });
    let outer = IS_GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(act));
    IS_GUARDED.set(outer);
    outcome.map_err(|_panic| Nonsense)
}

#[derive(Debug)]
pub(super) struct Pages {
    /// Taken out by `drop` alone.
    database: Option<Database>,
}

impl Pages {
    pub(super) fn new(database: Database) -> Self {
        Self { database: Some(database) }
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, redb::Error> {
        Ok(self.open()?.begin_read()?)
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        Ok(self.open()?.begin_write()?)
    }

    fn open(&self) -> Result<&Database, redb::Error> {
        let closed = || redb::Error::Io(std::io::Error::other("it has been closed"));
        self.database.as_ref().ok_or_else(closed)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // It writes when it is closed, and may meet what it met before.
        let database = self.database.take();
        if guarded(|| drop(database)).is_err() {
            tracing::debug!("a damaged state file was closed");
        }
    }
}
