//! The flags that say how registries are reached, of every command that starts nodes.

use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Registries {
    /// Registries that are reached without TLS, beside loopback
    #[arg(long, value_name = "HOST:PORT")]
    pub plain_http: Vec<String>,
    /// Another place for a registry's images, as docker.io=https://mirror.example
    #[arg(long = "mirror", value_name = "REGISTRY=URL", value_parser = mirror)]
    pub mirrors: Vec<(String, String)>,
}

impl Registries {
    /// The same as flags and values of `atoll agent`.
    pub fn arguments(&self) -> impl Iterator<Item = (&'static str, String)> {
        let plain = self.plain_http.iter().map(|host| ("plain-http", host.clone()));
        let mirrors = self.mirrors.iter();
        plain.chain(mirrors.map(|(registry, url)| ("mirror", format!("{registry}={url}"))))
    }

    /// Several mirrors of one registry are asked in the order of the flags.
    pub fn mirrors(&self) -> BTreeMap<String, Vec<String>> {
        let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (registry, url) in &self.mirrors {
            mirrors.entry(registry.clone()).or_default().push(url.clone());
        }
        mirrors
    }
}

pub fn mirror(text: &str) -> Result<(String, String)> {
    let (registry, url) =
        text.split_once('=').with_context(|| format!("{text:?} is not REGISTRY=URL"))?;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        bail!("{url:?} is no address of a mirror: it begins with http:// or https://");
    }
    Ok((registry.to_owned(), url.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        registries: Registries,
    }

    #[test]
    fn the_flags_of_dev_are_those_of_its_agents() {
        let words = [
            "dev",
            "--plain-http",
            "registry.example:5000",
            "--mirror",
            "docker.io=https://one.example",
            "--mirror",
            "docker.io=http://two.example/x=y",
        ];
        let dev = Command::parse_from(words).registries;
        let passed: Vec<String> =
            dev.arguments().flat_map(|(flag, value)| [format!("--{flag}"), value]).collect();
        assert_eq!(passed, words[1..]);
        let urls = ["https://one.example".to_owned(), "http://two.example/x=y".to_owned()];
        assert_eq!(dev.mirrors(), BTreeMap::from([("docker.io".to_owned(), urls.to_vec())]));
        assert!(Command::try_parse_from(["dev", "--mirror", "docker.io=one.example"]).is_err());
    }
}
