//! Volumes of pods: one source each, paths that stay inside, known names.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{csr, env, faults, label_selector, storage};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::amount;
use crate::names;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// Checks the volumes; gives those whose definition holds, for the mounts to refer to.
pub(crate) fn volumes<'a>(
    at: &Path,
    volumes: &'a [Value],
    pod_name: &str,
    errors: &mut Vec<Error>,
) -> Vec<&'a Value> {
    let mut seen = BTreeSet::new();
    let mut valid = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let at = at.index(index);
        let name = volume.text("name");
        let mut wrong = Vec::new();
        source(&at, volume, pod_name, &mut wrong);
        if name.is_empty() {
            wrong.push(at.child("name").required(""));
        } else {
            faults(&at.child("name"), name, names::dns1123_label(name), &mut wrong);
        }
        if seen.contains(name) {
            wrong.push(at.child("name").duplicate(name));
        }
        if wrong.is_empty() {
            seen.insert(name);
            valid.push(volume);
        }
        errors.append(&mut wrong);
    }
    valid
}

/// A path inside a volume: relative, without `..`.
pub(crate) fn local_path(at: &Path, path: &str, errors: &mut Vec<Error>) {
    descending_path(at, path, errors);
    if path.starts_with("..") && !path.starts_with("../") {
        errors.push(at.invalid(path, "must not start with '..'"));
    }
}

pub(crate) fn descending_path(at: &Path, path: &str, errors: &mut Vec<Error>) {
    if path.starts_with('/') {
        errors.push(at.invalid(path, "must be a relative path"));
    }
    no_backsteps(at, path, errors);
}

pub(crate) fn no_backsteps(at: &Path, path: &str, errors: &mut Vec<Error>) {
    if path.split('/').any(|part| part == "..") {
        errors.push(at.invalid(path, "must not contain '..'"));
    }
}

/// The permissions of a file.
pub(crate) fn mode(at: &Path, mode: Option<i64>, errors: &mut Vec<Error>) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        errors.push(at.invalid(mode, MODE));
    }
}

fn source(at: &Path, volume: &Value, pod_name: &str, errors: &mut Vec<Error>) {
    let mut found = 0;
    for (kind, source) in volume.as_object().into_iter().flatten() {
        if kind == "name" || source.is_null() {
            continue;
        }
        found += 1;
        let at = at.child(kind);
        if found > 1 {
            errors.push(at.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        one_source(&at, kind, source, errors);
        if kind == "ephemeral" && !pod_name.is_empty() {
            let claim = format!("{pod_name}-{}", volume.text("name"));
            if claim.len() > names::SUBDOMAIN_LENGTH_MAX {
                let text = format!(
                    "PVC name {}: {}",
                    crate::field::quote(&claim),
                    names::max_length(names::SUBDOMAIN_LENGTH_MAX)
                );
                errors.push(at.child("name").invalid(volume.text("name"), text));
            }
        }
    }
    if found == 0 {
        errors.push(at.required("must specify a volume type"));
    }
}

fn one_source(at: &Path, kind: &str, source: &Value, errors: &mut Vec<Error>) {
    let require = |field: &str, errors: &mut Vec<Error>| {
        if source.text(field).is_empty() {
            errors.push(at.child(field).required(""));
        }
    };
    match kind {
        "emptyDir" => {
            let negative = source
                .opt_text("sizeLimit")
                .is_some_and(|limit| amount::parse(limit).is_none_or(|limit| limit < 0));
            if negative {
                let text = "SizeLimit field must be a valid resource quantity";
                errors.push(at.child("sizeLimit").forbidden(text));
            }
        }
        "hostPath" => host_path(at, source, errors),
        "secret" => {
            require("secretName", errors);
            mode(&at.child("defaultMode"), source.int("defaultMode"), errors);
            key_paths(&at.child("items"), source.items("items"), errors);
        }
        "configMap" => {
            require("name", errors);
            mode(&at.child("defaultMode"), source.int("defaultMode"), errors);
            key_paths(&at.child("items"), source.items("items"), errors);
        }
        "downwardAPI" => {
            mode(&at.child("defaultMode"), source.int("defaultMode"), errors);
            // Upstream does not say which item.
            source.items("items").iter().for_each(|file| env::downward_file(at, file, errors));
        }
        "projected" => projected(at, source, errors),
        "persistentVolumeClaim" => require("claimName", errors),
        "csi" => require("driver", errors),
        "nfs" => {
            require("server", errors);
            require("path", errors);
            let path = source.text("path");
            if !path.starts_with('/') {
                errors.push(at.child("path").invalid(path, "must be an absolute path"));
            }
        }
        "iscsi" => {
            require("targetPortal", errors);
            require("iqn", errors);
        }
        "image" => require("reference", errors),
        "ephemeral" => {
            let (at, template) = (at.child("volumeClaimTemplate"), &source["volumeClaimTemplate"]);
            if template.is_null() {
                errors.push(at.required(""));
            } else {
                storage::claim_spec(&at.child("spec"), &template["spec"], errors);
            }
        }
        _ => {}
    }
}

pub(crate) fn host_path(at: &Path, source: &Value, errors: &mut Vec<Error>) {
    let path = source.text("path");
    if path.is_empty() {
        errors.push(at.child("path").required(""));
        return;
    }
    no_backsteps(&at.child("path"), path, errors);
    if let Some(kind) = source.opt_text("type")
        && !HOST_PATH_TYPES.contains(&kind)
    {
        errors.push(at.child("type").not_supported(kind, &HOST_PATH_TYPES));
    }
}

fn key_paths(at: &Path, items: &[Value], errors: &mut Vec<Error>) {
    for (index, item) in items.iter().enumerate() {
        key_path(&at.index(index), item, errors);
    }
}

fn key_path(at: &Path, item: &Value, errors: &mut Vec<Error>) {
    for field in ["key", "path"] {
        if item.text(field).is_empty() {
            errors.push(at.child(field).required(""));
        }
    }
    local_path(&at.child("path"), item.text("path"), errors);
    mode(&at.child("mode"), item.int("mode"), errors);
}

fn projected(at: &Path, source: &Value, errors: &mut Vec<Error>) {
    mode(&at.child("defaultMode"), source.int("defaultMode"), errors);
    let mut paths = BTreeSet::new();
    for (index, projection) in source.items("sources").iter().enumerate() {
        let source_at = at.child("sources").index(index);
        let kinds: Vec<&String> = projection
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| !value.is_null())
            .map(|(kind, _)| kind)
            .collect();
        for kind in &kinds {
            let each = Projection { at, kind, from: &projection[kind.as_str()] };
            each.check(&source_at.child(kind), &mut paths, errors);
        }
        if kinds.len() > 1 {
            let text = "may not specify more than 1 volume type per source";
            errors.push(source_at.forbidden(text));
        }
    }
}

/// One source of a projected volume; `at` is the volume's own place.
struct Projection<'a> {
    at: &'a Path,
    kind: &'a str,
    from: &'a Value,
}

