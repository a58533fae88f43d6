//! How a server joins others: with a token against the keys of the cluster, once.

use super::{
    Server,
    remembered::{Joined, Remembered},
    store,
};
use crate::{
    dev::folder::write_atomically,
    pinned::{self, host_and_port, server_url},
};
use anyhow::{Context as _, Result, bail};
use atoll_apiserver::servers::{
    KeyFiles,
    join::{FORMAT_LEVEL, JoinServerAnswer, JoinServerRequest},
};
use atoll_identity::{JoinToken, TokenUse};
use std::{
    fs::DirBuilder,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};
use tracing::info;

/// Where peers call when nobody says otherwise.
pub const PEER_PORT: u16 = 2_380;

/// Who this server is: by its flags and by what its folder remembers. Joins the cluster that
/// `--join` names if it has not yet.
pub async fn settle(server: &mut Server) -> Result<Remembered> {
    let folder = server.data_dir.clone();
    let former = Remembered::load(&folder)?;
    let is_none = |one: &Remembered| one.joined.is_none() && one.cluster.is_none();
    let is_new = former.as_ref().is_none_or(is_none) && !folder.join("store").exists();
    let mut remembered = match (former, &server.name) {
        (Some(former), Some(name)) if *name != former.name && former.joined.is_some() => {
            bail!(
                "this server is called {:?}, and a member keeps its name; leave --name out",
                former.name
            )
        }
        (Some(former), None) => former,
        (Some(mut former), Some(name)) => {
            former.name.clone_from(name);
            former
        }
        (None, Some(name)) => Remembered::new(name),
        (None, None) => Remembered::new(&crate::agent::host_name()?),
    };
    addresses(server, &mut remembered)?;
    if let Some(url) = server.join.clone() {
        if is_new {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .with_context(|| format!("making {}", folder.display()))?;
            join(server, &url, &mut remembered).await?;
        } else {
            info!(
                folder = %folder.display(),
                "this server is a member already; --join and --token are not needed again"
            );
        }
    }
    if let Some(joined) = &remembered.joined {
        server.service_cidr = joined.service_cidr.parse()?;
        server.pod_cidr = joined.pod_cidr.parse()?;
        server.node_prefix = joined.node_prefix;
    }
    Ok(remembered)
}

/// Flags count; what they leave open was found or named before.
fn addresses(server: &mut Server, remembered: &mut Remembered) -> Result<()> {
    let is_default = server.advertise.is_loopback();
    match (&remembered.advertise, &server.join) {
        (Some(known), _) if is_default => {
            server.advertise = known.parse().context("the remembered address")?;
        }
        (None, Some(url)) if is_default => {
            let url = server_url(url)?;
            let (host, port) = host_and_port(&url)?;
            server.advertise = crate::agent::way_to(host, port)?;
        }
        _ => {}
    }
    if !server.advertise.is_loopback() {
        remembered.advertise = Some(server.advertise.to_string());
    }
    if let Some(listen) = server.peer_listen {
        remembered.peer_listen = Some(listen.to_string());
    }
    if let Some(advertise) = &server.peer_advertise {
        remembered.peer_advertise = Some(advertise.clone());
    }
    Ok(())
}

/// Where this server's peers call it.
pub fn peer_listen(remembered: &Remembered) -> Result<SocketAddr> {
    match &remembered.peer_listen {
        Some(text) => text.parse().context("the remembered address of the peer port"),
        None => Ok(SocketAddr::from(([0, 0, 0, 0], PEER_PORT))),
    }
}

/// What they are told to call.
pub fn peer_advertise(server: &Server, remembered: &Remembered) -> Result<String> {
    match &remembered.peer_advertise {
        Some(address) => Ok(address.clone()),
        None => Ok(address_text(server.advertise, peer_listen(remembered)?.port())),
    }
}

pub fn client_url(server: &Server) -> String {
    format!("https://{}", address_text(server.advertise, server.listen.port()))
}

fn address_text(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

async fn join(server: &Server, url: &str, remembered: &mut Remembered) -> Result<()> {
    let Some(token) = server.token()? else {
        bail!(
            "this server has not joined a cluster yet; make a token on a server that has, with `atoll token create --usage server`, and pass it with --token"
        );
    };
    let token = JoinToken::parse(&token).context("reading the join token")?;
    token.check_use(TokenUse::Server)?;
    let key = remembered.join_key.get_or_insert_with(|| format!("{:032x}", rand::random::<u128>()));
    let request = JoinServerRequest {
        name: remembered.name.clone(),
        key: key.clone(),
        peer_address: String::new(),
        client_url: client_url(server),
    };
    // Before the token is used: an answer that is lost can be asked for again.
    remembered.store(&server.data_dir)?;
    let request =
        JoinServerRequest { peer_address: peer_advertise(server, remembered)?, ..request };
    let body = serde_json::to_string(&request).context("writing the request")?;
    let path = format!("/atoll/v1/join-server?{FORMAT_LEVEL}={}", store::level_max(server));
    let answer: JoinServerAnswer = pinned::post(url, &token, &path, body).await?;
    write_keys(&server.data_dir.join("keys"), &answer.keys)?;
    remembered.joined = Some(Joined {
        cluster_id: answer.cluster_id,
        member_id: answer.member_id,
        members: answer.members,
        service_cidr: answer.service_cidr,
        pod_cidr: answer.pod_cidr,
        node_prefix: answer.node_prefix,
    });
    remembered.has_peers = true;
    remembered.store(&server.data_dir)?;
    info!(server = remembered.name, url, "joined");
    Ok(())
}

/// The keys of the cluster, for their owner alone.
fn write_keys(folder: &Path, files: &KeyFiles) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making the key folder {}", folder.display()))?;
    for (name, text) in files {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
        let is_name = name.bytes().all(plain) && !name.starts_with('.');
        let mode = match name.rsplit_once('.') {
            Some((_, "key")) if is_name => 0o600,
            Some((_, "crt")) if is_name => 0o644,
            _ => bail!("the cluster sent a key file called {name:?}, which is no name of one"),
        };
        write_atomically(&folder.join(name), text.as_bytes(), mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_their_owners_and_stay_in_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let file = |name: &str| KeyFiles::from([(name.to_owned(), "text".to_owned())]);
        write_keys(&keys, &file("peer-ca.key")).unwrap();
        let mode = std::fs::metadata(keys.join("peer-ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for name in ["../../etc/x.key", "a/b.key", ".key", "x", "x.sh", "X.key"] {
            let refused = write_keys(&keys, &file(name)).unwrap_err().to_string();
            assert!(refused.contains("which is no name of one"), "{name}: {refused}");
        }
    }
}
