//! Networks that lose packets or are slow, and ports that somebody else has.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

mod delay;
mod loss;
mod ports;

use atoll_e2e::cluster::run;
use std::{path::PathBuf, process::Command};

/// A table of nf_tables in a node's namespace, which goes when dropped.
struct Table {
    netns: PathBuf,
    name: &'static str,
}

impl Table {
    fn add(netns: PathBuf, name: &'static str, chains: &str) -> Self {
        let table = Self { netns, name };
        let mut command = table.nft();
        command.args(["-f", "-"]);
        run(command, &format!("table ip {name} {{\n{chains}\n}}\n")).ok();
        table
    }

    fn nft(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display())).arg("nft");
        command
    }

    /// What its rules counted, all together.
    fn packets(&self) -> u64 {
        let mut command = self.nft();
        command.args(["list", "table", "ip", self.name]);
        let shown = run(command, "").ok();
        let counts = shown.split("packets ").skip(1);
        counts.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let mut command = self.nft();
        command.args(["delete", "table", "ip", self.name]);
        run(command, "");
    }
}
