//! The underlay itself: repeatable, cuttable, and gone when told.

use std::path::Path;

use atoll_network::underlay::{self, Config};

use crate::world::{World, call, call_here, is_root};

#[tokio::test]
async fn a_cut_node_is_unreachable_until_healed() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let pod = world.server(1, "pod").await;
    assert!(call_here(pod.lease.address, 8080).is_ok());
    underlay::cut(&world.cluster, "node-2").unwrap();
    assert!(call(&world.node_netns(0), pod.lease.address, 8080).is_err());
    underlay::heal(&world.cluster, "node-2").unwrap();
    assert!(call(&world.node_netns(0), pod.lease.address, 8080).is_ok());
}

#[tokio::test]
async fn the_host_reaches_services_by_a_node_that_is_left() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let pod = world.server(1, "pod").await;
    world.sync(|world, k| vec![world.service(k, 20, &[&pod])]).await;
    assert!(call_here(world.service_address(20), 80).is_ok());
    underlay::cut(&world.cluster, "node-1").unwrap();
    assert!(call_here(world.service_address(20), 80).is_ok());
}

#[tokio::test]
async fn two_clusters_have_ranges_of_their_own_and_do_not_meet() {
    if !is_root() {
        return;
    }
    let mut one = World::with_nodes(1).await;
    let mut two = World::with_nodes(1).await;
    assert!(!one.cluster.ranges.underlay.overlaps(&two.cluster.ranges.underlay));
    let a = one.server(0, "a").await;
    let b = two.server(0, "b").await;
    assert!(call_here(a.lease.address, 8080).is_ok());
    assert!(call_here(b.lease.address, 8080).is_ok());
}

#[tokio::test]
async fn ranges_of_another_cluster_are_refused_with_its_folder() {
    if !is_root() {
        return;
    }
    let world = World::with_nodes(1).await;
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        cluster_id: "other".to_owned(),
        data_dir: folder.path().to_owned(),
        run_dir: world.cluster.run_dir.clone(),
        nodes: Vec::new(),
        ranges: Some(world.cluster.ranges),
    };
    let error = underlay::create(&config).unwrap_err().to_string();
    assert!(error.contains("the cluster in /"), "{error}");
}

#[tokio::test]
async fn creating_again_keeps_what_is_there() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let pod = world.server(1, "pod").await;
    let again = underlay::create(&Config {
        cluster_id: world.cluster.cluster_id.clone(),
        data_dir: std::env::temp_dir(),
        run_dir: world.cluster.run_dir.clone(),
        nodes: vec!["node-1".to_owned(), "node-2".to_owned()],
        ranges: None,
    })
    .unwrap();
    assert_eq!(again, world.cluster);
    assert!(call_here(pod.lease.address, 8080).is_ok());
}

#[tokio::test]
async fn a_cluster_that_comes_back_smaller_leaves_no_former_node() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(3).await;
    let pod = world.server(1, "pod").await;
    let former = world.node_netns(2);
    let mut config = Config {
        cluster_id: world.cluster.cluster_id.clone(),
        data_dir: std::env::temp_dir(),
        run_dir: world.cluster.run_dir.clone(),
        nodes: vec!["node-1".to_owned(), "node-2".to_owned()],
        ranges: None,
    };
    assert_eq!(underlay::create(&config).unwrap().nodes, world.cluster.nodes[..2]);
    assert!(!former.exists());
    assert!(call_here(pod.lease.address, 8080).is_ok());
    config.nodes.push("node-3".to_owned());
    assert_eq!(underlay::create(&config).unwrap(), world.cluster);
}

#[tokio::test]
async fn teardown_leaves_nothing() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let id = world.cluster.cluster_id.clone();
    let folder = world.cluster.run_dir.join(&id);
    assert!(Path::new("/sys/class/net").join(format!("at-{id}")).exists());
    world.teardown();
    assert!(!Path::new("/sys/class/net").join(format!("at-{id}")).exists());
    assert!(!folder.exists(), "{}", folder.display());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&id), "{mounts}");
}
