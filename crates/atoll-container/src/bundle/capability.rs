//! Which capabilities a container has.

use crate::spec::Security;

/// What containerd grants when nothing is asked for.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability, by its number.
const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The names of `set`, a bit for each capability number.
pub(crate) fn all() -> &'static [&'static str] {
    ALL
}

/// The capabilities of a container: the default set, less what is dropped, plus what is
/// added; never more than the node itself has.
pub(crate) fn granted(security: &Security) -> Vec<&'static str> {
    let ours = own_bounding_set();
    let held = |name: &str| number(name).is_some_and(|n| ours & (1 << n) != 0);
    if security.privileged {
        return ALL.iter().copied().filter(|name| held(name)).collect();
    }
    let dropped: Vec<String> = security.capabilities_drop.iter().map(|c| full_name(c)).collect();
    let added: Vec<String> = security.capabilities_add.iter().map(|c| full_name(c)).collect();
    let has = |list: &[String], name: &str| list.iter().any(|c| c == name || c == "CAP_ALL");
    ALL.iter()
        .copied()
        .filter(|name| {
            let by_default = DEFAULT.contains(name) && !has(&dropped, name);
            // A named drop beats `add: [ALL]`.
            let added_all = has(&added, name) && !dropped.iter().any(|c| c == name);
            by_default || added.iter().any(|c| c == name) || added_all
        })
        .filter(|name| held(name))
        .collect()
}

fn full_name(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// The kernel's number of a capability.
pub(crate) fn number(name: &str) -> Option<usize> {
    ALL.iter().position(|known| *known == name)
}

/// A capability outside the agent's own bounding set cannot be given to anyone.
fn own_bounding_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(add: &[&str], drop: &[&str]) -> Security {
        Security {
            capabilities_add: add.iter().map(|&c| c.to_owned()).collect(),
            capabilities_drop: drop.iter().map(|&c| c.to_owned()).collect(),
            ..Security::default()
        }
    }

    #[test]
    fn dropping_all_leaves_what_is_added() {
        let granted = granted(&security(&["chown"], &["ALL"]));
        assert_eq!(granted, ["CAP_CHOWN"]);
    }

    #[test]
    fn device_nodes_can_be_made_since_the_cgroup_guards_their_use() {
        assert!(granted(&security(&[], &[])).contains(&"CAP_MKNOD"));
        assert!(!granted(&security(&[], &["MKNOD"])).contains(&"CAP_MKNOD"));
    }
}
