//! Many short lives with violent ends leave nothing behind.

use std::process::Command;

use atoll_container::{Scope, Signal};

use crate::world::{World, is_root, tear_down};

const CYCLES: u32 = 60;

/// Shims whose command line names the world's directory.
fn processes_of(marker: &str) -> Vec<String> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.unwrap().path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(marker) && line.contains("shim --dir"))
        .collect()
}

#[tokio::test]
async fn random_kills_leave_no_mount_cgroup_namespace_or_process() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let mut seed = 12_345u32;
    for cycle in 0..CYCLES {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let uid = format!("cy{cycle}");
        let sandbox = world.sandbox(&uid).await;
        let script = if seed & 0x1000 == 0 { "sleep 1000" } else { "sleep 1000 & exit 3" };
        let spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
        let container = world.runtime.create(&spec).await.unwrap();
        let text = std::fs::read_to_string(container.dir.join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&text).unwrap();
        let kill = |key: &str| {
            let pid = state[key].as_i64().unwrap().to_string();
            // It may have ended by itself.
            Command::new("kill").args(["-9", &pid]).output().unwrap();
        };
        match (seed >> 16) % 8 {
            // Killed between create and start.
            0 => kill("shim_pid"),
            1 => kill("pid"),
            2 => world.restart().await,
            step => {
                world.runtime.start(&container).await.unwrap();
                match step {
                    3 => kill("shim_pid"),
                    4 => kill("pid"),
                    5 => world.restart().await,
                    6 => {
                        kill("shim_pid");
                        kill("pid");
                        world.restart().await;
                    }
                    _ => {
                        world.runtime.signal(&container, Signal::KILL, Scope::All).await.unwrap();
                    }
                }
            }
        }
        world.runtime.remove_sandbox(&uid).await.unwrap();
    }
    assert!(world.runtime.list().await.unwrap().is_empty());
    let marker = world.dir.path().to_string_lossy().into_owned();
    let deadline = tokio::time::Instant::now() + crate::world::DEADLINE;
    while !processes_of(&marker).is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", processes_of(&marker));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let uids: Vec<String> = (0..CYCLES).map(|cycle| format!("cy{cycle}")).collect();
    let uids: Vec<&str> = uids.iter().map(String::as_str).collect();
    tear_down(world, &uids).await;
}
