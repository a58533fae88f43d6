//! Pieces on their way to a server, through changes of leaders and broken connections.

use super::pieces::{self, READ_AHEAD_MAX, Stop};
use crate::{backup::progress::Progress, client::connect::Connection};
use anyhow::{Context as _, Result, bail};
use atoll_apiserver::etcd_import::{EtcdPiece, EtcdPuts, EtcdStanding};
use atoll_etcd::import::{EtcdSnapshot, Survey};
use http::Request;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

const PATH: &str = "/atoll/v1/etcd";
/// As long as the servers may take to agree on a leader, and to start again.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN_AFTER: Duration = Duration::from_millis(500);

type Snapshot = Arc<EtcdSnapshot<File>>;

pub async fn standing(connection: &Connection) -> Result<EtcdStanding> {
    let request = Request::get(PATH).body(Vec::new()).context("building a request")?;
    Ok(connection.client.request(request).await?)
}

/// With all revisions, into a keyspace that has none.
pub async fn history(
    connection: &Connection,
    snapshot: Snapshot,
    survey: &Survey,
) -> Result<EtcdStanding> {
    let known = survey.clone();
    let (sender, mut read) = mpsc::channel(READ_AHEAD_MAX);
    let reader = tokio::task::spawn_blocking(move || pieces::history(&snapshot, &known, &sender));
    let mut progress = Progress::new("imported", Some(survey.bytes));
    let mut after = None;
    while let Some(piece) = read.recv().await {
        let bytes: usize = piece.records.iter().map(bytes_of).sum();
        after = Some(send_piece(connection, &piece).await?);
        progress.add(bytes);
    }
    finish(reader.await.context("reading the snapshot")?)?;
    after.context("nothing was sent")
}

/// Beside what is there, with new revisions.
pub async fn add(
    connection: &Connection,
    snapshot: Snapshot,
    survey: &Survey,
) -> Result<EtcdStanding> {
    let known = survey.clone();
    let (sender, mut read) = mpsc::channel(READ_AHEAD_MAX);
    let reader = tokio::task::spawn_blocking(move || pieces::present(&snapshot, &known, &sender));
    let mut progress = Progress::new("imported", None);
    let mut after = None;
    while let Some(puts) = read.recv().await {
        let bytes: usize = puts.records.iter().map(bytes_of).sum();
        after = Some(send_puts(connection, &puts).await.context(
            "a part of the keys was put; what was put can be put again: repeat the command",
        )?);
        progress.add(bytes);
    }
    finish(reader.await.context("reading the snapshot")?)?;
    after.context("nothing was sent")
}

fn bytes_of(record: &atoll_apiserver::etcd_import::EtcdRecord) -> usize {
    record.key.0.len() + record.value.0.len()
}

fn finish(read: Result<(), Stop>) -> Result<()> {
    match read {
        Ok(()) => Ok(()),
        Err(Stop::Unreadable(error)) => {
            Err(error).context("the snapshot changed while it was read")
        }
        Err(Stop::Given) => bail!("the snapshot was not read to its end"),
    }
}

/// One whose answer was lost shows in the revision.
async fn send_piece(connection: &Connection, piece: &EtcdPiece) -> Result<EtcdStanding> {
    let last = piece.records.last().map_or(piece.after, |record| record.mod_revision);
    let last = piece.end.as_ref().map_or(last, |end| end.revision.max(last));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match post::<EtcdStanding>(connection, "import", piece).await {
            Ok(standing) => return Ok(standing),
            Err(error) => error,
        };
        let part = "a part of the history was imported, up to revision";
        if !may_pass(&error) || Instant::now() > deadline {
            return Err(error).with_context(|| format!("{part} {}", piece.after));
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        match standing(connection).await {
            Ok(standing) if standing.revision == last && last > piece.after => {
                return Ok(standing);
            }
            Ok(standing) if standing.revision != piece.after => {
                return Err(error).with_context(|| {
                    format!("{part} {}; somebody else writes to the keyspace", piece.after)
                });
            }
            Ok(_) | Err(_) => {}
        }
    }
}

async fn send_puts(connection: &Connection, puts: &EtcdPuts) -> Result<EtcdStanding> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match post(connection, "put", puts).await {
            Err(error) if may_pass(&error) && Instant::now() < deadline => {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            answer => return answer,
        }
    }
}

async fn post<T: DeserializeOwned>(
    connection: &Connection,
    what: &str,
    body: &impl Serialize,
) -> Result<T> {
    let body = serde_json::to_vec(body).context("writing a request")?;
    let request = Request::post(format!("{PATH}/{what}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .context("building a request")?;
    Ok(connection.client.request(request).await?)
}

/// Whether the same may succeed a little later: no leader, a timeout, a server that has gone.
fn may_pass(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => matches!(status.code, 429 | 500 | 502..=504),
        Some(kube::Error::Service(_) | kube::Error::HyperError(_)) => true,
        _ => false,
    }
}
