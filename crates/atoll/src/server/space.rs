//! How much the applications' keyspace may hold, and how much of its history is kept: etcd's flags
//! with their meaning.

use anyhow::{Context as _, Result, bail, ensure};
use atoll_store::{KeyspaceLimits, Retention};
use std::{fmt, str::FromStr, time::Duration};

/// Twice etcd's default, half of what a store is made for.
const QUOTA_BYTES: u64 = 4 << 30;
/// What a store is made for; its index is in memory.
const QUOTA_BYTES_MAX: u64 = 8 << 30;
/// Smaller ones would be full with a single request.
const QUOTA_BYTES_MIN: u64 = 2 << 20;
const PERIOD_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, clap::Args)]
pub struct Space {
    /// What --etcd-auto-compaction-retention counts
    #[arg(
        id = "etcd_auto_compaction_mode",
        long = "etcd-auto-compaction-mode",
        value_enum,
        default_value_t = Mode::Periodic,
        value_name = "MODE"
    )]
    pub mode: Mode,
    /// How much history of the applications' keys is kept: hours or a duration such as 30m with
    /// periodic, a number with revision; with 0 all, until clients compact it or space runs short
    #[arg(
        id = "etcd_auto_compaction_retention",
        long = "etcd-auto-compaction-retention",
        default_value_t = Kept::Number(0),
        value_name = "RETENTION"
    )]
    pub retention: Kept,
    /// How many bytes the applications' keys may take, history included; beyond it writes are
    /// refused but for deletes; 0 is the default
    #[arg(
        id = "etcd_quota_backend_bytes",
        long = "etcd-quota-backend-bytes",
        default_value_t = QUOTA_BYTES,
        value_name = "BYTES"
    )]
    pub quota_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    Periodic,
    Revision,
}

/// As it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Number(u32),
    Period(Duration),
}

impl Space {
    pub fn limits(&self, default: KeyspaceLimits) -> Result<KeyspaceLimits> {
        let quota_bytes = match self.quota_bytes {
            0 => QUOTA_BYTES,
            bytes => bytes,
        };
        ensure!(
            (QUOTA_BYTES_MIN..=QUOTA_BYTES_MAX).contains(&quota_bytes),
            "--etcd-quota-backend-bytes {quota_bytes} must be {QUOTA_BYTES_MIN} to {QUOTA_BYTES_MAX} bytes (8 GiB), or 0 for the default"
        );
        Ok(KeyspaceLimits { quota_bytes, retention: self.retention()?, ..default })
    }

    fn retention(&self) -> Result<Retention> {
        Ok(match (self.mode, self.retention) {
            (_, Kept::Number(0)) => Retention::WhileRoom,
            (Mode::Periodic, Kept::Number(hours)) => {
                Retention::Period(Duration::from_secs(u64::from(hours) * 3600))
            }
            (Mode::Periodic, Kept::Period(period)) => Retention::Period(period),
            (Mode::Revision, Kept::Number(count)) => Retention::Revisions(i64::from(count)),
            (Mode::Revision, Kept::Period(_)) => bail!(
                "--etcd-auto-compaction-retention {} is a duration; with --etcd-auto-compaction-mode revision it is a number of revisions",
                self.retention
            ),
        })
    }

    /// The flags for a server that is started with the same.
    pub fn arguments(&self) -> Vec<(&'static str, String)> {
        vec![
            ("etcd-auto-compaction-mode", self.mode.to_string()),
            ("etcd-auto-compaction-retention", self.retention.to_string()),
            ("etcd-quota-backend-bytes", self.quota_bytes.to_string()),
        ]
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Periodic => "periodic",
            Self::Revision => "revision",
        })
    }
}

impl FromStr for Kept {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(number) = text.parse() {
            return Ok(Self::Number(number));
        }
        let wrong = || format!("{text:?} is neither a number nor a duration such as 30m or 1h30m");
        let period = period(text).with_context(wrong)?;
        ensure!(period >= PERIOD_MIN, "{text:?}: the shortest period is 1s");
        Ok(Self::Period(period))
    }
}

/// Go's durations, as far as somebody would write them here.
fn period(text: &str) -> Option<Duration> {
    let mut whole = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|one: char| !one.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|one: char| one.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        whole += Duration::from_millis(unit) * number;
        rest = &rest[letters..];
    }
    (!whole.is_zero()).then_some(whole)
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Period(period) => {
                let millis = period.as_millis();
                let (seconds, rest) = (millis / 1000, millis % 1000);
                let parts = [
                    (seconds / 3600, "h"),
                    (seconds / 60 % 60, "m"),
                    (seconds % 60, "s"),
                    (rest, "ms"),
                ];
                for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
                    write!(f, "{number}{unit}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: KeyspaceLimits =
        KeyspaceLimits { quota_bytes: 1, retention: Retention::WhileRoom, few_revisions: 0 };

    fn limits(mode: Mode, retention: &str, quota_bytes: u64) -> Result<KeyspaceLimits> {
        Space { mode, retention: retention.parse()?, quota_bytes }.limits(DEFAULT)
    }

    #[test]
    fn retentions_mean_what_they_mean_to_etcd() {
        let kept = |mode, text| limits(mode, text, 0).unwrap().retention;
        assert_eq!(kept(Mode::Periodic, "0"), Retention::WhileRoom);
        assert_eq!(kept(Mode::Revision, "0"), Retention::WhileRoom);
        assert_eq!(kept(Mode::Periodic, "2"), Retention::Period(Duration::from_secs(7200)));
        assert_eq!(kept(Mode::Periodic, "1h30m"), Retention::Period(Duration::from_secs(5400)));
        assert_eq!(kept(Mode::Revision, "1000"), Retention::Revisions(1000));
        for wrong in ["", "-1", "soon", "5x", "1.5h", "10ms", "m"] {
            assert!(wrong.parse::<Kept>().is_err(), "{wrong:?}");
        }
        let refused = limits(Mode::Revision, "10m", 0).unwrap_err().to_string();
        assert!(refused.contains("10m is a duration"), "{refused}");
    }

    #[test]
    fn what_is_handed_on_is_the_same() {
        for text in ["0", "24", "90s", "1h1m1s", "1500ms"] {
            let kept: Kept = text.parse().unwrap();
            assert_eq!(kept.to_string().parse::<Kept>().unwrap(), kept, "{text}");
        }
        assert_eq!("90m".parse::<Kept>().unwrap().to_string(), "1h30m");
    }

    #[test]
    fn a_quota_has_a_sensible_size() {
        let quota = |bytes| limits(Mode::Periodic, "0", bytes).map(|limits| limits.quota_bytes);
        assert_eq!(quota(0).unwrap(), QUOTA_BYTES);
        assert_eq!(quota(16 << 20).unwrap(), 16 << 20);
        for wrong in [1, 9 << 30] {
            let refused = quota(wrong).unwrap_err().to_string();
            assert!(refused.contains("--etcd-quota-backend-bytes"), "{refused}");
        }
    }
}
