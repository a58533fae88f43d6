//! `atoll token`: what new nodes and servers need to join.
//!
//! The server keeps of each token a hash, in a Secret; the token itself is seen once.

use crate::client::{connect::Connection, output, table::Table};
use anyhow::{Context as _, Result, bail};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde::Deserialize;

/// Where the records of tokens stand, and how they are told from other Secrets.
const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "atoll-join-token-";
const KIND: &str = "atoll.dev/join-token";
/// What a token begins with; its third part is its id.
const VERSIONS: [&str; 2] = ["atoll1", "atoll1-server"];
/// Where the records of server tokens are made, listed and deleted.
const SERVER_TOKENS: &str = "/atoll/v1/server-tokens";

#[derive(Debug, clap::Args)]
pub struct Token {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token with which one node or one server can join, and print it
    ///
    /// It is started with it: atoll agent --join https://SERVER:6443 --token TOKEN, or with
    /// --usage server: atoll server --join https://SERVER:6443 --token TOKEN. A server gets the
    /// keys of the whole cluster.
    Create {
        /// Who can join with it
        #[arg(long, default_value = "agent")]
        usage: Usage,
        /// How long it can be used, such as 30m, 24h or 7d; at most 30d
        #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = seconds)]
        ttl: i64,
        /// How to print it
        #[arg(short, long)]
        output: Option<crate::cli::Output>,
    },
    /// Show the tokens that there are; they themselves cannot be shown again
    List {
        /// How to print them
        #[arg(short, long)]
        output: Option<crate::cli::Output>,
    },
    /// Make tokens useless; nodes that have joined with them stay
    #[command(visible_alias = "delete")]
    Revoke {
        /// Ids, as `atoll token list` shows them, or whole tokens
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
}

/// Whom a token lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Usage {
    Agent,
    Server,
}

impl Usage {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Server => "server",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Agent => "/atoll/v1/join-tokens",
            Self::Server => SERVER_TOKENS,
        }
    }
}

/// Reads 90, 90s, 30m, 24h or 7d.
fn seconds(text: &str) -> Result<i64> {
    let wrong = || format!("{text:?} is not a duration such as 30m, 24h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => bail!("{}", wrong()),
    };
    let count: i64 = digits.parse().with_context(wrong)?;
    count.checked_mul(unit).filter(|seconds| *seconds > 0).with_context(wrong)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    pub token: String,
    pub expires_at: String,
}

pub async fn run(connection: &Connection, token: &Token) -> Result<()> {
    let client = &connection.client;
    match &token.action {
        Action::Create { usage, ttl, output } => {
            print_new(&create(client, *usage, *ttl).await?, *output)
        }
        Action::List { output } => list(client, *output).await,
        Action::Revoke { tokens } => revoke(client, tokens).await,
    }
}

fn print_new(created: &Created, format: Option<crate::cli::Output>) -> Result<()> {
    match format {
        Some(format) => {
            let document =
                serde_json::json!({ "token": created.token, "expiresAt": created.expires_at });
            crate::client::get::print_document(&document, format == crate::cli::Output::Yaml)
        }
        None => {
            output::line(&created.token);
            Ok(())
        }
    }
}

/// What is known of a token.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    usage: Usage,
    id: String,
    expires: String,
    used_by: Option<String>,
}

impl Known {
    /// `None` for a Secret that is something else.
    fn of(secret: &Secret) -> Option<Self> {
        let id = secret.metadata.name.as_deref()?.strip_prefix(PREFIX)?.to_owned();
        if secret.type_.as_deref() != Some(KIND) {
            return None;
        }
        let field = |name: &str| {
            let bytes = secret.data.as_ref()?.get(name)?;
            String::from_utf8(bytes.0.clone()).ok()
        };
        let used_by = field("used-by-node");
        Some(Self { usage: Usage::Agent, id, expires: field("expiration")?, used_by })
    }

    fn state(&self, now: Timestamp) -> String {
        let expired = self.expires.parse::<Timestamp>().is_ok_and(|at| at <= now);
        match &self.used_by {
            Some(node) => format!("used by {node}"),
            None if expired => "expired".to_owned(),
            None => "can be used".to_owned(),
        }
    }
}

