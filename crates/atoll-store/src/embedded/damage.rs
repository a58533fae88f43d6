//! Which errors of opening a folder say that what is in it was changed or lost behind the store's
//! back, rather than that it cannot be read now.

use super::OpenError;
use crate::core::CoreOpenError;
use crate::folder::FolderError;
use crate::wal::WalOpenError;

/// `None` when the folder may be whole.
pub(super) fn damage(error: &CoreOpenError) -> Option<OpenError> {
    let corrupt = |file: &str, offset, reason| {
        Some(OpenError::Corrupt { file: file.to_owned(), offset, reason })
    };
    match error {
        CoreOpenError::Wal(WalOpenError::Corrupt { file, offset, reason }) => {
            corrupt(file, *offset, reason)
        }
        CoreOpenError::Backend(error) => corrupt(error.file()?, 0, error.damage()?),
        CoreOpenError::Folder(FolderError::Parse { file, .. } | FolderError::NoFormat { file }) => {
            corrupt(file, 0, "it does not say who this member is")
        }
        CoreOpenError::Folder(FolderError::Missing { file }) => {
            corrupt(file, 0, "it is missing although the folder holds a store")
        }
        CoreOpenError::Consensus(_) | CoreOpenError::Replay { .. } => {
            corrupt("wal", 0, "what the log holds does not fit together or to the state")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendError;
    use std::io::{self, ErrorKind};

    fn redb(error: redb::Error) -> CoreOpenError {
        let source = Box::new(error);
        let file = "state.redb".to_owned();
        CoreOpenError::Backend(BackendError::Redb { file, action: "reading failed", source })
    }

    #[test]
    fn a_cut_file_is_damage_and_a_disk_that_does_not_read_is_not() {
        let cut = redb(redb::Error::Io(io::Error::from(ErrorKind::UnexpectedEof)));
        let Some(OpenError::Corrupt { file, reason, .. }) = damage(&cut) else {
            panic!("{cut}");
        };
        assert_eq!((file.as_str(), reason), ("state.redb", "it ends too early"));
        let mad = redb(redb::Error::Corrupted("a page".to_owned()));
        assert!(damage(&mad).is_some());
        let unreadable = redb(redb::Error::Io(io::Error::other("EIO")));
        assert!(damage(&unreadable).is_none());
        let full = redb(redb::Error::Io(io::Error::from(ErrorKind::StorageFull)));
        assert!(damage(&full).is_none());
    }
}
