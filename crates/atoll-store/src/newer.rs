//! What a later release has written, and this one does not read.
//!
//! It is told apart from damage, because the remedy is another: nothing is wrong with the folder.

/// The remedy that every such refusal names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} has the format {found}, and this release reads up to {known}; nothing was changed: \
     start the release that wrote it, or a later one"
)]
pub struct Newer {
    /// The file, or the part of it.
    pub what: String,
    pub found: u64,
    /// The highest that this release reads.
    pub known: u64,
}

impl Newer {
    /// `found`, unless this release reads it.
    pub(crate) fn check(
        what: impl Into<String>,
        found: impl Into<u64>,
        known: impl Into<u64>,
    ) -> Result<(), Self> {
        let (found, known) = (found.into(), known.into());
        if found > known { Err(Self { what: what.into(), found, known }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
