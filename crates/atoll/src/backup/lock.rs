//! With what a backup is locked and opened: keys and passphrases, from files or a terminal.

use crate::keys::read_secret;
use anyhow::{Context as _, Result, bail};
use atoll_backup::age::{Identity, Key, Lock, Recipient};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
};

/// Shorter ones are found by trying.
const PASSPHRASE_MIN: usize = 12;

/// For the owners of the keys, or with a passphrase from a file or the terminal.
pub fn to_lock(recipients: &[String], passphrase_file: Option<&Path>) -> Result<Lock> {
    if !recipients.is_empty() {
        let recipients = recipients
            .iter()
            .map(|text| text.parse::<Recipient>().with_context(|| format!("--recipient {text}")))
            .collect::<Result<_>>()?;
        return Ok(Lock::Recipients(recipients));
    }
    let passphrase = match passphrase_file {
        Some(path) => from_file(path)?,
        None => ask_twice()?,
    };
    if passphrase.chars().count() < PASSPHRASE_MIN {
        bail!(
            "the passphrase is too short: whoever has the file can try many; take at least {PASSPHRASE_MIN} characters"
        );
    }
    Ok(Lock::Passphrase(passphrase))
}

/// With the keys of a file, or a passphrase from a file or the terminal.
pub fn to_open(identity: Option<&Path>, passphrase_file: Option<&Path>) -> Result<Key> {
    if let Some(path) = identity {
        let text = read_secret(path)?;
        let keys = Identity::parse_file(&text)
            .with_context(|| format!("reading the key file {}", path.display()))?;
        return Ok(Key::Identities(keys));
    }
    let passphrase = match passphrase_file {
        Some(path) => from_file(path)?,
        None => Terminal::open("give --passphrase-file or --identity")?
            .ask("Passphrase of the backup: ")?,
    };
    Ok(Key::Passphrase(passphrase))
}

/// Its first line, which nobody but its owner may read.
fn from_file(path: &Path) -> Result<String> {
    let text = read_secret(path)?;
    let line = text.lines().next().unwrap_or_default();
    anyhow::ensure!(!line.is_empty(), "the passphrase file {} is empty", path.display());
    Ok(line.to_owned())
}

fn ask_twice() -> Result<String> {
    let mut terminal = Terminal::open("give --recipient or --passphrase-file")?;
    let first = terminal.ask("Passphrase for the backup: ")?;
    if terminal.ask("The same once more: ")? != first {
        bail!("these were two different passphrases");
    }
    Ok(first)
}

/// The terminal of whoever typed the command, even if the standard streams are something else.
struct Terminal(File);

impl Terminal {
    fn open(otherwise: &str) -> Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).open("/dev/tty").with_context(|| {
                format!("there is no terminal to ask for a passphrase; {otherwise}")
            })?;
        Ok(Self(file))
    }

    /// What is typed is not shown.
    fn ask(&mut self, question: &str) -> Result<String> {
        let asking = "asking for the passphrase";
        self.0.write_all(question.as_bytes()).context(asking)?;
        let before = tcgetattr(&self.0).context(asking)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&self.0, OptionalActions::Flush, &silent).context(asking)?;
        let mut line = String::new();
        // One question at a time, so nothing that was typed ahead is lost in the buffer.
        let read = BufReader::new(&self.0).read_line(&mut line);
        tcsetattr(&self.0, OptionalActions::Now, &before).context(asking)?;
        self.0.write_all(b"\n").context(asking)?;
        read.context(asking)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}
