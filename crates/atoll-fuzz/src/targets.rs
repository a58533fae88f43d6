//! The table.

mod api;
mod cel;
mod files;
mod identity;
mod image;
mod machine;
mod outside;
mod schemas;
mod stream;

use crate::Target;

pub(crate) fn all() -> Vec<Target> {
    [
        api::TARGETS,
        cel::TARGETS,
        files::TARGETS,
        identity::TARGETS,
        image::TARGETS,
        machine::TARGETS,
        outside::TARGETS,
        schemas::TARGETS,
        stream::TARGETS,
    ]
    .concat()
}

fn texts(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The parts of an input between zero bytes, `N` of them; the last takes the rest.
fn parts<const N: usize>(input: &[u8]) -> Option<[&[u8]; N]> {
    let mut found = [&[] as &[u8]; N];
    let mut rest = input.splitn(N, |byte| *byte == 0);
    for part in &mut found {
        *part = rest.next()?;
    }
    Some(found)
}
