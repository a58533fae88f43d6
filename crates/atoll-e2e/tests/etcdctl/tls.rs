//! Who is served over TLS, by the certificate that `etcdctl` shows; and that nothing is plain
//! beyond this machine.

use crate::servers::{Release, Served, start_ours_with};
use atoll_e2e::{
    Cluster, Output,
    cluster::{binary, free_port, run},
    eventually, is_root,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// A certificate and its key, as files.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn write(folder: &Path, name: &str, certificate: &str, key: &str) -> Self {
        let pair = Self::named(folder, name);
        std::fs::write(&pair.certificate, certificate).unwrap();
        std::fs::write(&pair.key, key).unwrap();
        pair
    }

    fn named(folder: &Path, name: &str) -> Self {
        Self {
            certificate: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        }
    }

    fn authority(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self::write(folder, name, &certificate.pem(), &key.serialize_pem())
    }

    /// For this machine's loopback and for clients, signed by this authority.
    fn sign(&self, folder: &Path, name: &str) -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let authority = KeyPair::from_pem(&read(&self.key)).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read(&self.certificate), authority).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        params.distinguished_name.push(DnType::CommonName, "system:admin");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self::write(folder, name, &certificate.pem(), &key.serialize_pem())
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

struct Secured {
    etcdctl: PathBuf,
    served: Served,
    clients: Pair,
    certificates: PathBuf,
}

impl Secured {
    fn start() -> Option<Self> {
        let etcdctl = Release::Distro35.programs()?.etcdctl;
        let folder = tempfile::Builder::new().prefix("atoll-etcd-").tempdir().unwrap();
        let certificates = folder.path().join("certificates");
        std::fs::create_dir(&certificates).unwrap();
        let servers = Pair::authority(&certificates, "servers");
        let clients = Pair::authority(&certificates, "clients");
        let own = servers.sign(&certificates, "server");
        let flags = [
            ("--etcd-cert", &own.certificate),
            ("--etcd-key", &own.key),
            ("--etcd-client-ca", &clients.certificate),
        ];
        let flags: Vec<_> =
            flags.iter().flat_map(|(flag, path)| [(*flag).to_owned(), text(path)]).collect();
        let served = start_ours_with(folder, &flags);
        Some(Self { etcdctl, served, clients, certificates })
    }

    /// `put` as a client that trusts `trusted` and shows a certificate, or none.
    fn put(&self, scheme: &str, trusted: &str, shown: Option<&Pair>) -> Output {
        let mut command = Command::new(&self.etcdctl);
        command.env("ETCDCTL_API", "3").args(["--command-timeout=5s", "--dial-timeout=2s"]);
        command.arg(format!("--endpoints={scheme}://{}", self.served.endpoint));
        if scheme == "https" {
            let trusted = Pair::named(&self.certificates, trusted);
            command.arg(format!("--cacert={}", text(&trusted.certificate)));
        }
        if let Some(shown) = shown {
            command.arg(format!("--cert={}", text(&shown.certificate)));
            command.arg(format!("--key={}", text(&shown.key)));
        }
        command.args(["put", "a", "1"]);
        run(command, "")
    }
}

