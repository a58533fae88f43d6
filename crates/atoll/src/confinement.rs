//! The flags that say how containers are confined, of every command that starts nodes.

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Confinement {
    /// Containers that name no seccomp profile get RuntimeDefault; without it they are unconfined
    #[arg(long)]
    pub seccomp_default: bool,
}

impl Confinement {
    /// The same as flags and values of `atoll agent`.
    pub fn arguments(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.seccomp_default.then(|| ("seccomp-default", String::new())).into_iter()
    }
}
