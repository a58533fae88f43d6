//! Images and what registries say.

use std::io::Write as _;

use atoll_image::Reference;
use atoll_image::fuzz;

use super::machine::scratch;
use super::texts;
use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target { name: "image_reference", run: reference, seeds: reference_seeds },
    Target { name: "image_manifest", run: fuzz::manifest, seeds: manifest_seeds },
    Target { name: "image_layer", run: layer, seeds: layer_seeds },
    Target { name: "image_archive", run: archive, seeds: archive_seeds },
    Target { name: "registry_refusal", run: fuzz::refusal, seeds: refusal_seeds },
];

fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert!(reference.to_string().parse::<Reference>().is_ok_and(|again| again == reference));
    std::hint::black_box((reference.registry_host(), reference.name(), reference.version()));
}

fn reference_seeds() -> Vec<Vec<u8>> {
    let digest = format!("node@sha256:{}", "0a".repeat(32));
    texts(&[
        "node:18-alpine",
        "localhost:5000/a/b:c",
        "[::1]:5000/a",
        &digest,
        "docker.io/library/x",
    ])
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "0a".repeat(32));
    texts(&[
        &format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"m","digest":"{digest}","size":2}},
            "layers":[{{"digest":"{digest}","size":3}}]}}"#
        ),
        &format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":2,
            "platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
        ),
        &format!(
            r#"{{"config":{{"Env":["A=b"],"Cmd":["x"],"ExposedPorts":{{"80/tcp":{{}}}}}},
            "rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"os":"linux"}}"#
        ),
    ])
}

fn layer(input: &[u8]) {
    let Ok(folder) = tempfile::tempdir_in(scratch()) else { return };
    fuzz::layer(input, folder.path());
    drop(folder);
    let Ok(folder) = tempfile::tempdir_in(scratch()) else { return };
    fuzz::compressed_layer(input, folder.path());
}

fn add(
    builder: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    name: &str,
    link: &str,
    content: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    let added = if link.is_empty() {
        builder.append_data(&mut header, name, content)
    } else {
        builder.append_link(&mut header, name, link)
    };
    // A seed that cannot be made is a seed fewer.
    drop(added);
}

fn layer_seeds() -> Vec<Vec<u8>> {
    use tar::EntryType as Kind;
    let mut builder = tar::Builder::new(Vec::new());
    add(&mut builder, Kind::Directory, "etc", "", b"");
    add(&mut builder, Kind::Regular, "etc/passwd", "", b"root:x:0:0::/:/bin/sh\n");
    add(&mut builder, Kind::Symlink, "lib", "usr/lib", b"");
    add(&mut builder, Kind::Symlink, "up", "../../..", b"");
    add(&mut builder, Kind::Regular, "up/escaped", "", b"x");
    add(&mut builder, Kind::Link, "etc/shadow", "etc/passwd", b"");
    add(&mut builder, Kind::Fifo, "pipe", "", b"");
    add(&mut builder, Kind::Regular, "etc/.wh.gone", "", b"");
    add(&mut builder, Kind::Regular, ".wh..wh..opq", "", b"");
    add(&mut builder, Kind::Regular, &format!("long/{}", "n".repeat(150)), "", b"y");
    let plain = builder.into_inner().unwrap_or_default();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let zipped = encoder.write_all(&plain).and_then(|()| encoder.finish()).unwrap_or_default();
    vec![plain, zipped]
}

fn archive(input: &[u8]) {
    let Ok(folder) = tempfile::tempdir_in(scratch()) else { return };
    let file = folder.path().join("archive.tar");
    if std::fs::write(&file, input).is_ok() {
        fuzz::archive(&file, folder.path());
    }
}

fn archive_seeds() -> Vec<Vec<u8>> {
    use tar::EntryType::Regular;
    let digest = "0a".repeat(32);
    let mut docker = tar::Builder::new(Vec::new());
    let manifest = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l/layer.tar"]}]"#;
    let config = format!(
        r#"{{"config":{{}},"rootfs":{{"diff_ids":["sha256:{digest}"]}},"os":"linux","architecture":"amd64"}}"#
    );
    add(&mut docker, Regular, "manifest.json", "", manifest.as_bytes());
    add(&mut docker, Regular, "c.json", "", config.as_bytes());
    add(&mut docker, Regular, "l/layer.tar", "", &layer_seeds()[0]);
    let mut oci = tar::Builder::new(Vec::new());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:{digest}","size":2,
        "annotations":{{"org.opencontainers.image.ref.name":"a:1"}}}}]}}"#
    );
    add(&mut oci, Regular, "oci-layout", "", br#"{"imageLayoutVersion":"1.0.0"}"#);
    add(&mut oci, Regular, "index.json", "", index.as_bytes());
    add(&mut oci, Regular, &format!("blobs/sha256/{digest}"), "", b"{}");
    [docker, oci].into_iter().map(|one| one.into_inner().unwrap_or_default()).collect()
}

fn refusal_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#,
        r#"Basic realm="x""#,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
        r#"{"token":"a","access_token":"b"}"#,
    ])
}
