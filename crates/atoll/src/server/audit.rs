//! The audit log of a server: kube-apiserver's flags with their meaning.

use anyhow::{Context as _, Result, anyhow};
use atoll_apiserver::AuditConfig;
use atoll_apiserver::audit::{LogConfig, Policy};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Audit {
    /// What is kept of who asks the API for what: an audit.k8s.io/v1 Policy
    #[arg(long, value_name = "FILE", requires = "audit_log_path", help_heading = "Audit")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where it is kept, a line of JSON an event; - is standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file", help_heading = "Audit")]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes of a file before the next one begins [default: 100]
    #[arg(long, value_name = "MB", default_value_t = 0, hide_default_value = true)]
    #[arg(help_heading = "Audit")]
    pub audit_log_maxsize: u64,
    /// How many old files are kept; all with 0
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Audit")]
    pub audit_log_maxbackup: usize,
    /// How many days old files are kept; for ever with 0
    #[arg(long, value_name = "DAYS", default_value_t = 0, help_heading = "Audit")]
    #[arg(value_parser = clap::value_parser!(i64).range(0..=100_000))]
    pub audit_log_maxage: i64,
}

impl Audit {
    /// Reads the policy; a bad one is refused with the line of what is wrong.
    pub fn config(&self) -> Result<Option<AuditConfig>> {
        let (Some(policy), Some(path)) = (&self.audit_policy_file, &self.audit_log_path) else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(policy)
            .with_context(|| format!("reading the audit policy {}", policy.display()))?;
        let policy = Policy::parse(&text)
            .map_err(|error| anyhow!("{}, {error}", policy.display()))
            .context("the audit policy is refused")?;
        let log = LogConfig {
            path: path.clone(),
            max_size_mb: self.audit_log_maxsize,
            max_backups: self.audit_log_maxbackup,
            max_age_days: self.audit_log_maxage,
        };
        Ok(Some(AuditConfig { policy: Arc::new(policy), log }))
    }

    /// The flags of one server of several: each writes a file of its own.
    pub fn arguments(&self, number: usize) -> Result<Vec<(&'static str, String)>> {
        let (Some(policy), Some(path)) = (&self.audit_policy_file, &self.audit_log_path) else {
            return Ok(Vec::new());
        };
        let whole = |path: &Path| {
            let whole = std::path::absolute(path);
            whole.with_context(|| format!("finding out where {} is", path.display()))
        };
        let path =
            if path == Path::new("-") { path.clone() } else { whole(&numbered(path, number))? };
        Ok(vec![
            ("audit-policy-file", whole(policy)?.display().to_string()),
            ("audit-log-path", path.display().to_string()),
            ("audit-log-maxsize", self.audit_log_maxsize.to_string()),
            ("audit-log-maxbackup", self.audit_log_maxbackup.to_string()),
            ("audit-log-maxage", self.audit_log_maxage.to_string()),
        ])
    }
}

/// `audit.log`, `audit-2.log` and so on.
fn numbered(path: &Path, number: usize) -> PathBuf {
    if number <= 1 {
        return path.to_owned();
    }
    let part =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let stem = part(path.file_stem()).unwrap_or_default();
    let extension = part(path.extension()).map(|own| format!(".{own}")).unwrap_or_default();
    path.with_file_name(format!("{stem}-{number}{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_its_own_file() {
        assert_eq!(numbered(Path::new("/a/audit.log"), 1), Path::new("/a/audit.log"));
        assert_eq!(numbered(Path::new("/a/audit.log"), 3), Path::new("/a/audit-3.log"));
    }

    #[test]
    fn a_bad_policy_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: All\n")
            .unwrap();
        let audit = Audit {
            audit_policy_file: Some(file.clone()),
            audit_log_path: Some(folder.path().join("audit.log")),
            ..Audit::default()
        };
        let error = format!("{:#}", audit.config().unwrap_err());
        let start =
            format!("the audit policy is refused: {}, line 4: rules[0].level", file.display());
        assert!(error.starts_with(&start), "{error}");
    }
}
