//! Tries whether a command can be shut in on this machine: an image of nothing, in a folder
//! of the node.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;

use super::enclosure::{self, Enclosure, Owner};
use super::launch::exit_now;
use crate::spec::{Process, Root};

/// Prints why not, and ends with 1, or ends with 0.
#[allow(clippy::print_stdout, reason = "standard output is the answer to the agent")]
pub(crate) fn run(dir: &Path) -> i32 {
    let scratch = dir.join(format!(".probe-{}", rustix::process::getpid().as_raw_nonzero()));
    let result = attempt(&scratch);
    if let Err(error) = clear(&scratch) {
        super::complain(&format!("atoll shim: removing {}: {error}", scratch.display()));
    }
    match result {
        Ok(()) => 0,
        Err(reason) => {
            println!("{reason}");
            1
        }
    }
}

fn attempt(scratch: &Path) -> Result<(), String> {
    let [lower, upper, work, rootfs] =
        ["lower", "upper", "work", "rootfs"].map(|name| scratch.join(name));
    for path in [&lower, &upper, &work, &rootfs] {
        fs::create_dir_all(path).map_err(|e| format!("making {}: {e}", path.display()))?;
    }
    let inside = Enclosure {
        root: Root::Layers { lower: vec![lower], upper, work },
        rootfs,
        mounts: Vec::new(),
        hostname: Some("probe".to_owned()),
        read_only: true,
    };
    let owner = Owner::here();
    let (answer, their_answer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
    let child = enclosure::fork(|| {
        if let Err(reason) = enclosure::enter(&inside, &Process::default(), owner)
            && let Err(error) = fs::File::from(their_answer).write_all(reason.as_bytes())
        {
            super::complain(&format!("atoll shim: {reason} ({error})"));
        }
        exit_now(0);
    });
    let child = child.map_err(|e| format!("user namespaces: {e}"))?;
    let mut reason = String::new();
    fs::File::from(answer).read_to_string(&mut reason).map_err(|e| e.to_string())?;
    rustix::process::waitpid(Some(child), WaitOptions::empty()).map_err(|e| e.to_string())?;
    if reason.is_empty() { Ok(()) } else { Err(reason) }
}

/// Overlayfs leaves a directory that not even its owner may read.
fn clear(scratch: &Path) -> io::Result<()> {
    let inner: PathBuf = scratch.join("work/work");
    if inner.exists() {
        fs::remove_dir(&inner)?;
    }
    match fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
