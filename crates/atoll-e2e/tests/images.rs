//! Images end to end: pulled from Debian's registry and from hostile ones, imported from
//! archives, and what pods, events and `atoll why` say when there is none.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

#[path = "images/archive.rs"]
mod archive;
#[path = "images/disk.rs"]
mod disk;
#[path = "images/hostile.rs"]
mod hostile;
#[path = "images/pods.rs"]
mod pods;
#[path = "images/registry.rs"]
mod registry;
#[path = "images/volumes.rs"]
mod volumes;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use archive::{Image, Layer, Packing, busybox, busybox_config, gzip};
use atoll_e2e::{
    Cluster,
    cluster::{free_port, is_ready, run, workspace},
    eventually, is_root,
};
use disk::Disk;
use hostile::bad_images;
use pods::{
    SOON, Wish, becomes, create, events, has_event, image, image_with, left_over, names,
    nothing_left, runs, waits, why,
};
use registry::{Anything, Line, Registry};
use serde_json::{Value, json};

#[test]
fn pods_pull_from_registries_on_the_hosts_loopback() {
    if !is_root("images") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), None);
    let path = busybox(Packing::Gzip).write_oci(&folder.path().join("one.tar"), Some("x:1"));
    registry.push(&path, "x:1", None);
    let private = Registry::start(folder.path(), Some(("ali", "open sesame")));
    private.push(&path, "x:1", Some("ali:open sesame"));
    // A layer that no other image has, and that does not get smaller.
    let layers = [Layer::new().busybox().file("noise", 0o644, &noise(1_000_000)).bytes()];
    let long = Image::new(&layers, Packing::Gzip, busybox_config());
    registry.push(&long.write_oci(&folder.path().join("long.tar"), Some("x:1")), "long:1", None);
    let line = Line::to(registry.port, 300_000);
    let cluster = Cluster::start(3);
    let broken = format!("127.0.0.1:{}/long:1", line.port);
    create(&cluster, Wish { name: "broken", node: 3, image: broken.clone(), ..Wish::default() });
    volumes::create(&cluster, &registry, folder.path());
    refused_names_and_policies(&cluster, registry.port);
    passwords(&cluster, private.port, registry.port);
    names_and_digests(&cluster, &registry, folder.path());
    commands_that_are_not_there(&cluster, registry.port);
    refusals_are_told(&cluster, registry.port);
    volumes::check(&cluster, &registry, folder.path());

    // The line broke in the middle, and stayed dead for as long as all this took.
    eventually(SOON, "the line breaks", || line.is_dead().then_some(()).ok_or("not yet".into()));
    has_event(&cluster, "broken", &format!("Warning Failed Failed to pull image \"{broken}\": "));
    line.mend();
    runs(&cluster, "broken");
    let ranges = line.ranges();
    assert_eq!(ranges.len(), 1, "it went on where the line broke: {ranges:?}");
    let from: usize = ranges[0].trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
    assert!((200_000..=300_000).contains(&from), "{ranges:?}");
    nothing_left(&cluster, 3);
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn refused_names_and_policies(cluster: &Cluster, registry: u16) {
    let missing = format!("localhost:{registry}/x:missing");
    create(cluster, Wish { name: "missing", image: missing, ..Wish::default() });
    let gone = format!("127.0.0.1:{}/x:1", free_port());
    create(cluster, Wish { name: "gone", node: 2, image: gone, ..Wish::default() });
    let invalid = "Library/X:1".to_owned();
    create(cluster, Wish { name: "invalid", node: 2, image: invalid, ..Wish::default() });
    let never = format!("localhost:{registry}/x:1");
    create(
        cluster,
        Wish { name: "never", node: 3, image: never, policy: "Never", ..Wish::default() },
    );
}

