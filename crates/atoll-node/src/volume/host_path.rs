//! hostPath volumes: checks, or makes, what the pod expects to find on the node.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// `kind` is the volume's `type`; empty means no check.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let meta = path.metadata();
    let is = |found: fn(&std::fs::FileType) -> bool| {
        meta.as_ref().is_ok_and(|meta| found(&meta.file_type()))
    };
    let failed = |what: &str| Err(format!("hostPath type check failed: {shown} is not a {what}"));
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if meta.is_err() => {
            std::fs::create_dir_all(path).map_err(|e| format!("creating {shown}: {e}"))?;
            set_mode(path, 0o755)
        }
        "FileOrCreate" if meta.is_err() => {
            std::fs::File::create_new(path).map_err(|e| format!("creating {shown}: {e}"))?;
            set_mode(path, 0o644)
        }
        "Directory" | "DirectoryOrCreate" if is(std::fs::FileType::is_dir) => Ok(()),
        "Directory" | "DirectoryOrCreate" => failed("directory"),
        "File" | "FileOrCreate" if is(std::fs::FileType::is_file) => Ok(()),
        "File" | "FileOrCreate" => failed("file"),
        "Socket" if is(std::fs::FileType::is_socket) => Ok(()),
        "Socket" => failed("socket file"),
        "CharDevice" if is(std::fs::FileType::is_char_device) => Ok(()),
        "CharDevice" => failed("character device"),
        "BlockDevice" if is(std::fs::FileType::is_block_device) => Ok(()),
        "BlockDevice" => failed("block device"),
        other => Err(format!("{other} is an invalid hostPath type")),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), String> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| format!("setting the mode of {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_and_makes() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("d"), dir.path().join("f"));
        assert!(check(&folder, "Directory").is_err());
        check(&folder, "DirectoryOrCreate").unwrap();
        check(&folder, "Directory").unwrap();
        check(&file, "FileOrCreate").unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert!(check(&file, "Directory").unwrap_err().ends_with("is not a directory"));
        check(Path::new("/dev/null"), "CharDevice").unwrap();
        check(&dir.path().join("whatever"), "").unwrap();
    }
}
