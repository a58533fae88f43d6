//! `atoll events`: what happened lately, oldest first.

use super::{connect::Connection, output, table::Table};
use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};

#[derive(Debug, clap::Args)]
pub struct Events {
    /// Of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only about this object: KIND/NAME
    #[arg(long = "for")]
    pub about: Option<String>,
    /// Only of these types, such as Warning
    #[arg(long)]
    pub types: Option<String>,
}

pub async fn run(connection: &Connection, namespace: Option<&str>, events: &Events) -> Result<()> {
    let namespace = namespace.unwrap_or(&connection.namespace);
    let api: Api<Event> = if events.all_namespaces {
        Api::all(connection.client.clone())
    } else {
        Api::namespaced(connection.client.clone(), namespace)
    };
    let mut found = api.list(&ListParams::default()).await?.items;
    found.retain(|event| matches(event, events));
    found.sort_by_key(last_seen);
    if found.is_empty() {
        output::remark(&match events.all_namespaces {
            true => "No events found".to_owned(),
            false => format!("No events found in {namespace} namespace."),
        });
        return Ok(());
    }
    let now = Timestamp::now();
    let mut columns: Vec<String> =
        ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"].map(Into::into).to_vec();
    if events.all_namespaces {
        columns.insert(0, "NAMESPACE".into());
    }
    let rows = found.iter().map(|event| row(event, events.all_namespaces, now)).collect();
    output::write(&Table { columns, rows }.render(true));
    Ok(())
}

fn matches(event: &Event, wanted: &Events) -> bool {
    let about = wanted.about.as_ref().is_none_or(|about| {
        let subject = &event.involved_object;
        let kind = subject.kind.as_deref().unwrap_or_default().to_lowercase();
        let name = subject.name.as_deref().unwrap_or_default();
        match about.split_once('/') {
            Some((word, wanted)) => {
                name == wanted
                    && kind.starts_with(word.trim_end_matches('s').to_lowercase().as_str())
            }
            None => name == about,
        }
    });
    let kind = wanted.types.as_ref().is_none_or(|types| {
        let mut listed = types.split(',');
        listed.any(|one| Some(one) == event.type_.as_deref())
    });
    about && kind
}

pub(crate) fn last_seen(event: &Event) -> Timestamp {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    series
        .map(|time| time.0)
        .or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0))
        .unwrap_or(Timestamp::MIN)
}

fn row(event: &Event, namespaces: bool, now: Timestamp) -> Vec<String> {
    let subject = &event.involved_object;
    let kind = subject.kind.as_deref().unwrap_or_default();
    let mut row = vec![
        age(now, last_seen(event)),
        event.type_.clone().unwrap_or_default(),
        event.reason.clone().unwrap_or_default(),
        format!("{kind}/{}", subject.name.as_deref().unwrap_or_default()),
        event.message.as_deref().unwrap_or_default().replace('\n', " "),
    ];
    if namespaces {
        row.insert(0, event.metadata.namespace.clone().unwrap_or_default());
    }
    row
}

/// `5s`, `3m`, `2h`, `4d`: the largest unit alone.
pub(crate) fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
