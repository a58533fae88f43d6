//! The device filter of cgroup v2: a BPF program that the kernel asks before it opens or
//! makes a device node for a process of the cgroup.
//!
//! v1 had files for this (`devices.allow`); v2 has none. The program is a chain of
//! comparisons, written here instruction by instruction from the rules of the OCI
//! specification.

mod bpf;

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

pub(crate) use bpf::Instruction;

/// Bits of what is wanted of a device, as the kernel tells the program.
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MAKE | READ | WRITE;

/// Kinds of nodes, as the kernel tells the program.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// Allows or denies; what is `None` matches everything. Later rules win.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl Rule {
    fn allow(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> Rule {
        Rule { allow: true, kind: Some(kind), major, minor, access }
    }

    /// A rule of the OCI specification.
    fn from_spec(spec: &LinuxDeviceCgroup) -> Rule {
        // Negative numbers are wildcards, as for the other runtimes.
        let number = |number: Option<i64>| number.and_then(|n| u32::try_from(n).ok());
        let access = spec.access().as_deref().map_or(ALL, |letters| {
            let bit = |letter, bit| if letters.contains(letter) { bit } else { 0 };
            bit('m', MAKE) | bit('r', READ) | bit('w', WRITE)
        });
        Rule {
            allow: spec.allow(),
            kind: match spec.typ() {
                Some(LinuxDeviceType::B) => Some(BLOCK),
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
                Some(LinuxDeviceType::P | LinuxDeviceType::A) | None => None,
            },
            major: number(spec.major()),
            minor: number(spec.minor()),
            access,
        }
    }

    /// Whatever is asked, this rule answers.
    fn decides_all(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// The rules of a container, and what every container may use, as libcontainer gives it on
/// cgroup v1: nodes may be made, but only these may be opened.
pub(crate) fn rules(spec: &[LinuxDeviceCgroup]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = spec.iter().map(Rule::from_spec).collect();
    let one = |major, minor| Rule::allow(CHARACTER, Some(major), Some(minor), ALL);
    rules.extend([
        Rule::allow(CHARACTER, None, None, MAKE),
        Rule::allow(BLOCK, None, None, MAKE),
        one(1, 3),                                    // null
        one(1, 5),                                    // zero
        one(1, 7),                                    // full
        one(1, 8),                                    // random
        one(1, 9),                                    // urandom
        one(5, 0),                                    // tty
        one(5, 1),                                    // console
        one(5, 2),                                    // ptmx
        one(10, 200),                                 // net/tun
        Rule::allow(CHARACTER, Some(136), None, ALL), // pts
    ]);
    rules
}

/// The program for these rules; `None` when they allow everything.
pub(crate) fn program(rules: &[Rule]) -> Option<Vec<Instruction>> {
    if rules.iter().all(|rule| rule.allow) && rules.iter().any(Rule::decides_all) {
        return None;
    }
    let mut program = bpf::prologue();
    // The last word on each kind of access counts, so the last rule is asked first; what
    // it allows is taken off what is still to be decided.
    for rule in rules.iter().rev() {
        let mut block = Vec::new();
        for (register, value) in
            [(bpf::KIND, rule.kind), (bpf::MAJOR, rule.major), (bpf::MINOR, rule.minor)]
        {
            if let Some(value) = value {
                block.push(Instruction::skip_unless_equal(register, value));
            }
        }
        block.extend(if rule.allow { bpf::allow(rule.access) } else { bpf::deny(rule.access) });
        bpf::aim_at_end(&mut block);
        program.append(&mut block);
        if rule.decides_all() {
            break;
        }
    }
    // Nobody has allowed it.
    program.extend(bpf::answer(false));
    Some(program)
}

/// Puts the filter on the cgroup at `dir`; it stays as long as the cgroup does, and counts
/// for what is below it. What a cgroup above forbids stays forbidden.
pub(crate) fn attach(dir: &Path, program: &[Instruction]) -> io::Result<()> {
    let program = bpf::load(program)?;
    let cgroup = std::fs::File::open(dir)?;
    bpf::attach(cgroup.as_fd(), program.as_fd())
}

#[cfg(test)]
mod tests;
