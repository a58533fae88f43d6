//! Asks the other servers over their API, which is recognised by the authority in this server's own
//! keys.

use crate::keys::{Keys, read};
use anyhow::{Context as _, Result};
use atoll_apiserver::servers::{
    join::MemberRecord,
    rejoin::{PURPOSE, RejoinAnswer, RejoinRequest, RejoinStatement},
};
use atoll_identity::{AuthorityKind, certificates_from_pem};
use http::Request;
use jiff::Timestamp;
use kube::{Client, Config};
use std::{path::Path, time::Duration};

const PATH: &str = "/atoll/v1/rejoin-server";
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Two changes of members, each of which may wait for an election.
const ANSWER_MAX: Duration = Duration::from_secs(25);

/// What is asked, and whom.
pub struct Asking {
    body: Vec<u8>,
    servers: Vec<(String, Client)>,
}

/// Nobody has taken this server in.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nobody answered, or there is no majority.
    Later(String),
    /// Whoever answered says no.
    ForGood(String),
}

impl Asking {
    /// `keys` is the folder of the cluster's keys: without them nobody would believe this server.
    pub fn new<'a>(
        keys: &Path,
        statement: &RejoinStatement,
        others: impl Iterator<Item = &'a MemberRecord>,
    ) -> Result<Self> {
        // Not `Keys::authority` for what is missing: it would make another one.
        for file in ["peer-ca.key", "peer-ca.crt", "serving-ca.crt"] {
            read(&keys.join(file)).context(
                "the keys of the cluster are gone too; remove this server from the cluster and let it join with a new token (`atoll token create --usage server`)",
            )?;
        }
        let peer = Keys::open(keys, &statement.cluster_id)?
            .authority(AuthorityKind::Peer, Timestamp::now())?;
        let text = serde_json::to_string(statement).context("writing the statement")?;
        let signature =
            peer.sign_statement(PURPOSE, &text).context("signing as a server of this cluster")?;
        let body = serde_json::to_vec(&RejoinRequest { statement: text, signature })
            .context("writing the request")?;
        let serving = read(&keys.join("serving-ca.crt"))?;
        let serving = certificates_from_pem("the serving authority", &serving)?;
        let urls = others.flat_map(|one| one.client_urls.iter().take(1));
        let mut servers = Vec::new();
        for url in urls {
            let mut config = Config::new(url.parse().with_context(|| format!("reading {url}"))?);
            config.root_cert = Some(serving.iter().map(|one| one.to_vec()).collect());
            config.connect_timeout = Some(CONNECT_MAX);
            // It is asked again here, which says why.
            config.default_retry = false;
            let client = Client::try_from(config).with_context(|| format!("calling {url}"))?;
            servers.push((url.clone(), client));
        }
        Ok(Self { body, servers })
    }

    /// One after the other: the first that takes this server in is enough.
    pub async fn round(&self) -> Result<RejoinAnswer, Refused> {
        let mut worst = Vec::new();
        for (url, client) in &self.servers {
            match self.one(url, client).await {
                Ok(answer) => return Ok(answer),
                Err(refused) => worst.push(refused),
            }
        }
        Err(sum_up(worst))
    }

    async fn one(&self, url: &str, client: &Client) -> Result<RejoinAnswer, Refused> {
        let later = |why: String| Refused::Later(format!("{url}: {why}"));
        let request = Request::post(PATH)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(self.body.clone())
            .map_err(|error| later(error.to_string()))?;
        match tokio::time::timeout(ANSWER_MAX, client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if (400..429).contains(&status.code) => {
                Err(Refused::ForGood(format!("{url}: {}", status.message)))
            }
            Ok(Err(kube::Error::Api(status))) => Err(later(status.message.clone())),
            Ok(Err(error)) => Err(later(crate::causes(&error.into()))),
            Err(_elapsed) => Err(later(format!("no answer within {} s", ANSWER_MAX.as_secs()))),
        }
    }
}

/// One that refuses counts: those that do not answer may be dead.
fn sum_up(refusals: Vec<Refused>) -> Refused {
    let (mut later, mut for_good) = (Vec::new(), Vec::new());
    for one in refusals {
        match one {
            Refused::Later(why) => later.push(why),
            Refused::ForGood(why) => for_good.push(why),
        }
    }
    if for_good.is_empty() {
        return Refused::Later(if later.is_empty() {
            "no other server has an address".to_owned()
        } else {
            later.join("; ")
        });
    }
    Refused::ForGood(for_good.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_although_others_do_not_answer() {
        let later = |why: &str| Refused::Later(why.to_owned());
        let for_good = |why: &str| Refused::ForGood(why.to_owned());
        assert_eq!(sum_up(vec![later("a"), later("b")]), later("a; b"));
        assert_eq!(sum_up(vec![later("a"), for_good("b")]), for_good("b"));
        assert!(matches!(sum_up(Vec::new()), Refused::Later(_)));
    }
}
