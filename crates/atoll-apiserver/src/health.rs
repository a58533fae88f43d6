//! `/livez`, `/readyz`, `/healthz`: each check by name, a few words each.

use std::time::Duration;

use http::{Response, StatusCode};

use crate::body::Body;
use crate::core::Core;
use crate::plain;
use crate::query::Query;

/// Upstream's name for the store.
const STORE: &str = "etcd";
/// A store that takes longer to answer is not well.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// A check by upstream's name and what is wrong, if anything is.
type Check = (&'static str, Option<String>);

pub(crate) async fn serve(core: &Core, path: &str, query: &Query) -> Response<Body> {
    let mut parts = path.trim_matches('/').split('/');
    let probe = parts.next().unwrap_or("");
    let checks = checks(core, probe).await;
    match parts.next() {
        None => all(probe, &checks, query),
        Some(name) => match checks.iter().find(|(own, _)| *own == name) {
            Some((_, None)) => plain::text(StatusCode::OK, "ok".to_owned()),
            Some((_, Some(why))) => plain::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {why}\n"),
            ),
            None => plain::page_not_found(),
        },
    }
}

async fn checks(core: &Core, probe: &str) -> Vec<Check> {
    let mut checks: Vec<Check> = vec![("ping", None), ("log", None), (STORE, store(core).await)];
    if probe == "readyz" {
        let caught_up = core.ready.is_cancelled();
        let why = (!caught_up).then(|| "the objects are still being read".to_owned());
        checks.push(("informer-sync", why));
        let stopping = core.draining.is_cancelled() || core.stop.is_cancelled();
        let why = stopping.then(|| "process is shutting down".to_owned());
        checks.push(("shutdown", why));
    }
    checks
}

async fn store(core: &Core) -> Option<String> {
    match tokio::time::timeout(STORE_TIMEOUT, core.storage.revision()).await {
        Ok(Ok(_)) => None,
        Ok(Err(status)) => Some(status.to_string()),
        Err(_) => Some("the store does not answer".to_owned()),
    }
}

fn all(probe: &str, checks: &[Check], query: &Query) -> Response<Body> {
    let excluded: Vec<&str> = query.all("exclude").collect();
    let considered = checks.iter().filter(|(name, _)| !excluded.contains(name));
    let failed = considered.clone().any(|(_, why)| why.is_some());
    if !failed && query.get("verbose").is_none() {
        return plain::text(StatusCode::OK, "ok".to_owned());
    }
    let mut report = String::new();
    for (name, why) in considered {
        let line = match why {
            None => format!("[+]{name} ok\n"),
            // Upstream withholds every reason; how many servers there are is no secret.
            Some(why) if *name == STORE => format!("[-]{name} failed: {why}\n"),
            Some(_) => format!("[-]{name} failed: reason withheld\n"),
        };
        report.push_str(&line);
    }
    if failed {
        report.push_str(&format!("{probe} check failed\n"));
        return plain::text(StatusCode::INTERNAL_SERVER_ERROR, report);
    }
    report.push_str(&format!("{probe} check passed\n"));
    plain::text(StatusCode::OK, report)
}