/// After a while, so that each is at the end of its way.
fn refusals_are_told(cluster: &Cluster, registry: u16) {
    let x = format!("localhost:{registry}/x:missing");
    let cause = format!("image {x} was not found at localhost:{registry} (404 Not Found");
    let message = waits(cluster, "missing", "ImagePullBackOff");
    let start = format!("Back-off pulling image \"{x}\": ErrImagePull: {cause}");
    assert!(message.starts_with(&start), "{message}");
    has_event(cluster, "missing", &format!("Normal Pulling Pulling image \"{x}\""));
    has_event(cluster, "missing", &format!("Warning Failed Failed to pull image \"{x}\": {cause}"));
    has_event(cluster, "missing", "Warning Failed Error: ErrImagePull");
    has_event(cluster, "missing", &format!("Normal BackOff Back-off pulling image \"{x}\""));
    has_event(cluster, "missing", "Warning Failed Error: ImagePullBackOff");
    why(cluster, "pod/missing", &["container c waits for its image", &cause, "Check its name"]);

    let message = waits(cluster, "gone", "ImagePullBackOff");
    assert!(message.contains("cannot be reached: connecting to 127.0.0.1:"), "{message}");
    why(cluster, "pod/gone", &["Connection refused", "`atoll image import`", "docker save"]);

    let message = waits(cluster, "invalid", "InvalidImageName");
    let wanted = "Failed to apply default image tag \"Library/X:1\": couldn't parse image name \
                  \"Library/X:1\": invalid reference format: repository name (X) must be lowercase";
    assert_eq!(message, wanted);
    has_event(cluster, "invalid", &format!("Warning InspectFailed {wanted}"));
    why(cluster, "pod/invalid", &["capital letters", "spec.containers[0].image"]);

    let x = format!("localhost:{registry}/x:1");
    let message = waits(cluster, "never", "ErrImageNeverPull");
    assert_eq!(
        message,
        format!("Container image \"{x}\" is not present with pull policy of Never")
    );
    has_event(cluster, "never", &format!("Warning ErrImageNeverPull {message}"));
    has_event(cluster, "never", "Warning Failed Error: ErrImageNeverPull");
    why(cluster, "pod/never", &["is not on node-3", "imagePullPolicy: IfNotPresent"]);
}

