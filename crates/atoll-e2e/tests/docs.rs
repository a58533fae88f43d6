//! Every console block of the documentation, run as a reader would type it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster,
    cluster::{binary, free_port, workspace},
    console, is_root,
};

#[test]
fn the_documentation_does_what_it_says() {
    if !is_root("documentation") {
        return;
    }
    let root = workspace();
    let mut pages = vec![root.join("README.md")];
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    let etcd = format!("127.0.0.1:{}", free_port());
    let script = format!("exec \"$@\" --etcd-listen {etcd}");
    let cluster = Cluster::start_under(&["sh", "-c", &script, "sh"], 3);
    let program = binary();
    let path = std::env::var("PATH").unwrap();
    let path = format!(
        "{}:{}:{path}",
        program.parent().unwrap().display(),
        root.join(".tools/bin").display()
    );
    let environment = [
        ("PATH".to_owned(), path),
        ("KUBECONFIG".to_owned(), cluster.kubeconfig().display().to_string()),
        ("ATOLL_DATA_DIR".to_owned(), cluster.dir.display().to_string()),
        ("ETCDCTL_API".to_owned(), "3".to_owned()),
        ("ETCDCTL_ENDPOINTS".to_owned(), etcd),
    ];
    let mut count = 0;
    for page in pages {
        for step in console::steps(&std::fs::read_to_string(&page).unwrap()) {
            console::run(&step, &root, &environment);
            count += 1;
        }
    }
    assert!(count >= 12, "only {count} commands were found");
}
