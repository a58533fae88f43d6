//! Notices when the kernel kills in the container's cgroup for lack of memory.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::cgroup::Cgroups;

/// A descriptor that becomes readable, and the count it began with.
pub(crate) struct Watch {
    fd: Option<OwnedFd>,
    before: u64,
    told: u64,
    /// Somebody has been told of a kill.
    announced: bool,
    /// v1 wants the watched file to stay open.
    _file: Option<fs::File>,
}

impl Watch {
    pub(crate) fn new(cgroups: &Cgroups, cgroup: &str) -> Watch {
        let before = cgroups.oom_kills(cgroup);
        let made = cgroups
            .memory_dir(cgroup)
            .map(|dir| if cgroups.is_v2() { watch_v2(&dir) } else { watch_v1(&dir) });
        let (fd, file) = match made {
            Some(Ok((fd, file))) => (Some(fd), file),
            Some(Err(error)) => {
                super::complain(&format!("atoll shim: watching for lack of memory: {error}"));
                (None, None)
            }
            None => (None, None),
        };
        Watch { fd, before, told: before, announced: false, _file: file }
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Takes the notification; whether there is a kill not yet told.
    pub(crate) fn happened(&mut self, cgroups: &Cgroups, cgroup: &str) -> bool {
        let mut buffer = [0u8; 512];
        let ended = match &self.fd {
            Some(fd) => !matches!(
                rustix::io::read(fd, &mut buffer),
                Ok(1..) | Err(rustix::io::Errno::AGAIN)
            ),
            None => true,
        };
        if ended || !cgroups.memory_dir(cgroup).is_some_and(|dir| dir.exists()) {
            // The cgroup is gone: a descriptor that stays readable would keep us awake.
            self.fd = None;
        }
        let count = cgroups.oom_kills(cgroup);
        let more = count > self.told;
        self.told = self.told.max(count);
        // v1 tells before the kernel has killed and counted.
        let happened = more || (!cgroups.is_v2() && self.fd.is_some());
        self.announced |= happened;
        happened
    }

    /// Whether there was a kill that nobody has been told of. The kernel notifies in its
    /// own time: on v2 usually after the first process has ended.
    pub(crate) fn is_untold(&mut self, cgroups: &Cgroups, cgroup: &str) -> bool {
        let untold = !self.announced && self.count(cgroups, cgroup) > 0;
        self.announced |= untold;
        untold
    }

    /// Kills since the container began.
    pub(crate) fn count(&self, cgroups: &Cgroups, cgroup: &str) -> u64 {
        cgroups.oom_kills(cgroup).max(self.told).saturating_sub(self.before)
    }
}

fn watch_v2(dir: &Path) -> io::Result<(OwnedFd, Option<fs::File>)> {
    use rustix::fs::inotify;
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&fd, dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
    Ok((fd, None))
}

fn watch_v1(dir: &Path) -> io::Result<(OwnedFd, Option<fs::File>)> {
    use rustix::event::EventfdFlags;
    let fd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let file = fs::File::open(dir.join("memory.oom_control"))?;
    let line = format!("{} {}", fd.as_raw_fd(), file.as_raw_fd());
    fs::write(dir.join("cgroup.event_control"), line)?;
    Ok((fd, Some(file)))
}