fn passwords(cluster: &Cluster, port: u16, open: u16) {
    for (name, password) in [("right", "open sesame"), ("wrong", "open barley")] {
        cluster
            .kubectl(&[
                "create",
                "secret",
                "docker-registry",
                name,
                &format!("--docker-server=localhost:{port}"),
                "--docker-username=ali",
                &format!("--docker-password={password}"),
            ])
            .ok();
    }
    let x = format!("localhost:{port}/x:1");
    for (name, node) in [("right", 1), ("wrong", 2), ("nosuch", 3)] {
        let wish = Wish { name, node, image: x.clone(), secret: Some(name), ..Wish::default() };
        create(cluster, wish);
    }
    runs(cluster, "right");
    let refused = format!("localhost:{port} refused to give out image {x} (401 Unauthorized");
    let message = waits(cluster, "wrong", "ImagePullBackOff");
    assert!(message.contains(&refused), "{message}");
    why(cluster, "pod/wrong", &[&refused, "Check the user and password"]);
    has_event(
        cluster,
        "nosuch",
        "Warning FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets \
         (nosuch); attempting to pull the image may not succeed.",
    );
    waits(cluster, "nosuch", "ImagePullBackOff");
    why(cluster, "pod/nosuch", &[&refused, "pull secrets (nosuch)", "imagePullSecret"]);
    // The image is on node-1 now, but not for a pod that could not have pulled it.
    create(cluster, Wish { name: "uninvited", image: x.clone(), ..Wish::default() });
    let wish = Wish { name: "invited", image: x.clone(), secret: Some("right"), ..Wish::default() };
    create(cluster, wish);
    runs(cluster, "invited");
    let present = format!("Normal Pulled Container image \"{x}\" already present on machine");
    has_event(cluster, "invited", &present);
    let message = waits(cluster, "uninvited", "ImagePullBackOff");
    assert!(message.contains(&refused), "{message}");
    // By hand, with and without.
    let said = image(cluster, &["pull", "--node", "node-3", &x]).fails();
    assert!(said.contains("give --credentials USER:PASSWORD"), "{said}");
    let flag = "--credentials=ali:open sesame";
    let said = image(cluster, &["pull", "--node", "node-3", &x, flag]).ok();
    assert!(said.starts_with(&format!("node-3: {x} (")), "{said}");
    assert!(names(cluster, 3).contains(&x));
    let mirror = format!("--mirror=registry.invalid=http://localhost:{open}");
    let said = image(cluster, &["pull", "--node", "node-2", "registry.invalid/long:1", &mirror]);
    assert!(said.ok().starts_with("node-2: registry.invalid/long:1 ("));
    let said = image(cluster, &["pull", "--mirror=a=b", "x"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("begins with http:// or https://"), "{said:?}");
}

fn names_and_digests(cluster: &Cluster, registry: &Registry, folder: &Path) {
    let port = registry.port;
    let one = busybox(Packing::Gzip).digest;
    let by_name = format!("localhost:{port}/x:1");
    create(cluster, Wish { name: "by-name", image: by_name.clone(), ..Wish::default() });
    let status = runs(cluster, "by-name");
    assert_eq!(status["imageID"], format!("localhost:{port}/x@{one}"));
    assert_eq!(status["image"], by_name);
    has_event(cluster, "by-name", &format!("Normal Pulling Pulling image \"{by_name}\""));
    let pulled = format!("Normal Pulled Successfully pulled image \"{by_name}\" in ");
    has_event(cluster, "by-name", &pulled);
    let event = events(cluster, "by-name").into_iter().find(|e| e.starts_with(&pulled)).unwrap();
    assert!(event.contains(" including waiting). Image size: "), "{event}");

    let by_digest = format!("127.0.0.1:{port}/x@{one}");
    create(cluster, Wish { name: "by-digest", node: 2, image: by_digest, ..Wish::default() });
    assert_eq!(runs(cluster, "by-digest")["imageID"], format!("127.0.0.1:{port}/x@{one}"));

    // The same tag is another image now.
    let layers = [Layer::new().busybox().bytes(), Layer::new().file("new", 0o644, b"2").bytes()];
    let two = Image::new(&layers, Packing::Zstd, busybox_config());
    registry.push(&two.write_oci(&folder.join("two.tar"), Some("x:1")), "x:1", None);
    create(cluster, Wish { name: "if-not", image: by_name.clone(), ..Wish::default() });
    assert_eq!(runs(cluster, "if-not")["imageID"], format!("localhost:{port}/x@{one}"));
    let present = format!("Normal Pulled Container image \"{by_name}\" already present on machine");
    has_event(cluster, "if-not", &present);
    let wish = Wish { name: "always", image: by_name, policy: "Always", ..Wish::default() };
    create(cluster, wish);
    assert_eq!(runs(cluster, "always")["imageID"], format!("localhost:{port}/x@{}", two.digest));
}

fn commands_that_are_not_there(cluster: &Cluster, port: u16) {
    let x = format!("localhost:{port}/x:1");
    for (name, command, said, explained) in [
        (
            "no-program",
            "serve",
            "exec: \"serve\": executable file not found in $PATH",
            "which is nowhere in the $PATH of image",
        ),
        (
            "no-file",
            "/srv/serve",
            "exec: \"/srv/serve\": stat /srv/serve: no such file or directory",
            "which image localhost:",
        ),
        ("no-file-but-folder", "/bin", "exec: \"/bin\": is a directory", "which is a directory"),
    ] {
        create(cluster, Wish { name, image: x.clone(), command: &[command], ..Wish::default() });
        let message =
            format!("OCI runtime create failed: unable to start container process: {said}");
        let status = becomes(cluster, name, |status| {
            status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        });
        let last = &status["lastState"]["terminated"];
        assert_eq!(last["reason"], "StartError", "{status:#}");
        assert_eq!(last["exitCode"], 128);
        assert_eq!(last["message"], message);
        assert_eq!(last["startedAt"], "1970-01-01T00:00:00Z");
        assert!(status["restartCount"].as_i64().unwrap() > 0, "{status:#}");
        has_event(cluster, name, &format!("Warning Failed Error: {message}"));
        has_event(cluster, name, "Warning BackOff Back-off restarting failed container c in pod");
        why(cluster, &format!("pod/{name}"), &[explained, said, "Correct command and args"]);
    }
}

#[test]
fn hostile_and_broken_images_are_refused_and_leave_nothing() {
    if !is_root("images") {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let bad = bad_images(outside.path());
    let texts: Vec<(&str, String)> =
        bad.iter().map(|(name, _, text)| (*name, text.clone())).collect();
    let mut served: BTreeMap<&'static str, Image> =
        bad.into_iter().map(|(name, image, _)| (name, image)).collect();
    let disk = Layer::new().busybox().raw("disk", tar::EntryType::Block, "", 0);
    // Absolute names are the image's own, as for every other tool.
    let disk = disk.raw("/absolute", tar::EntryType::Regular, "", 0).bytes();
    served.insert("good", Image::new(&[disk], Packing::Gzip, busybox_config()));
    let registry = Anything::start(served);
    let cluster = Cluster::start(1);
    let name = |image: &str| format!("127.0.0.1:{}/{image}:1", registry.port);
    for (pod, _) in &texts {
        create(&cluster, Wish { name: pod, image: name(pod), ..Wish::default() });
    }
    for (pod, text) in &texts {
        let message = waits(&cluster, pod, "ImagePullBackOff");
        assert!(message.contains(text), "{pod}: {message}");
        assert!(message.contains(&name(pod)), "{pod}: {message}");
        why(&cluster, &format!("pod/{pod}"), &[text, "\n"]);
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "it got out");
    assert!(names(&cluster, 1).is_empty());
    for (pod, _) in &texts {
        cluster.kubectl(&["delete", "pod", pod, "--wait=false"]).ok();
    }
    // What broke off is kept for a new try, and nothing else is.
    let left = left_over(&cluster, 1);
    assert!(left.iter().all(|path| path.ends_with(".partial")) && left.len() <= 1, "{left:?}");

    // A device of an image is none, and a good image comes after all the bad ones.
    let command = ["sh", "-c", "cat /absolute && cat /disk; sleep 1000 & wait"];
    create(
        &cluster,
        Wish { name: "good", image: name("good"), command: &command, ..Wish::default() },
    );
    runs(&cluster, "good");
    eventually(SOON, "the device is refused", || {
        let log = cluster.kubectl(&["logs", "good"]).stdout;
        if log.contains("can't open '/disk'") { Ok(()) } else { Err(log) }
    });
}

#[test]
fn archives_are_imported_on_every_node() {
    if !is_root("images") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(3);
    good_archives(&cluster, folder.path());
    bad_archives(&cluster, folder.path());
    node_service(&cluster, folder.path());
}

fn good_archives(cluster: &Cluster, folder: &Path) {
    let text = |path: &Path| path.display().to_string();
    let zstd = busybox(Packing::Zstd);
    let zstd = zstd.write_oci(&folder.join("z.tar"), Some("registry.example/z:1"));
    let said = image(cluster, &["import", &text(&zstd)]).ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[2].starts_with("node-3: registry.example/z:1 ("), "{said}");

    // What another program writes, packed as a whole, through a pipe, on one node.
    let plain = busybox(Packing::Plain).write_oci(&folder.join("p.tar"), Some("p:1"));
    let docker = folder.join("docker.tar");
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "-q", &format!("oci-archive:{}", plain.display())]);
    skopeo.arg(format!("docker-archive:{}:docker.example/d:1", docker.display()));
    run(skopeo, "").ok();
    let packed = folder.join("docker.tar.gz");
    fs::write(&packed, gzip(&fs::read(&docker).unwrap())).unwrap();
    let said = image_with(cluster, &["import", "-", "--node", "node-2"], &packed).ok();
    assert!(
        said.starts_with("node-2: docker.example/d:1 (") && said.lines().count() == 1,
        "{said}"
    );
    assert!(names(cluster, 2).contains(&"docker.example/d:1".to_owned()));
    assert!(!names(cluster, 1).contains(&"docker.example/d:1".to_owned()));

    // A name of one's own, and a document.
    let nameless = busybox(Packing::Plain).write_oci(&folder.join("n.tar"), None);
    let said = image(cluster, &["import", &text(&nameless)]);
    assert!(said.stderr.contains("import it again with --name"), "{said:?}");
    let arguments = ["import", &text(&nameless), "--name", "mine:1", "--output", "json"];
    let said: Value = serde_json::from_str(&image(cluster, &arguments).ok()).unwrap();
    assert_eq!(said["items"][0]["node"], "node-1");
    assert_eq!(said["items"][2]["image"]["tags"], json!(["docker.io/library/mine:1"]));

    let never = "Never";
    let wish = Wish { name: "mine", image: "mine:1".into(), policy: never, ..Wish::default() };
    create(cluster, wish);
    runs(cluster, "mine");
    // Neither images nor what pods hold is for the host's users.
    for folder in ["images", "pods"] {
        let folder = cluster.dir.join("node-1").join(folder);
        let mode = fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
    }
    let listed = image(cluster, &["list"]).ok();
    assert!(listed.starts_with("NODE     IMAGE"), "{listed}");
    // Its files stay with who runs.
    assert_eq!(image(cluster, &["rm", "mine:1", "registry.example/z:1"]).code, 0);
    cluster.kubectl(&["exec", "mine", "--", "cat", "/bin/busybox"]).ok();
    let said = image(cluster, &["rm", "docker.example/d:1", "mine:1"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, "node-2: removed docker.example/d:1\n"));
    assert!(said.stderr.contains("no node has an image mine:1"), "{said:?}");
    cluster.kubectl(&["delete", "pod", "mine"]).ok();
}