impl<'a> Projection<'a> {
    fn check(&self, own_at: &Path, paths: &mut BTreeSet<&'a str>, errors: &mut Vec<Error>) {
        match self.kind {
            "secret" | "configMap" => {
                let name = self.from.text("name");
                if name.is_empty() {
                    errors.push(own_at.child("name").required(""));
                }
                for (index, item) in self.from.items("items").iter().enumerate() {
                    key_path(&own_at.child("items").index(index), item, errors);
                    self.unique(item.text("path"), name, paths, errors);
                }
            }
            "downwardAPI" => {
                for file in self.from.items("items") {
                    env::downward_file(own_at, file, errors);
                    self.unique(file.text("path"), file.text("path"), paths, errors);
                }
            }
            "serviceAccountToken" => self.token(own_at, errors),
            "clusterTrustBundle" => {
                self.trust_bundle(own_at, errors);
                self.unique(self.from.text("path"), self.from.text("path"), paths, errors);
            }
            "podCertificate" => {
                let signer = self.from.text("signerName");
                csr::signer_name(&own_at.child("signerName"), signer, errors);
            }
            _ => {}
        }
    }

    fn unique(
        &self,
        path: &'a str,
        shown: &str,
        paths: &mut BTreeSet<&'a str>,
        errors: &mut Vec<Error>,
    ) {
        if !path.is_empty() && !paths.insert(path) {
            errors.push(self.at.invalid(shown, "conflicting duplicate paths"));
        }
    }

    fn token(&self, own_at: &Path, errors: &mut Vec<Error>) {
        let at = own_at.child("expirationSeconds");
        let seconds = self.from.int("expirationSeconds").unwrap_or(0);
        if seconds < TOKEN_SECONDS_MIN {
            let text = "may not specify a duration less than 10 minutes";
            errors.push(at.invalid(seconds, text));
        }
        if seconds > TOKEN_SECONDS_MAX {
            let text = "may not specify a duration larger than 2^32 seconds";
            errors.push(at.invalid(seconds, text));
        }
        let path_at = self.at.child("path");
        match self.from.text("path") {
            "" => errors.push(path_at.required("")),
            path => local_path(&path_at, path, errors),
        }
    }

    fn trust_bundle(&self, own_at: &Path, errors: &mut Vec<Error>) {
        let (name, signer) = (self.from.has("name"), self.from.has("signerName"));
        if name && signer {
            let text = "only one of name and signerName may be used";
            errors.push(own_at.invalid(self.from.clone(), text));
        } else if !name && !signer {
            errors.push(own_at.required("either name or signerName must be specified"));
        } else if signer {
            let signer = self.from.text("signerName");
            csr::signer_name(&own_at.child("signerName"), signer, errors);
            let selector = &self.from["labelSelector"];
            label_selector(&own_at.child("labelSelector"), selector, errors);
        }
        let path = self.from.text("path");
        if path.is_empty() {
            errors.push(own_at.child("path").required(""));
        }
        local_path(&own_at.child("path"), path, errors);
    }
}
