//! What libcontainer leaves undone on cgroup v2, done before the command may run.

use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxMemory, Spec};

use super::ShimConfig;
use crate::device_filter;

/// The kernel's words are few; this is what usually stands behind them.
const FILTER_NEEDS: &str =
    "it takes CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN, and a kernel with CONFIG_CGROUP_BPF";

/// Swap, the way in which lack of memory kills, and the device filter.
pub(crate) fn complete(config: &ShimConfig, dir: &Path) -> Result<(), String> {
    if !config.cgroups.is_v2() {
        return Ok(());
    }
    let path = dir.join("config.json");
    let spec = Spec::load(&path).map_err(|e| format!("reading {}: {e}", path.display()))?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limited = resources
        .and_then(|r| r.memory().as_ref())
        .and_then(LinuxMemory::limit)
        .is_some_and(|limit| limit > 0);
    config.cgroups.die_as_one(&config.cgroup, limited).map_err(|e| super::launch::chain(&e))?;
    let rules = resources.and_then(|r| r.devices().clone()).unwrap_or_default();
    let Some(program) = device_filter::program(&device_filter::rules(&rules)) else {
        return Ok(());
    };
    let Some(cgroup) = config.cgroups.memory_dir(&config.cgroup) else { return Ok(()) };
    device_filter::attach(&cgroup, &program)
        .map_err(|e| format!("filtering its devices: {e}; {FILTER_NEEDS}"))
}