fn bad_archives(cluster: &Cluster, folder: &Path) {
    let good = busybox(Packing::Gzip);
    let path = good.write_oci(&folder.join("good.tar"), Some("good:1"));
    let bytes = fs::read(&path).unwrap();
    let mut spoilt = busybox(Packing::Gzip);
    let manifest = spoilt.digest.clone();
    spoilt.blobs.get_mut(&manifest).unwrap().push(b' ');
    // No layer of this digest is there yet: it has to be read.
    let layers = [Layer::new().busybox().file("more", 0o644, b"x").bytes()];
    let mut forged = Image::new(&layers, Packing::Plain, busybox_config());
    let layer = forged.layers[0].clone();
    let middle = forged.blobs[&layer].len() / 2;
    forged.blobs.get_mut(&layer).unwrap()[middle] ^= 1;
    let dots = Layer::new().raw("../../evil", tar::EntryType::Regular, "", 0).bytes();
    let dots = Image::new(&[dots], Packing::Gzip, busybox_config());
    let layers = [Layer::new().busybox().bytes()];
    let other = Image::for_machine("s390x", &layers, Packing::Gzip, busybox_config());
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    write("cut.tar", &bytes[..bytes.len() / 2]);
    write("cut.tar.gz", &gzip(&bytes)[..100_000]);
    write("text.tar", b"this is no archive at all, it only says so, and for long enough");
    write("empty.tar", b"");
    write("any.tar", &Layer::new().file("a", 0o644, b"b").bytes());
    write("packed.tar.xz", b"\xfd7zXZ\x00rest");
    spoilt.write_oci(&folder.join("spoilt.tar"), Some("bad:1"));
    forged.write_oci(&folder.join("forged.tar"), Some("bad:1"));
    dots.write_oci(&folder.join("dots.tar"), Some("bad:1"));
    other.write_oci(&folder.join("other.tar"), Some("bad:1"));
    let before = (names(cluster, 1), layer_count(cluster));
    for (file, text) in [
        ("nosuch.tar", "No such file or directory"),
        ("cut.tar", "it was cut: it ends in the middle of blobs/sha256/"),
        ("cut.tar.gz", "it is compressed, and damaged or cut"),
        ("text.tar", "it is no tar archive, or a damaged one"),
        ("empty.tar", "it is empty"),
        ("any.tar", "it holds neither index.json nor manifest.json"),
        ("packed.tar.xz", "it is compressed with xz or bzip2; unpack it first"),
        ("spoilt.tar", "has digest sha256:"),
        ("forged.tar", "an unpacked layer has digest sha256:"),
        ("dots.tar", "../../evil leads out of the image"),
        ("other.tar", "has no variant for linux/amd64, only for linux/s390x"),
        ("", "it is a directory"),
    ] {
        let path = folder.join(file).display().to_string();
        let said = image(cluster, &["import", &path]);
        assert_eq!(said.code, 1, "{file}: {said:?}");
        assert!(said.stderr.contains(text), "{file}: {}", said.stderr);
        assert!(said.stderr.contains(&path), "{file}: {}", said.stderr);
        assert_eq!(said.stderr.lines().count(), 1, "{file}: {}", said.stderr);
    }
    assert_eq!(before, (names(cluster, 1), layer_count(cluster)), "nothing has changed");
    nothing_left(cluster, 3);
    assert!(!folder.parent().unwrap().join("evil").exists());
}

