//! `cargo xtask vm`: boots Debian 12's cloud kernel and runs the node suite on it.
//!
//! There only cgroup v2 is mounted, as on an installed Debian 12, and no module is loaded
//! that nobody asked for. The machine sees this host's files read-only, under a layer of
//! its own, and has no network.

mod kernel;
mod machine;
mod ramdisk;
mod suite;

use anyhow::{Context, Result, bail};
use std::{path::PathBuf, time::Duration};

/// From power on to power off; a minute is usual with KVM, and three without.
const TIMEOUT: Duration = Duration::from_secs(235);
const TIMEOUT_EMULATED: Duration = Duration::from_secs(330);

/// What is said, and all that is said, where no machine can be started.
const NOT_COVERED: &str = "cgroup v2 not covered";

const USAGE: &str = "usage: cargo xtask vm [--package NAME]... [--filter EXPRESSION] \
                     [--atoll PATH] [--emulate] [--timeout SECONDS]";

/// What was asked for on the command line.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    /// Packages whose tests are built; none means the whole workspace.
    packages: Vec<String>,
    /// Which tests run, in nextest's language, instead of the node suite.
    filter: Option<String>,
    /// The program under test.
    atoll: Option<PathBuf>,
    /// Runs without KVM, all the slower.
    emulate: bool,
    timeout: Option<Duration>,
}

impl Wish {
    fn parse(arguments: &[&str]) -> Result<Wish> {
        let mut wish =
            Wish { packages: Vec::new(), filter: None, atoll: None, emulate: false, timeout: None };
        let mut arguments = arguments.iter();
        while let Some(&flag) = arguments.next() {
            if flag == "--emulate" {
                wish.emulate = true;
                continue;
            }
            let value = arguments.next().with_context(|| format!("{flag}: {USAGE}"))?;
            match flag {
                "--package" => wish.packages.push((*value).to_owned()),
                "--filter" => wish.filter = Some((*value).to_owned()),
                "--atoll" => wish.atoll = Some(PathBuf::from(value)),
                "--timeout" => {
                    wish.timeout = Some(Duration::from_secs(value.parse().context(USAGE)?));
                }
                _ => bail!("{flag} is not known; {USAGE}"),
            }
        }
        Ok(wish)
    }
}

#[allow(clippy::print_stdout, reason = "the answer of a command-line tool")]
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let wish = Wish::parse(arguments)?;
    let Some(speed) = machine::Speed::choose(wish.emulate) else {
        println!("{NOT_COVERED}");
        return Ok(());
    };
    let timeout = wish.timeout.unwrap_or(match speed {
        machine::Speed::Kvm => TIMEOUT,
        machine::Speed::Emulated => TIMEOUT_EMULATED,
    });
    let kernel = kernel::prepare()?;
    let folder = machine::Folder::new(&kernel)?;
    suite::write(&wish, speed, &folder)?;
    ramdisk::write(&kernel, &folder.path("ramdisk"))?;
    let deadline = std::time::Instant::now() + timeout;
    match machine::boot(&kernel, speed, &folder, deadline)? {
        0 => Ok(()),
        code => bail!("tests failed on {} (exit code {code})", kernel.version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_understood_or_explained() {
        let wish = Wish::parse(&["--package", "a", "--package", "b", "--emulate"]).unwrap();
        assert_eq!(wish.packages, ["a", "b"]);
        assert!(wish.emulate && wish.timeout.is_none());
        assert!(Wish::parse(&["--filter"]).unwrap_err().to_string().contains("usage"));
        assert!(Wish::parse(&["--what", "x"]).unwrap_err().to_string().contains("--what"));
    }
}