#[test]
fn who_shows_a_certificate_of_the_clients_authority_is_served_and_nobody_else() {
    let Some(secured) = Secured::start() else { return };
    let folder = &secured.certificates;
    let right = secured.clients.sign(folder, "right");
    assert_eq!(secured.put("https", "servers", Some(&right)).ok().trim(), "OK");
    secured.put("https", "servers", None).fails();
    // One who trusts another authority does not take the server for the one it wants.
    secured.put("https", "clients", Some(&right)).fails();
    secured.put("http", "servers", None).fails();

    let stranger = Pair::authority(folder, "stranger").sign(folder, "strange");
    secured.put("https", "servers", Some(&stranger)).fails();
    // The one that signed the server's own certificate signs no clients.
    let other = Pair::named(folder, "servers").sign(folder, "other");
    secured.put("https", "servers", Some(&other)).fails();
    // And none of the cluster's own authorities does.
    let keys = secured.served.folder.path().join("server/keys");
    for name in ["client-ca", "serving-ca", "kubelet-ca"] {
        let shown = Pair::named(&keys, name).sign(folder, name);
        secured.put("https", "servers", Some(&shown)).fails();
    }
    // A certificate for the etcd API opens nothing else.
    let mut command = Command::new("curl");
    command.args(["--silent", "--insecure", "--write-out", "\n%{http_code}"]);
    command.args(["--cert", &text(&right.certificate), "--key", &text(&right.key)]);
    command.arg(format!("https://127.0.0.1:{}/api/v1/namespaces", secured.served.api));
    let code = run(command, "").stdout.lines().last().unwrap_or_default().to_owned();
    assert!(["000", "401", "403"].contains(&code.as_str()), "{code}");
    // After all that the right one is served as before.
    secured.put("https", "servers", Some(&right)).ok();
    // The server's own is renewed while it runs. Half a pair is not shown, and the whole one from
    // the next connection on.
    let renewed = Pair::authority(folder, "renewers").sign(folder, "renewed");
    let own = Pair::named(folder, "server");
    std::fs::rename(&renewed.key, &own.key).unwrap();
    secured.put("https", "servers", Some(&right)).ok();
    std::fs::rename(&renewed.certificate, &own.certificate).unwrap();
    secured.put("https", "renewers", Some(&right)).ok();
    secured.put("https", "servers", Some(&right)).fails();
}

#[test]
fn nothing_is_plain_beyond_this_machine() {
    let folder = tempfile::Builder::new().prefix("atoll-etcd-").tempdir().unwrap();
    for part in ["server", "dev"] {
        let mut command = Command::new(binary());
        command.arg(part).arg("--data-dir").arg(folder.path().join(part));
        command.args(["--etcd-listen", &format!("0.0.0.0:{}", free_port())]);
        let port = free_port().to_string();
        match part {
            "server" => command.args(["--listen", &format!("127.0.0.1:{port}")]),
            _ => command.args(["--port", &port]),
        };
        let refused = run(command, "").fails();
        assert!(refused.contains("--etcd-cert"), "{part}: {refused}");
    }
}

#[test]
fn a_development_cluster_has_it_on_the_loopback() {
    let Some(programs) = Release::Distro35.programs() else { return };
    if !is_root("etcdctl") {
        return;
    }
    let port = free_port();
    let endpoint = format!("127.0.0.1:{port}");
    let script = format!("exec \"$@\" --etcd-listen {endpoint}");
    let mut cluster = Cluster::start_servers_under(&["sh", "-c", &script, "sh"], 3, 3);
    let etcdctl = |arguments: &[&str]| {
        let mut command = Command::new(&programs.etcdctl);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]).args(arguments);
        run(command, "")
    };
    assert_eq!(etcdctl(&["put", "a", "1"]).ok().trim(), "OK");
    assert_eq!(etcdctl(&["get", "a", "--print-value-only"]).ok().trim(), "1");
    // The applications' keys alone, and where to reach each server as its clients see it.
    assert_eq!(etcdctl(&["get", "", "--prefix", "--keys-only"]).ok().trim(), "a");
    eventually(Duration::from_secs(10), "every server has said where it is", || {
        let members = etcdctl(&["member", "list"]).ok();
        let own = |last: u8| members.contains(&format!("http://127.0.0.{last}:{port},"));
        if (2..=4).all(own) { Ok(()) } else { Err(members) }
    });
    etcdctl(&["endpoint", "health", "--cluster"]).ok();
    let status = etcdctl(&["endpoint", "status", "--cluster", "-w", "json"]).ok();
    let status: Value = serde_json::from_str(&status).unwrap();
    let id = |one: &Value| one["Status"]["header"]["member_id"].as_u64();
    let answered: BTreeSet<_> = status.as_array().unwrap().iter().map(id).collect();
    assert_eq!(answered.len(), 3, "one server answers for another: {status}");
    let found = etcdctl(&["check", "datascale", "--load=s"]);
    assert!(found.stdout.contains("PASS") || found.stderr.contains("PASS"), "{found:?}");
    cluster.stop();
    etcdctl(&["--command-timeout=2s", "get", "a"]).fails();
    cluster.launch();
    assert_eq!(etcdctl(&["get", "a", "--print-value-only"]).ok().trim(), "1");
}
