//! The machine itself: qemu, and the process that lends it the host's files.

use super::kernel::Kernel;
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

const MEMORY: &str = "2048M";

/// Sparse; what the tests write, on a file system that containers' layers can lie on.
const SCRATCH_BYTES: u64 = 8 << 30;

/// The script's last word.
const VERDICT: &str = "atoll-vm: exit ";

/// Debian 12 has it with qemu; later ones in a package of its own.
const FILE_SERVERS: &[&str] = &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];

/// The file server's socket comes at once, or not at all.
const SOCKET_MAX: Duration = Duration::from_secs(10);

/// How the machine's processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    Kvm,
    /// About ten times slower, which two cores bear.
    Emulated,
}

impl Speed {
    /// `None` where there is no KVM. A `/dev/kvm` without virtualization in the processor
    /// (a hypervisor's own kind, which runs prepared kernels only) starts no kernel of
    /// Debian's: there the machine is emulated.
    pub(crate) fn choose(emulate: bool) -> Option<Speed> {
        if std::env::consts::ARCH != "x86_64" {
            return None;
        }
        if emulate {
            return Some(Speed::Emulated);
        }
        File::options().read(true).write(true).open("/dev/kvm").ok()?;
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Some(if virtualizes(&cpus) { Speed::Kvm } else { Speed::Emulated })
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Speed::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Speed::Emulated => &["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"],
        }
    }
}

fn virtualizes(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// What one run needs, below `target`; gone with it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    modules: PathBuf,
}

impl Folder {
    pub(crate) fn new(kernel: &Kernel) -> Result<Folder> {
        let all = std::env::current_dir()?.join("target/vm");
        sweep(&all)?;
        let path = all.join(std::process::id().to_string());
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Folder { path, modules: kernel.modules.clone() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What the machine finds as `/lib/modules`.
    pub(crate) fn modules(&self) -> &Path {
        &self.modules
    }
}

/// Removes the folders of runs that were killed; their processes went with them.
fn sweep(all: &Path) -> Result<()> {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let path = entry.path();
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

impl Drop for Folder {
    #[allow(clippy::print_stderr, reason = "a command-line tool talks on stderr")]
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("vm: removing {}: {error}", self.path.display());
        }
    }
}

/// A process that ends with its owner.
struct Kept(Child);

impl Drop for Kept {
    #[allow(clippy::print_stderr, reason = "a command-line tool talks on stderr")]
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            eprintln!("vm: ending a process: {error}");
        }
    }
}

/// Also when the owner is killed: the kernel sees to it.
fn tied(program: &str, folder: &Folder) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]).current_dir(&folder.path);
    command.stdin(Stdio::null());
    command
}

/// Runs the machine to its end, repeating what it says; the exit code of its tests.
pub(crate) fn boot(
    kernel: &Kernel,
    speed: Speed,
    folder: &Folder,
    deadline: Instant,
) -> Result<i32> {
    File::create(folder.path("scratch"))?.set_len(SCRATCH_BYTES)?;
    let _files = serve_files(folder)?;
    let errors = folder.path("qemu.log");
    let mut qemu = tied("qemu-system-x86_64", folder);
    qemu.args(speed.arguments());
    qemu.args(["-smp", "2", "-m", MEMORY, "-nographic", "-nodefaults", "-serial", "stdio"]);
    qemu.args(["-no-reboot", "-nic", "none"]);
    // Shared with the file server.
    qemu.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={MEMORY},share=on"));
    qemu.args(["-numa", "node,memdev=memory"]);
    qemu.args(["-chardev", "socket,id=files,path=files"]);
    qemu.args(["-device", "vhost-user-fs-pci,chardev=files,tag=host"]);
    qemu.args(["-drive", "file=scratch,if=virtio,format=raw,cache=unsafe"]);
    qemu.arg("-kernel").arg(&kernel.image).args(["-initrd", "ramdisk", "-append"]);
    qemu.arg(format!(
        "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off atoll.suite={}",
        folder.path("suite").display()
    ));
    let mut child = qemu
        .stdout(Stdio::piped())
        .stderr(File::create(&errors)?)
        .spawn()
        .context("starting qemu-system-x86_64: run `scripts/prepare test`")?;
    let console = child.stdout.take().context("the console")?;
    let mut child = Kept(child);
    if let Some(code) = watch(console, deadline)? {
        child.0.wait().context("waiting for qemu")?;
        return Ok(code);
    }
    let said = fs::read_to_string(&errors).unwrap_or_default();
    bail!("the machine ended without a word on its tests: {}", said.trim())
}

/// Repeats the console until the machine is off.
#[allow(clippy::print_stdout, reason = "the machine's console")]
fn watch(console: impl std::io::Read + Send + 'static, deadline: Instant) -> Result<Option<i32>> {
    let (sender, lines) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut code = None;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                println!("{line}");
                code = line.strip_prefix(VERDICT).and_then(|code| code.parse().ok()).or(code);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(code),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the machine was still busy at the end of its time")
            }
        }
    }
}

/// Lends all of this host's files, read-only on the machine's side.
#[allow(clippy::disallowed_methods, reason = "a tool without a runtime may sleep")]
fn serve_files(folder: &Folder) -> Result<Kept> {
    let server = FILE_SERVERS.iter().find(|path| Path::new(path).exists());
    let server = server.context("virtiofsd is missing: run `scripts/prepare test`")?;
    let log = folder.path("files.log");
    let child = tied(server, folder)
        .args(["--socket-path=files", "-o", "source=/", "-o", "cache=always"])
        .args(["-o", "sandbox=chroot"])
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()
        .with_context(|| format!("starting {server}"))?;
    let mut child = Kept(child);
    let deadline = Instant::now() + SOCKET_MAX;
    while !folder.path("files").exists() {
        if child.0.try_wait()?.is_some() || Instant::now() > deadline {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("{server} does not serve: {}", said.trim());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_processors_virtualize() {
        assert!(virtualizes("model\t: x\nflags\t\t: fpu vmx sse\n"));
        assert!(virtualizes("flags\t\t: fpu svm\n"));
        assert!(!virtualizes("flags\t\t: fpu vmmcall\nbugs\t\t: vmx\n"));
        assert!(!virtualizes(""));
    }

    #[test]
    fn the_folders_of_dead_runs_go() {
        let name = format!("atoll-vm-test-{}", std::process::id());
        let all = std::env::temp_dir().join(name);
        let own = all.join(std::process::id().to_string());
        // Above the largest process number that the kernel gives.
        let dead = all.join("4194305");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(dead.join("below")).unwrap();
        sweep(&all).unwrap();
        assert!(own.exists() && !dead.exists());
        fs::remove_dir_all(&all).unwrap();
    }

    #[test]
    fn the_verdict_is_read_from_the_console() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let text = "a\r\natoll-vm: exit 100\r\noff\r\n";
        assert_eq!(watch(text.as_bytes(), deadline).unwrap(), Some(100));
        assert_eq!(watch("panic\n".as_bytes(), deadline).unwrap(), None);
    }
}
