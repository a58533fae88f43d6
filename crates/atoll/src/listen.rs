//! Listens on a port; when it is taken, says who has it and what to do.

use anyhow::Result;
use std::{fs, io, net::SocketAddr, path::Path};
use tokio::net::TcpListener;

/// In `/proc/net/tcp`.
const STATE_LISTEN: &str = "0A";

/// `flag` is the one that chooses another port.
pub async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let said = match error.kind() {
            io::ErrorKind::AddrInUse => taken(address, flag, holder(address.port())),
            _ => format!("listening on {address}; choose another with {flag}"),
        };
        anyhow::Error::new(error).context(said)
    })
}

fn taken(address: SocketAddr, flag: &str, holder: Option<(u32, String)>) -> String {
    match holder {
        Some((pid, name)) => format!(
            "listening on {address}; process {pid} ({name}) has the port: end it, or choose \
             another with {flag}"
        ),
        // Of another user, or in a namespace that does not show.
        None => format!(
            "listening on {address}; another program has the port, choose another with {flag}"
        ),
    }
}

/// The process that listens on a port of this machine, as far as we may see.
fn holder(port: u16) -> Option<(u32, String)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let sockets: Vec<String> = tables.flat_map(|table| listening(&table, port)).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find_map(|pid| {
        let folder = Path::new("/proc").join(pid.to_string());
        let files = fs::read_dir(folder.join("fd")).ok()?.flatten();
        let mut files = files.filter_map(|file| fs::read_link(file.path()).ok());
        files.find(|file| sockets.iter().any(|socket| file == Path::new(socket)))?;
        let name = fs::read_to_string(folder.join("comm")).ok()?;
        Some((pid, name.trim().to_owned()))
    })
}

/// The sockets of a kernel's table that listen on `port`, as links in `/proc` name them.
fn listening(table: &str, port: u16) -> Vec<String> {
    let here = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<&str>>());
    rows.filter_map(|row| {
        let (local, state, inode) = (row.get(1)?, row.get(3)?, row.get(9)?);
        (local.ends_with(&here) && *state == STATE_LISTEN).then(|| format!("socket:[{inode}]"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_who_has_the_port() {
        let first = listen(([127, 0, 0, 1], 0).into(), "--port").await.unwrap();
        let address = first.local_addr().unwrap();
        let refused = listen(address, "--port").await.unwrap_err();
        let said = format!("{refused:#}");
        let me = format!("process {} (", std::process::id());
        assert!(said.contains(&me) && said.contains("choose another with --port"), "{said}");
        assert!(said.contains("Address already in use"), "{said}");
    }

    #[test]
    fn connections_through_the_port_do_not_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41 1\n\
            1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 42 1\n\
            2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 43 1\n";
        assert_eq!(listening(table, 8080), ["socket:[41]"]);
    }
}
