//! `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname` of a pod. The texts are pure.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::pod::identity::uses_host_network;

const HOSTNAME_BYTES_MAX: usize = 63;
const NAMESERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;

/// Names by which a pod knows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub hostname: String,
    /// Only with a subdomain.
    pub fqdn: Option<String>,
}

#[must_use]
pub fn names(pod: &Pod, node_name: &str, cluster_domain: &str) -> Names {
    let spec = pod.spec.as_ref();
    if uses_host_network(pod) {
        return Names { hostname: node_name.to_owned(), fqdn: None };
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let wanted = spec.and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty()).unwrap_or(name);
    let cut = &wanted[..wanted.len().min(HOSTNAME_BYTES_MAX)];
    let hostname = cut.trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let subdomain = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
    let fqdn = subdomain.map(|sub| format!("{hostname}.{sub}.{namespace}.svc.{cluster_domain}"));
    let as_fqdn = spec.and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    match &fqdn {
        Some(full) if as_fqdn => Names { hostname: full.clone(), fqdn },
        _ => Names { hostname, fqdn },
    }
}

/// `node_hosts` is the node's own file, shown to pods on the host network.
#[must_use]
pub fn hosts(pod: &Pod, names: &Names, ip: Option<&str>, node_hosts: &str) -> String {
    let mut text = String::new();
    if uses_host_network(pod) {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(node_hosts);
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost \
             ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let ip = ip.unwrap_or("127.0.1.1");
        text.push_str(&match &names.fqdn {
            Some(fqdn) => {
                let short = names.hostname.split('.').next().unwrap_or(&names.hostname);
                format!("{ip}\t{fqdn}\t{short}\n")
            }
            None => format!("{ip}\t{}\n", names.hostname),
        });
    }
    let aliases: Vec<&HostAlias> =
        pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()).collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.extend([alias.ip.as_str(), "\t", &names, "\n"]);
        }
    }
    text
}

/// What the pod's resolver is told; without cluster DNS, what the node's is told.
#[must_use]
pub fn resolv_conf(
    pod: &Pod,
    cluster_dns: Option<IpAddr>,
    cluster_domain: &str,
    node_resolv_conf: &str,
) -> String {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let node = parse(node_resolv_conf);
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !uses_host_network(pod),
        _ => false,
    };
    let mut conf = if let Some(cluster_dns) = cluster_dns.filter(|_| cluster) {
        let mut searches = vec![
            format!("{namespace}.svc.{cluster_domain}"),
            format!("svc.{cluster_domain}"),
            cluster_domain.to_owned(),
        ];
        searches.extend(node.searches);
        Resolver {
            nameservers: vec![cluster_dns.to_string()],
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    } else if policy == "None" {
        Resolver::default()
    } else {
        node
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        conf.nameservers.extend(own.nameservers.iter().flatten().cloned());
        conf.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            conf.options.retain(|known| known.split(':').next() != Some(&name));
            conf.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            });
        }
    }
    conf.render()
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

fn parse(text: &str) -> Resolver {
    let mut found = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => found.nameservers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => found.searches = words.map(str::to_owned).collect(),
            Some("options") => found.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    found
}

impl Resolver {
    fn render(mut self) -> String {
        dedup(&mut self.nameservers);
        dedup(&mut self.searches);
        self.nameservers.truncate(NAMESERVERS_MAX);
        self.searches.truncate(SEARCH_MAX);
        while self.searches.join(" ").len() > SEARCH_CHARS_MAX {
            self.searches.pop();
        }
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.extend(["search ", &self.searches.join(" "), "\n"]);
        }
        for server in &self.nameservers {
            text.extend(["nameserver ", server, "\n"]);
        }
        if !self.options.is_empty() {
            text.extend(["options ", &self.options.join(" "), "\n"]);
        }
        text
    }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// The files of one pod, in its own folder.
#[derive(Debug, Clone)]
pub struct PodFiles {
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
    pub hostname: PathBuf,
}

impl PodFiles {
    #[must_use]
    pub fn of(pod_dir: &Path) -> PodFiles {
        PodFiles {
            hosts: pod_dir.join("etc-hosts"),
            resolv_conf: pod_dir.join("resolv.conf"),
            hostname: pod_dir.join("hostname"),
        }
    }
}

/// A file that is written again only when it differs: containers have it mounted, so it
/// keeps its inode.
pub fn write_if_changed(path: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(path, text)
}

/// The end of a file, however large it is: a container may have written it.
pub fn last_bytes(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "files/tests.rs"]
mod tests;
