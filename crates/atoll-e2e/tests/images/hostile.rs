//! Images that are to be refused, with what is to be said of each.

use std::path::Path;

use crate::archive::{Image, Layer, Packing, busybox, busybox_config};

/// What a hostile or broken registry gives out, and what it is refused with.
pub(crate) fn bad_images(outside: &Path) -> Vec<(&'static str, Image, String)> {
    let outside = outside.display().to_string();
    let of = |layer: Layer| Image::new(&[layer.bytes()], Packing::Gzip, busybox_config());
    let link = tar::EntryType::Link;
    let file = tar::EntryType::Regular;
    let mut lie = busybox(Packing::Gzip);
    let layer = lie.layers[0].clone();
    lie.blobs.get_mut(&layer).unwrap()[1000] ^= 1;
    let mut cut = busybox(Packing::Gzip);
    let layer = cut.layers[0].clone();
    cut.blobs.get_mut(&layer).unwrap().truncate(1000);
    let layers = [Layer::new().busybox().bytes()];
    let other = Image::for_machine("s390x", &layers, Packing::Gzip, busybox_config());
    vec![
        ("lie", lie, "a layer has digest sha256:".to_owned()),
        ("cut", cut, "ended after 1000 of ".to_owned()),
        ("other", other, "has no variant for linux/amd64, only for linux/s390x".to_owned()),
        (
            "dots",
            of(Layer::new().raw("a/../../evil", file, "", 0)),
            "a/../../evil leads out of the image".to_owned(),
        ),
        (
            "symlink",
            of(Layer::new().symlink("out", &outside).file("out/evil", 0o644, b"x")),
            "out is used as a directory and is none".to_owned(),
        ),
        (
            "hardlink",
            of(Layer::new().raw("mine", link, "/etc/shadow", 0)),
            "mine is a hard link to /etc/shadow, which is not in the layer".to_owned(),
        ),
        (
            "hardlink-dots",
            of(Layer::new().raw("mine", link, "../../../etc/shadow", 0)),
            "leads out of the image".to_owned(),
        ),
        (
            // It says so before the first byte.
            "bomb",
            of(Layer::new().raw("zeroes", file, "", 40 << 30)),
            "unpacks to more than the limit allows".to_owned(),
        ),
    ]
}