async fn list(client: &Client, format: Option<crate::cli::Output>) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let chosen = ListParams::default().fields(&format!("type={KIND}"));
    let secrets = api.list(&chosen).await.context("listing join tokens")?;
    let mut known: Vec<Known> = secrets.items.iter().filter_map(Known::of).collect();
    known.extend(server_tokens(client).await?);
    if let Some(format) = format {
        let items = known.iter().map(|one| {
            serde_json::json!({
                "id": one.id,
                "usage": one.usage.name(),
                "expiresAt": one.expires,
                "usedBy": one.used_by,
            })
        });
        let document = serde_json::Value::Array(items.collect());
        return crate::client::get::print_document(&document, format == crate::cli::Output::Yaml);
    }
    if known.is_empty() {
        output::remark("No join tokens; `atoll token create` makes one.");
        return Ok(());
    }
    let now = Timestamp::now();
    let rows = known.iter().map(|one| {
        vec![one.id.clone(), one.usage.name().to_owned(), one.expires.clone(), one.state(now)]
    });
    let columns = ["ID", "USAGE", "EXPIRES", "STATE"].map(ToOwned::to_owned).to_vec();
    output::write(&Table { columns, rows: rows.collect() }.render(true));
    Ok(())
}

/// The id of a token that was typed as a whole, or as its id.
fn id_of(text: &str) -> Option<&str> {
    let id = match text.split('.').collect::<Vec<_>>()[..] {
        [version, _hash, id, _secret] if VERSIONS.contains(&version) => id,
        [id] => id,
        _ => return None,
    };
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

async fn revoke(client: &Client, tokens: &[String]) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    for text in tokens {
        // What was typed may be a secret: it is not repeated.
        let id = id_of(text).context(
            "that is neither a join token nor the id of one; `atoll token list` shows the ids",
        )?;
        let name = format!("{PREFIX}{id}");
        let there = api.get_opt(&name).await.with_context(|| format!("looking for token {id}"))?;
        let Some(secret) = there.filter(|secret| Known::of(secret).is_some()) else {
            if server_tokens(client).await?.iter().any(|one| one.id == id) {
                let request = Request::delete(format!("{SERVER_TOKENS}/{id}"));
                let request = request.body(Vec::new()).context("building a request")?;
                let _gone: serde_json::Value = client
                    .request(request)
                    .await
                    .with_context(|| format!("revoking token {id}"))?;
                output::line(&format!("join token {id} revoked"));
                continue;
            }
            bail!("there is no join token {id}; `atoll token list` shows those that there are");
        };
        api.delete(&secret.name_any(), &DeleteParams::default())
            .await
            .with_context(|| format!("revoking token {id}"))?;
        output::line(&format!("join token {id} revoked"));
    }
    Ok(())
}

/// Those that there are for servers; none for whoever may not see them.
async fn server_tokens(client: &Client) -> Result<Vec<Known>> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Item {
        id: String,
        expires_at: String,
        used_by: Option<String>,
    }
    let request = Request::get(SERVER_TOKENS).body(Vec::new()).context("building a request")?;
    let list: List = match client.request(request).await {
        Ok(list) => list,
        // Those who may make tokens for nodes need not know of those for servers.
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(Vec::new()),
        Err(error) => return Err(error).context("listing tokens for servers"),
    };
    let known = list.items.into_iter().map(|one| Known {
        usage: Usage::Server,
        id: one.id,
        expires: one.expires_at,
        used_by: one.used_by,
    });
    Ok(known.collect())
}

pub async fn create(client: &Client, usage: Usage, ttl_seconds: i64) -> Result<Created> {
    let body = serde_json::json!({ "ttlSeconds": ttl_seconds }).to_string();
    let request = Request::post(usage.path())
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.into_bytes())
        .context("building a request")?;
    client.request(request).await.context("making a join token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(seconds("90").unwrap(), 90);
        assert_eq!(seconds("30m").unwrap(), 1_800);
        assert_eq!(seconds("24h").unwrap(), 86_400);
        assert_eq!(seconds("7d").unwrap(), 604_800);
        for wrong in ["", "h", "0", "-5", "5w", "1h30m", "99999999999999999d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_revoked_by_its_id_or_as_a_whole() {
        assert_eq!(id_of("0a1b"), Some("0a1b"));
        assert_eq!(id_of("atoll1.aa.0a1b.cc"), Some("0a1b"));
        assert_eq!(id_of("atoll1-server.aa.0a1b.cc"), Some("0a1b"));
        for wrong in ["", "atoll1.aa.0a1b", "../x", "kube-root-ca.crt", "atoll2.aa.0a.cc"] {
            assert_eq!(id_of(wrong), None, "{wrong}");
        }
    }
}
