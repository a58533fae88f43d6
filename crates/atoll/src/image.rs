//! `atoll image`: the images of a node, without any daemon.
//!
//! On a `dev` cluster every node has a store of its own; without `--node` a command is
//! for all of them.

use crate::{
    client::{output, table::Table},
    dev::data_dir,
};
use anyhow::{Context as _, Result, bail};
use atoll_image::{Config, Credentials, ImageInfo, ImageStore, Progress, PullPolicy, PullRequest};
use std::{path::PathBuf, process::ExitCode};
use tokio::sync::watch;

#[derive(Debug, clap::Args)]
pub struct Image {
    #[command(subcommand)]
    action: Action,
    /// The folder of the node or of the dev cluster
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Only this node of a dev cluster
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Bring in what `docker save` or an OCI-layout archive holds
    Import {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Pull from a registry
    Pull {
        image: String,
        /// The registry is reached without TLS
        #[arg(long)]
        plain_http: bool,
        /// USER:PASSWORD for the registry
        #[arg(long, env = "ATOLL_REGISTRY_CREDENTIALS", hide_env_values = true)]
        credentials: Option<String>,
    },
    /// List the images
    #[command(visible_alias = "ls")]
    List {
        /// How to print them
        #[arg(short, long)]
        output: Option<crate::cli::Output>,
    },
    /// Remove images
    Rm {
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// The store of one node.
struct Place {
    node: String,
    root: PathBuf,
}

pub async fn run(image: Image) -> Result<ExitCode> {
    let places = places(&image)?;
    match &image.action {
        Action::Import { files } => import(&places, files).await?,
        Action::Pull { image, plain_http, credentials } => {
            pull(&places, image, *plain_http, credentials.as_deref()).await?;
        }
        Action::List { output } => list(&places, *output).await?,
        Action::Rm { images } => {
            for place in &places {
                let store = open(place, &[]).await?;
                for name in images {
                    store.remove(name).await?;
                    output::line(&format!("{}: removed {name}", place.node));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn places(image: &Image) -> Result<Vec<Place>> {
    let folder = data_dir(image.data_dir.as_deref())?;
    let mut places = Vec::new();
    let entries = std::fs::read_dir(&folder).with_context(|| {
        format!("no node has its folder in {}; name another with --data-dir", folder.display())
    })?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("node-") && entry.path().is_dir() {
            places.push(Place { node: name, root: entry.path() });
        }
    }
    if places.is_empty() {
        places.push(Place { node: "this node".to_owned(), root: folder.clone() });
    }
    places.sort_by(|left, right| left.node.cmp(&right.node));
    if let Some(wanted) = &image.node {
        places.retain(|place| place.node == *wanted);
        if places.is_empty() {
            bail!("there is no node {wanted} in {}", folder.display());
        }
    }
    Ok(places)
}

async fn open(place: &Place, plain_http: &[String]) -> Result<ImageStore> {
    let mut config = Config::new(place.root.join("images"));
    config.registry.plain_http = plain_http.to_vec();
    ImageStore::open(config).await.with_context(|| format!("opening the images of {}", place.node))
}

async fn import(places: &[Place], files: &[PathBuf]) -> Result<()> {
    for place in places {
        let store = open(place, &[]).await?;
        for file in files {
            let imported = store
                .import(file)
                .await
                .with_context(|| format!("importing {} on {}", file.display(), place.node))?;
            for image in &imported.images {
                output::line(&format!("{}: {}", place.node, title(image)));
            }
        }
    }
    Ok(())
}

fn title(image: &ImageInfo) -> String {
    let name = image.tags.first().or(image.repo_digests.first()).unwrap_or(&image.digest);
    format!("{name} ({})", size(image.size_bytes))
}

async fn pull(
    places: &[Place],
    image: &str,
    plain_http: bool,
    credentials: Option<&str>,
) -> Result<()> {
    let host = image.split('/').next().unwrap_or_default().to_owned();
    let plain: Vec<String> = plain_http.then_some(host).into_iter().collect();
    let credentials = credentials.map(parse_credentials).transpose()?;
    for place in places {
        let store = open(place, &plain).await?;
        let request = PullRequest {
            image: image.to_owned(),
            policy: PullPolicy::Always,
            credentials: credentials.clone().into_iter().collect(),
        };
        let (sender, receiver) = watch::channel(Progress::default());
        let outcome = {
            let pulling = store.ensure(&request, Some(sender));
            let mut pulling = std::pin::pin!(pulling);
            tokio::select! {
                outcome = &mut pulling => outcome,
                () = show_progress(receiver), if output::is_terminal() => pulling.await,
            }
        }
        .with_context(|| format!("pulling {image} on {}", place.node))?;
        output::line(&format!("{}: {}", place.node, title(&outcome.image)));
    }
    Ok(())
}

/// Ends when the pull does.
async fn show_progress(mut progress: watch::Receiver<Progress>) {
    while progress.changed().await.is_ok() {
        let now = *progress.borrow_and_update();
        output::write(&format!(
            "\r{} of {}, {} of {} layers\x1b[K",
            size(now.fetched_bytes),
            size(now.total_bytes),
            now.layers_unpacked,
            now.layers
        ));
    }
    output::write("\r\x1b[K");
}

fn parse_credentials(text: &str) -> Result<Credentials> {
    let (user, password) = text.split_once(':').context("credentials are USER:PASSWORD")?;
    Ok(Credentials { username: user.to_owned(), password: password.to_owned() })
}

async fn list(places: &[Place], format: Option<crate::cli::Output>) -> Result<()> {
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    for place in places {
        for image in open(place, &[]).await?.list()? {
            for tag in image.tags.iter().chain(image.tags.is_empty().then_some(&image.digest)) {
                rows.push(vec![
                    place.node.clone(),
                    tag.clone(),
                    image.digest.chars().skip(7).take(12).collect(),
                    size(image.size_bytes),
                ]);
            }
            documents.push(serde_json::json!({ "node": place.node, "image": image }));
        }
    }
    if let Some(format) = format {
        let document = serde_json::json!({ "items": documents });
        return crate::client::get::print_document(&document, format == crate::cli::Output::Yaml);
    }
    let columns = ["NODE", "IMAGE", "DIGEST", "SIZE"].map(ToOwned::to_owned).to_vec();
    output::write(&Table { columns, rows }.render(true));
    Ok(())
}

/// Decimal units, as `docker images` prints them.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    for (unit, one) in UNITS {
        if bytes >= one {
            return format!("{}.{}{unit}", bytes / one, bytes % one * 10 / one);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read_at_a_glance() {
        assert_eq!(size(999), "999B");
        assert_eq!(size(5_610_000), "5.6MB");
        assert_eq!(size(1_250_000_000), "1.2GB");
    }
}
