//! `atoll etcd import`: what an etcd had becomes the applications' keyspace of a cluster.
//!
//! The file is read to its end before anything is sent. Then its history is sent piece by piece,
//! each of which says behind which revision it belongs, so that one whose answer was lost is not
//! taken twice.

mod pieces;
mod send;

use crate::{
    backup::{progress::Progress, size},
    cli::Output,
    client::{connect::Connection, get::print_document, output},
};
use anyhow::{Context as _, Result, bail};
use atoll_apiserver::etcd_import::EtcdStanding;
use atoll_etcd::import::{EtcdSnapshot, Survey};
use serde_json::json;
use std::{fs::File, path::PathBuf, sync::Arc};

#[derive(Debug, clap::Args)]
pub struct Etcd {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Import(Import),
}

/// Take over the keys of an etcd from a snapshot of it
///
/// The file is what `etcdctl snapshot save` or `etcdutl` wrote. Into a keyspace that was never
/// written to, keys come with their history: revisions, versions and leases are those of the etcd,
/// as after `etcdctl snapshot restore`. Leases begin anew with their full time. Users and roles
/// are not taken over. The cluster goes on meanwhile; nobody else should write to the keyspace.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// What `etcdctl snapshot save` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Put the keys into a keyspace that holds something already, with new revisions: what has the
    /// same name is overwritten, everything else stays
    #[arg(long)]
    add: bool,
    /// Take a file without a checksum, such as a copy of the db file of an etcd that was stopped
    #[arg(long)]
    skip_hash_check: bool,
    /// Print what was imported as a document
    #[arg(short, long)]
    output: Option<Output>,
}

pub async fn run(connection: &Connection, etcd: Etcd) -> Result<()> {
    let Action::Import(import) = etcd.action;
    let name = import.file.display().to_string();
    let reading = || format!("reading {name}");
    let unusable = || format!("{name} cannot be imported; nothing was changed");
    let file = File::open(&import.file).with_context(reading)?;
    let bytes = file.metadata().with_context(reading)?.len();
    let mut progress = Progress::new("checked", Some(bytes));
    let snapshot = EtcdSnapshot::open(file, import.skip_hash_check, |bytes| progress.add(bytes))
        .with_context(unusable)?;
    let survey = snapshot.survey(|_| {}).with_context(unusable)?;
    drop(progress);
    if import.output.is_none() {
        output::write(&describe(&name, bytes, &survey));
    }
    let before = send::standing(connection).await?;
    check_room(&survey, &before)?;
    let snapshot = Arc::new(snapshot);
    let after = if import.add {
        send::add(connection, snapshot, &survey).await?
    } else {
        check_unused(&before)?;
        send::history(connection, snapshot, &survey).await?
    };
    say_done(&import, &survey, &after)
}

fn check_unused(standing: &EtcdStanding) -> Result<()> {
    let EtcdStanding { revision, keys, leases, .. } = standing;
    if *revision > 1 || *keys > 0 || *leases > 0 {
        bail!(
            "the applications' keyspace was written to already (revision {revision}, {keys} keys, {leases} leases), so an etcd's revisions have no place in it; nothing was changed: --add puts the keys beside what is there, with new revisions"
        );
    }
    Ok(())
}

/// What a kept version costs the quota besides its key and value.
const VERSION_OVERHEAD_BYTES: u64 = 64;

/// A history that does not fit would stay there in part.
fn check_room(survey: &Survey, standing: &EtcdStanding) -> Result<()> {
    let needed = survey.bytes + VERSION_OVERHEAD_BYTES * survey.records;
    if needed > standing.room_bytes {
        bail!(
            "it takes {}, and the applications' keyspace has room for {}; nothing was changed: start the servers with a larger --etcd-quota-backend-bytes, or compact the etcd before it is saved",
            size(needed),
            size(standing.room_bytes)
        );
    }
    Ok(())
}

fn describe(name: &str, bytes: u64, survey: &Survey) -> String {
    let mut text = format!(
        "{name} ({}) is whole: an etcd at revision {}, compacted up to {}\n  {} keys in {} versions, {} leases\n",
        size(bytes),
        survey.revision,
        survey.compacted_revision,
        survey.keys,
        survey.records,
        survey.leases.len()
    );
    if survey.has_auth || survey.users > 0 {
        text.push_str(&format!(
            "  its {} users and their roles are not taken over: who may use the keys is decided by certificates here, see `atoll server --help`\n",
            survey.users
        ));
    }
    text
}

fn say_done(import: &Import, survey: &Survey, after: &EtcdStanding) -> Result<()> {
    if let Some(format) = import.output {
        let document = json!({
            "keys": survey.keys,
            "versions": survey.records,
            "leases": survey.leases.len(),
            "etcdRevision": survey.revision,
            "etcdCompactedRevision": survey.compacted_revision,
            "users": survey.users,
            "keepsRevisions": !import.add,
            "applicationsRevision": after.revision,
            "applicationsKeys": after.keys,
        });
        return print_document(&document, format == Output::Yaml);
    }
    let how = if import.add { "with new revisions" } else { "with their revisions" };
    output::line(&format!(
        "Imported {} keys and {} leases {how}. The applications' keyspace has {} keys, at revision {}",
        survey.keys,
        survey.leases.len(),
        after.keys,
        after.revision
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_place_is_refused_before_anything_is_sent() {
        let fresh = EtcdStanding { revision: 1, keys: 0, leases: 0, room_bytes: 1_000_000 };
        check_unused(&fresh).unwrap();
        for used in [
            EtcdStanding { revision: 2, ..fresh.clone() },
            EtcdStanding { leases: 1, ..fresh.clone() },
        ] {
            let refused = check_unused(&used).unwrap_err().to_string();
            assert!(refused.contains("--add"), "{refused}");
        }
        let survey = Survey { bytes: 900_000, records: 1_000, ..Survey::default() };
        check_room(&survey, &fresh).unwrap();
        let refused = check_room(&Survey { records: 2_000, ..survey }, &fresh).unwrap_err();
        assert!(refused.to_string().contains("room for 1.0MB"), "{refused}");
    }
}