fn layer_count(cluster: &Cluster) -> usize {
    fs::read_dir(cluster.dir.join("node-1/images/layers")).unwrap().count()
}

/// The manifest that everybody copies: an interactive program without a terminal.
fn node_service(cluster: &Cluster, folder: &Path) {
    let config = json!({
        "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["node"],
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "NODE_VERSION=18"],
    });
    let node = Image::new(&[archive::node_layer()], Packing::Gzip, config);
    let path = node.write_oci(&folder.join("node.tar"), Some("docker.io/library/node:18-alpine"));
    let said = image(cluster, &["import", &path.display().to_string()]).ok();
    assert!(said.starts_with("node-1: docker.io/library/node:18-alpine ("), "{said}");
    let manifest = workspace().join("examples/node-service.yaml");
    let manifest = manifest.to_str().unwrap();
    cluster.kubectl(&["apply", "-f", manifest]).ok();
    eventually(SOON, "five pods in CrashLoopBackOff", || {
        let pods = cluster.json(&["pods", "-l", "app=node-service"]);
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        let crashing = items.iter().filter(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
                && status["lastState"]["terminated"]["exitCode"] == 0
                && status["lastState"]["terminated"]["reason"] == "Completed"
        });
        match crashing.count() {
            5 => Ok(()),
            count => Err(format!("{count} of {}\n{}", items.len(), cluster.logs())),
        }
    });
    let said = cluster.atoll(&["why", "deployment/node-service"]).ok();
    assert_eq!(
        said,
        "deployment/node-service is CrashLoopBackOff: container node does nothing: the manifest \
         gives it no command, and the default command of node:18-alpine ends at once with code \
         0, as interactive programs (a shell, node, python) do without a terminal.\n\
         Add to spec.template.spec.containers[0] the line with what it is to run, such as: \
         command: [\"node\", \"server.js\"]\n"
    );
    let server = "require('http').createServer((q, r) => r.end('node answers\\n')).listen(3000)";
    let patch = json!({ "spec": { "template": { "spec": { "containers": [{
        "name": "node", "command": ["node", "-e", server],
        "readinessProbe": { "httpGet": { "path": "/", "port": 3000 }, "periodSeconds": 1 },
    }] } } } });
    let patch = patch.to_string();
    cluster.kubectl(&["patch", "deployment", "node-service", "-p", &patch]).ok();
    let pods = cluster.pods_ready("app=node-service", 5, SOON);
    let address = pods[0]["status"]["podIP"].as_str().unwrap();
    let address = format!("{address}:3000").parse().unwrap();
    assert_eq!(atoll_e2e::http::get(address, "/").unwrap(), "node answers\n");
    // And they stay.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let pods = cluster.json(&["pods", "-l", "app=node-service"]);
        let pods = pods["items"].as_array().unwrap().clone();
        assert!(pods.len() == 5 && pods.iter().all(is_ready), "{pods:#?}");
    }
    assert_eq!(
        cluster.atoll(&["why", "deployment/node-service"]).ok(),
        "deployment/node-service is well.\n"
    );
}

