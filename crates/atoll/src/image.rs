//! `atoll image`: the images of nodes, without any daemon.
//!
//! On a `dev` cluster every node has a store of its own; without `--node` a command is
//! for all of them. [`places`] finds the stores, [`progress`] shows what a long command
//! does.

mod places;
mod progress;

use crate::{
    cli::Output,
    client::{get::print_document, output, table::Table},
};
use anyhow::{Context as _, Result, anyhow, bail};
use atoll_image::{
    Credentials, Error, ImageInfo, ImportRequest, PullPolicy, PullRequest, Reference,
};
use places::{Place, Registries};
use std::{
    fs::File,
    io::{IsTerminal as _, Seek as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What `atoll image import` calls what it is given on its standard input.
const STDIN: &str = "standard input";

#[derive(Debug, clap::Args)]
pub struct Image {
    #[command(subcommand)]
    action: Action,
    /// The folder of the node or of the dev cluster
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Only this node of a dev cluster; all of its nodes otherwise
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Bring in the images of an archive
    ///
    /// An archive is what `docker save`, `podman save`, `ctr image export` or `skopeo copy …
    /// oci-archive:FILE` writes, as it is or compressed with gzip or zstd. Its images are
    /// then on every node, and pods find them under their names without any registry.
    Import {
        /// Archives; - reads one from standard input, as in `docker save IMAGE | atoll image
        /// import -`
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Call the image so, such as registry.example/web:1; for an archive of one image
        #[arg(long, value_name = "IMAGE")]
        name: Option<String>,
        /// Print what came in as a document
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// Pull an image from its registry
    ///
    /// Registries on this machine's loopback are reached, without TLS.
    Pull {
        /// The image, such as node:22-alpine or localhost:5000/web@sha256:…
        image: String,
        /// The registry is reached without TLS
        #[arg(long)]
        plain_http: bool,
        /// Another place for a registry's images, as docker.io=https://mirror.example
        #[arg(long = "mirror", value_name = "REGISTRY=URL", value_parser = crate::registries::mirror)]
        mirrors: Vec<(String, String)>,
        /// USER:PASSWORD for the registry
        #[arg(long, env = "ATOLL_REGISTRY_CREDENTIALS", hide_env_values = true)]
        credentials: Option<String>,
        /// Print what came in as a document
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// List the images
    #[command(visible_alias = "ls")]
    List {
        /// How to print them
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// Remove images
    ///
    /// An image goes with its last name; by digest it goes with all of them. Containers that
    /// run keep their files.
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or digests, as `atoll image list` shows them
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

pub async fn run(image: Image) -> Result<ExitCode> {
    let places = places::find(image.data_dir.as_deref(), image.node.as_deref())?;
    match &image.action {
        Action::Import { files, name, output } => {
            import(&places, files, name.as_deref(), *output).await
        }
        Action::Pull { image, plain_http, mirrors, credentials, output } => {
            let host = image.split('/').next().unwrap_or_default().to_owned();
            let registries = Registries {
                plain_http: plain_http.then_some(host).into_iter().collect(),
                mirrors: mirrors.clone(),
            };
            let credentials = credentials.as_deref().map(parse_credentials).transpose()?;
            pull(&places, image, &registries, credentials, *output).await
        }
        Action::List { output } => list(&places, *output).await,
        Action::Rm { images } => remove(&places, images).await,
    }
}

/// What came in, for people or as a document.
#[derive(Default)]
struct Arrivals {
    format: Option<Output>,
    documents: Vec<serde_json::Value>,
}

impl Arrivals {
    fn add(&mut self, place: &Place, image: &ImageInfo) {
        if self.format.is_some() {
            self.documents.push(serde_json::json!({ "node": place.node, "image": image }));
            return;
        }
        let name = match image.tags.as_slice() {
            [] => image.digest.clone(),
            names => names.join(", "),
        };
        output::line(&format!("{}: {name} ({})", place.node, size(image.size_bytes)));
    }

    fn end(self) -> Result<ExitCode> {
        if let Some(format) = self.format {
            let document = serde_json::json!({ "items": self.documents });
            print_document(&document, format == Output::Yaml)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn import(
    places: &[Place],
    files: &[PathBuf],
    name: Option<&str>,
    format: Option<Output>,
) -> Result<ExitCode> {
    if let Some(name) = name {
        name.parse::<Reference>().map_err(|error| anyhow!("{error} ({})", error.reason))?;
        if files.len() > 1 {
            bail!("--name is for one archive, and {} are given", files.len());
        }
    }
    // Who may not do this is told before a long archive has come through a pipe.
    places[0].open(&Registries::default()).await?;
    let mut arrivals = Arrivals { format, ..Arrivals::default() };
    for path in files {
        let (file, label) = open_archive(path, places)?;
        for place in places {
            let store = place.open(&Registries::default()).await?;
            let request = ImportRequest {
                file: file.try_clone().with_context(|| format!("reading {}", label.display()))?,
                label: label.clone(),
                name: name.map(ToOwned::to_owned),
            };
            let imported =
                progress::shown(&place.node, |sender| store.import(request, sender)).await;
            let imported = imported.map_err(|error| {
                anyhow!("{} was not imported: {}", label.display(), error.in_full())
            })?;
            for image in &imported.images {
                arrivals.add(place, image);
                if image.tags.is_empty() && place.node == places[0].node {
                    output::remark(&format!(
                        "{} gives its image no name; pods find it by one: import it again with --name",
                        label.display()
                    ));
                }
            }
        }
    }
    arrivals.end()
}

/// The archive, readable at any place, and what to call it.
fn open_archive(path: &Path, places: &[Place]) -> Result<(File, PathBuf)> {
    if path.as_os_str() != "-" {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        return Ok((file, path.to_owned()));
    }
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        bail!("an archive is expected on standard input, which is a terminal; name a file");
    }
    // An archive is not read in its own order, and once for each node.
    let mut spool = places[0].spool()?;
    std::io::copy(&mut stdin, &mut spool)
        .and_then(|_bytes| spool.rewind())
        .context("keeping what comes from standard input")?;
    Ok((spool, PathBuf::from(STDIN)))
}

async fn pull(
    places: &[Place],
    image: &str,
    registries: &Registries,
    credentials: Option<Credentials>,
    format: Option<Output>,
) -> Result<ExitCode> {
    let mut arrivals = Arrivals { format, ..Arrivals::default() };
    for place in places {
        let store = place.open(registries).await?;
        let request = PullRequest {
            image: image.to_owned(),
            policy: PullPolicy::Always,
            credentials: credentials.clone().into_iter().collect(),
            by_hand: true,
        };
        let outcome = progress::shown(&place.node, |sender| {
            let (store, request) = (&store, &request);
            async move { store.ensure(request, sender).await }
        })
        .await;
        let outcome = outcome.map_err(|error| anyhow!("{}", refused(&error)))?;
        let tags = image.parse::<Reference>().map(|own| vec![own.to_string()]).unwrap_or_default();
        arrivals.add(place, &ImageInfo { tags, ..outcome.image });
    }
    arrivals.end()
}

/// Who pulls by hand has no pod to give a secret to.
fn refused(error: &Error) -> String {
    match error {
        Error::Unauthorized { tried: false, .. } => format!(
            "{}; check that it exists, and give --credentials USER:PASSWORD",
            error.causes()
        ),
        Error::Unauthorized { .. } => {
            format!("{}; check --credentials, and that they may read it", error.causes())
        }
        Error::InvalidName(error) => format!("{error} ({})", error.reason),
        _ => error.in_full(),
    }
}

fn parse_credentials(text: &str) -> Result<Credentials> {
    let (user, password) = text.split_once(':').context("credentials are USER:PASSWORD")?;
    Ok(Credentials { username: user.to_owned(), password: password.to_owned() })
}

async fn list(places: &[Place], format: Option<Output>) -> Result<ExitCode> {
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    for place in places {
        for image in place.open(&Registries::default()).await?.list()? {
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
        print_document(&document, format == Output::Yaml)?;
    } else if rows.is_empty() {
        output::remark("no images; `atoll image import` and `atoll image pull` bring some");
    } else {
        let columns = ["NODE", "IMAGE", "DIGEST", "SIZE"].map(ToOwned::to_owned).to_vec();
        output::write(&Table { columns, rows }.render(true));
    }
    Ok(ExitCode::SUCCESS)
}

/// Each image from every node that has it. An image that none has is an error, after the
/// others are gone.
async fn remove(places: &[Place], images: &[String]) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for image in images {
        let mut found = false;
        for place in places {
            let store = place.open(&Registries::default()).await?;
            let Some(name) = named(&store.list()?, image)? else { continue };
            store.remove(&name).await.map_err(|error| anyhow!("{}", error.in_full()))?;
            output::line(&format!("{}: removed {image}", place.node));
            found = true;
        }
        if !found {
            output::remark(&format!(
                "error: no node has an image {image}; `atoll image list` shows what there is"
            ));
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// What the store calls the image that a person means; digests may be cut short, as lists
/// show them.
fn named(images: &[ImageInfo], wanted: &str) -> Result<Option<String>> {
    const DIGITS_MIN: usize = 6;
    let full = wanted.parse::<Reference>().map(|name| name.to_string());
    let has = |name: &str| {
        images.iter().any(|i| i.tags.iter().chain(&i.repo_digests).any(|own| own == name))
    };
    if let Ok(full) = full.as_ref()
        && has(full)
    {
        return Ok(Some(full.clone()));
    }
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    if digits.len() < DIGITS_MIN || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        full?;
        return Ok(None);
    }
    let prefix = format!("sha256:{digits}");
    let mut fitting = images.iter().filter(|image| {
        image.digest.starts_with(&prefix) || image.config_digest.starts_with(&prefix)
    });
    match (fitting.next(), fitting.next()) {
        (Some(image), None) => Ok(Some(image.digest.clone())),
        (Some(_), Some(_)) => bail!("several images have a digest that begins with {digits}"),
        (None, _) => Ok(None),
    }
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
    use super::*;

    #[test]
    fn sizes_are_read_at_a_glance() {
        assert_eq!(size(999), "999B");
        assert_eq!(size(5_610_000), "5.6MB");
        assert_eq!(size(1_250_000_000), "1.2GB");
    }

    #[test]
    fn an_image_is_found_by_name_or_by_the_start_of_its_digest() {
        let image = |digit: char| ImageInfo {
            digest: format!("sha256:abcdef{}", digit.to_string().repeat(58)),
            config_digest: format!("sha256:{}", "9".repeat(64)),
            tags: vec!["docker.io/library/node:18".into()],
            repo_digests: Vec::new(),
            config: atoll_image::ImageConfig::default(),
            layers: Vec::new(),
            size_bytes: 0,
            builtin: false,
        };
        let one = [image('1')];
        assert_eq!(named(&one, "node:18").unwrap().unwrap(), "docker.io/library/node:18");
        assert_eq!(named(&one, "abcdef1").unwrap().unwrap(), one[0].digest);
        assert_eq!(named(&one, "node:19").unwrap(), None);
        assert!(named(&one, "No//de").is_err());
        assert!(named(&[image('1'), image('2')], "sha256:abcdef").is_err());
    }
}
