//! The last steps before a command runs, in the process that becomes it.
//!
//! Shared by containers (inside libcontainer), by exec, and by the process runtime.

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};

/// Gives the command the state of a fresh process: Rust programs ignore SIGPIPE,
/// the shim blocks SIGCHLD, and whoever started the agent may have ignored others; all of
/// it would be inherited. The raw call, because C libraries keep two signals to themselves.
#[allow(unsafe_code, reason = "the raw rt_sigaction has no safe wrapper")]
pub(crate) fn reset_state() {
    // The kernel's structure, all zero: the default action, no flags, an empty mask.
    const DEFAULT: [u64; 4] = [0; 4];
    const MASK_BYTES: usize = 8;
    for signal in 1..=64 {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            continue;
        }
        // SAFETY: the kernel reads the structure and writes nothing; the default action
        // runs no code of this program.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                MASK_BYTES,
            )
        };
        if result != 0 {
            super::complain(&format!("resetting signal {signal} failed"));
        }
    }
    // The shim does without huge pages; the command shall have what the machine gives.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(false) {
        super::complain(&format!("huge pages: {error}"));
    }
    if let Err(error) =
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
    {
        super::complain(&format!("resetting the signal mask: {error}"));
    }
}

/// Loads a compiled system call filter.
#[allow(unsafe_code, reason = "the seccomp call has no safe wrapper")]
pub(crate) fn load_filter(bytes: &[u8]) -> io::Result<()> {
    let mut program: Vec<libc::sock_filter> = bytes
        .chunks_exact(8)
        .map(|word| libc::sock_filter {
            code: u16::from_ne_bytes([word[0], word[1]]),
            jt: word[2],
            jf: word[3],
            k: u32::from_ne_bytes([word[4], word[5], word[6], word[7]]),
        })
        .collect();
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads `length` instructions, which `program` owns for the time
    // of the call, and copies them.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives back the capability that loading the filter took.
pub(crate) fn give_back_admin() -> io::Result<()> {
    use rustix::thread::CapabilitySet;
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective.remove(CapabilitySet::SYS_ADMIN);
    sets.permitted.remove(CapabilitySet::SYS_ADMIN);
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}

/// Puts the three descriptors in place.
pub(crate) fn stdio(fds: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    rustix::stdio::dup2_stdin(fds[0])?;
    rustix::stdio::dup2_stdout(fds[1])?;
    rustix::stdio::dup2_stderr(fds[2])?;
    Ok(())
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_nul| format!("{text:?} contains a NUL byte"))
}

/// Becomes the command; returns only to say why it could not, in runc's words.
pub(crate) fn execute(args: &[String], env: &[String]) -> String {
    let prepare = || -> Result<(Vec<CString>, Vec<CString>), String> {
        let args = args.iter().map(|a| c_string(a)).collect::<Result<_, _>>()?;
        let env = env.iter().map(|e| c_string(e)).collect::<Result<_, _>>()?;
        Ok((args, env))
    };
    let Some(program) = args.first() else { return "no command specified".to_owned() };
    let (c_args, c_env) = match prepare() {
        Ok(prepared) => prepared,
        Err(reason) => return reason,
    };
    let mut refused = None;
    for candidate in candidates(program, env) {
        let path = match c_string(&candidate) {
            Ok(path) => path,
            Err(reason) => return reason,
        };
        let Err(errno) = nix::unistd::execve(&path, &c_args, &c_env);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // A later directory may hold one that may be run.
            Errno::EACCES => refused = Some(errno),
            other => return format!("exec: {candidate:?}: {}", describe(other)),
        }
    }
    explain(program, refused)
}

fn explain(program: &str, refused: Option<Errno>) -> String {
    match refused {
        Some(errno) => format!("exec: {program:?}: {}", describe(errno)),
        None if program.contains('/') => {
            format!("exec: {program:?}: stat {program}: no such file or directory")
        }
        None => format!("exec: {program:?}: executable file not found in $PATH"),
    }
}

fn describe(errno: Errno) -> String {
    match errno {
        Errno::EACCES => "permission denied".to_owned(),
        Errno::ENOEXEC => "exec format error".to_owned(),
        other => other.desc().to_lowercase(),
    }
}

/// Where a program may be, in order.
fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|line| line.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':')
        .map(|dir| if dir.is_empty() { format!("./{program}") } else { format!("{dir}/{program}") })
        .collect()
}

/// Whether the command is there and may be run by someone; a good early answer, the true
/// one comes from `execve`.
pub(crate) fn check(args: &[String], env: &[String]) -> Result<(), String> {
    let Some(program) = args.first() else { return Err("no command specified".to_owned()) };
    let mut refused = None;
    for candidate in candidates(program, env) {
        let Ok(stat) = rustix::fs::stat(&candidate) else { continue };
        let is_file =
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        if is_file && stat.st_mode & 0o111 != 0 {
            return Ok(());
        }
        refused = Some(if is_file { Errno::EACCES } else { Errno::EISDIR });
    }
    Err(explain(program, refused))
}

/// `HOME` as login programs have it, for an environment that lacks it.
pub(crate) fn home_of(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(uid)))
        .and_then(|fields| fields.get(5).map(|&home| home.to_owned()))
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| if uid == 0 { "/root".to_owned() } else { "/".to_owned() })
}

/// Adds `HOME` when it is missing.
pub(crate) fn with_home(mut env: Vec<String>, uid: u32) -> Vec<String> {
    if !env.iter().any(|line| line.starts_with("HOME=")) {
        env.push(format!("HOME={}", home_of(uid)));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Vec<String> {
        vec!["PATH=/nowhere:/bin:/usr/bin".to_owned()]
    }

    #[test]
    fn finds_a_program_in_its_own_path() {
        assert_eq!(check(&["sh".to_owned()], &env()), Ok(()));
        assert_eq!(check(&["/bin/sh".to_owned()], &env()), Ok(()));
    }

    #[test]
    fn says_in_runcs_words_why_a_program_cannot_run() {
        assert_eq!(
            check(&["nope".to_owned()], &env()).unwrap_err(),
            r#"exec: "nope": executable file not found in $PATH"#
        );
        assert_eq!(
            check(&["/nope".to_owned()], &env()).unwrap_err(),
            r#"exec: "/nope": stat /nope: no such file or directory"#
        );
        assert_eq!(
            check(&["/etc/passwd".to_owned()], &env()).unwrap_err(),
            r#"exec: "/etc/passwd": permission denied"#
        );
    }
}