#[test]
fn a_full_disk_is_told_and_a_larger_one_is_used() {
    if !is_root("images") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("data/node-1/images");
    let registry = Registry::start(folder.path(), None);
    let path = busybox(Packing::Gzip).write_oci(&folder.path().join("x.tar"), Some("x:1"));
    registry.push(&path, "x:1", None);
    // Declared first, so that the cluster is gone before its disk.
    let disk = Disk::mount(&images, "1500k");
    let mut cluster = Cluster::start_in(&folder.path().join("data"), 1);
    let x = format!("localhost:{}/x:1", registry.port);
    create(&cluster, Wish { name: "full", image: x.clone(), ..Wish::default() });
    let message = waits(&cluster, "full", "ImagePullBackOff");
    let told = format!("no space is left for {}", images.display());
    assert!(message.contains(&told), "{message}");
    why(&cluster, "pod/full", &[&told, "Free some", "`atoll image rm`"]);
    let said = image(&cluster, &["import", &path.display().to_string()]).fails();
    assert!(said.contains(&told), "{said}");
    nothing_left(&cluster, 1);
    assert_eq!(layer_count(&cluster), 0);
    disk.grow("64m");
    runs(&cluster, "full");
    cluster.kubectl(&["delete", "pod", "full"]).ok();
    cluster.stop();
}
