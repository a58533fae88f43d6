//! The agent's client of the API: kube's own stack, but with few idle connections.
//!
//! Each idle connection costs some 30 kB here and as much in the server, and a burst of
//! pods would leave one for each of them.

use super::servers::Connector;
use anyhow::{Context as _, Result};
use http::{HeaderValue, header::USER_AGENT};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::Client as HttpClient,
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _, retry::RetryPolicy},
};
use std::time::Duration;
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

/// As many requests as an agent with much to do has under way at once.
const IDLE_CONNECTIONS_MAX: usize = 4;
const IDLE_MAX: Duration = Duration::from_secs(15);

/// What the node writes is the kubelet's, for whoever looks whose a field is.
const AGENT: HeaderValue = HeaderValue::from_static("kubelet/v1.36.0");

pub fn new(config: &Config, connector: Connector) -> Result<Client> {
    let mut config = config.clone();
    config.headers.push((USER_AGENT, AGENT));
    let failed = "setting up the node's client";
    let tls = config.rustls_https_connector_with_connector(connector).context(failed)?;
    let mut connector = TimeoutConnector::new(tls);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_MAX)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer().context(failed)?)
        .layer(config.extra_headers_layer().context(failed)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}
