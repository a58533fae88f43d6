//! Serves a snapshot: `dns ADDRESS:PORT SNAPSHOT [UPSTREAM:PORT]`. For measuring and by hand.

use atoll_dns::{Config, Upstreams, serve};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: dns ADDRESS:PORT SNAPSHOT [UPSTREAM:PORT]";
    let listen = arguments.next().ok_or(usage)?.parse()?;
    let snapshot = arguments.next().ok_or(usage)?.into();
    let upstreams = arguments.map(|text| text.parse()).collect::<Result<_, _>>()?;
    let config = Config {
        listen: vec![listen],
        snapshot,
        cluster_domain: "cluster.local".to_owned(),
        upstreams: Upstreams::Fixed(upstreams),
    };
    serve(config, CancellationToken::new()).await?;
    Ok(())
}
