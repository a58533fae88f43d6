//! The `age` program opens what is locked here, and the other way round.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use atoll_backup::age::{Error, Identity, Key, Lock, Opener, Sealer};

/// `None`, with a word, where there is no `age`; under CI there has to be.
#[allow(clippy::disallowed_methods, reason = "whether the test may be skipped")]
fn age_is_there() -> bool {
    let there = Command::new("age").arg("--version").output().is_ok();
    if !there {
        assert!(std::env::var_os("CI").is_none(), "the program age is missing");
        println!("skipped: the program age is missing");
    }
    there
}

fn seal(lock: &Lock, content: &[u8]) -> Vec<u8> {
    let (mut sealer, mut out) = Sealer::new(lock).unwrap();
    sealer.push(content, &mut out).unwrap();
    sealer.finish(&mut out).unwrap();
    out
}

fn open(key: Key, sealed: &[u8]) -> Result<Vec<u8>, Error> {
    let (mut opener, mut out) = (Opener::new(key), Vec::new());
    opener.push(sealed, &mut out)?;
    opener.finish(&mut out)?;
    Ok(out)
}

fn content() -> Vec<u8> {
    (0..=250).cycle().take(200_000).collect()
}

/// It asks for passphrases on a terminal, so `script` makes one.
fn on_a_terminal(command: &str, typed: &str, folder: &Path) {
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", command, "/dev/null"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command}");
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> Vec<u8> {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}

#[test]
fn keys_of_age_keygen_lock_and_open_on_both_sides() {
    if !age_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    run("age-keygen", &["-o", "key.txt"], folder.path());
    let text = std::fs::read_to_string(at("key.txt")).unwrap();
    let identities = Identity::parse_file(&text).unwrap();
    let recipient = identities[0].recipient().unwrap();
    let said = String::from_utf8(run("age-keygen", &["-y", "key.txt"], folder.path())).unwrap();
    assert_eq!(said.trim(), recipient.to_string());

    std::fs::write(at("ours.age"), seal(&Lock::Recipients(vec![recipient]), &content())).unwrap();
    let opened = run("age", &["-d", "-i", "key.txt", "ours.age"], folder.path());
    assert!(opened == content());

    std::fs::write(at("plain"), content()).unwrap();
    let recipient = recipient.to_string();
    run("age", &["-r", &recipient, "-o", "theirs.age", "plain"], folder.path());
    let theirs = std::fs::read(at("theirs.age")).unwrap();
    assert!(open(Key::Identities(identities), &theirs).unwrap() == content());
}

#[test]
fn passphrases_lock_and_open_on_both_sides() {
    if !age_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let words = "correct horse battery staple";
    std::fs::write(at("ours.age"), seal(&Lock::Passphrase(words.into()), &content())).unwrap();
    on_a_terminal("age -d -o opened ours.age", &format!("{words}\n"), folder.path());
    assert!(std::fs::read(at("opened")).unwrap() == content());

    std::fs::write(at("plain"), content()).unwrap();
    let typed = format!("{words}\n{words}\n");
    on_a_terminal("age -p -o theirs.age plain", &typed, folder.path());
    let theirs = std::fs::read(at("theirs.age")).unwrap();
    assert!(open(Key::Passphrase(words.into()), &theirs).unwrap() == content());
}
