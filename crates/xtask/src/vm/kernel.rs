//! Debian's cloud kernel, unpacked into a folder of its own; nothing is installed.

use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Always depends on the newest kernel of the release.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Kept over `cargo clean`: it is a download of 27 MB.
const CACHE: &str = ".tools/vm";

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    /// `/lib/modules` of the machine.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    fn in_folder(folder: &Path) -> Option<Kernel> {
        let modules = folder.join("lib/modules");
        let version = fs::read_dir(&modules).ok()?.next()?.ok()?.file_name().into_string().ok()?;
        let image = folder.join(format!("boot/vmlinuz-{version}"));
        image.exists().then_some(Kernel { version, image, modules })
    }

    /// Files of a module and of those that it needs, in the order of loading.
    pub(crate) fn module_files(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let folder = self.modules.join(&self.version);
        let path = folder.join("modules.dep");
        let table =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let files = in_order(&table, names)?;
        Ok(files.into_iter().map(|file| folder.join(file)).collect())
    }
}

/// The kernel of an earlier run, else the newest of Debian's.
pub(crate) fn prepare() -> Result<Kernel> {
    let cache = std::env::current_dir()?.join(CACHE);
    let folder = cache.join("kernel");
    if let Some(kernel) = Kernel::in_folder(&folder) {
        return Ok(kernel);
    }
    let fresh = cache.join(format!("kernel.{}", std::process::id()));
    fs::create_dir_all(&fresh)?;
    let made = unpack(&fresh);
    if made.is_ok() && fs::rename(&fresh, &folder).is_err() {
        // Another run was faster.
        fs::remove_dir_all(&fresh)?;
    }
    if made.is_err() {
        fs::remove_dir_all(&fresh)?;
    }
    made?;
    Kernel::in_folder(&folder)
        .with_context(|| format!("{} holds no kernel; remove it and try again", folder.display()))
}

fn unpack(folder: &Path) -> Result<()> {
    let package = newest().or_else(|_| {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        newest()
    })?;
    run(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(folder))?;
    let mut archives = fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path());
    let archive = archives.next().with_context(|| format!("{package} was not downloaded"))?;
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
    fs::remove_file(&archive)?;
    let kernel = Kernel::in_folder(folder).with_context(|| format!("{package} has no kernel"))?;
    run(Command::new("depmod").arg("-b").arg(folder).arg(&kernel.version))
}

/// The package with the kernel that [`PACKAGE`] stands for today.
fn newest() -> Result<String> {
    let output = Command::new("apt-cache").args(["depends", PACKAGE]).output();
    let output = output.context("running apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let name = name.with_context(|| format!("apt does not know {PACKAGE}"))?;
    Ok(format!("linux-image-{name}"))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim())
}

/// Reads `modules.dep`: a line names a file and those that must be loaded before, the
/// nearest first.
fn in_order<'a>(table: &'a str, names: &[&str]) -> Result<Vec<&'a str>> {
    let mut files = Vec::new();
    for name in names {
        let end = format!("/{name}.ko");
        let line = table.lines().filter_map(|line| line.split_once(':'));
        let found = line.into_iter().find(|(file, _)| file.ends_with(&end));
        let (file, needs) = found.with_context(|| format!("the kernel has no module {name}"))?;
        for file in needs.split_whitespace().rev().chain([file]) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_those_that_it_needs() {
        let table = "k/a/ring.ko:\nk/a/bus.ko: k/a/ring.ko\nk/a/disk.ko: k/a/bus.ko k/a/ring.ko\n";
        let files = in_order(table, &["disk", "ring"]).unwrap();
        assert_eq!(files, ["k/a/ring.ko", "k/a/bus.ko", "k/a/disk.ko"]);
        assert!(in_order(table, &["isk"]).is_err());
    }
}
