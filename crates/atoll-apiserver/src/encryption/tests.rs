//! Values sealed and opened, and keys that change.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::envelope::{self, EnvelopeError, SecretKey};
use super::ring::Ring;
use super::{Encryption, new_key_file};

const ID: &str = "0123456789abcdef";

fn key() -> SecretKey {
    SecretKey::random().unwrap()
}

#[test]
fn a_value_opens_where_it_was_put_and_nowhere_else() {
    let key = key();
    let sealed = envelope::seal(&key, ID, b"/registry/core/secrets/a/b", b"hunter2").unwrap();
    assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
    assert_eq!(envelope::key_id(&sealed), Some(ID));
    assert_eq!(envelope::open(&key, b"/registry/core/secrets/a/b", &sealed).unwrap(), b"hunter2");
    let elsewhere = envelope::open(&key, b"/registry/core/secrets/a/c", &sealed);
    assert_eq!(elsewhere, Err(EnvelopeError::Forged));
    let other = SecretKey::random().unwrap();
    assert_eq!(
        envelope::open(&other, b"/registry/core/secrets/a/b", &sealed),
        Err(EnvelopeError::Forged)
    );
}

#[test]
fn whatever_is_changed_or_cut_does_not_open() {
    let key = key();
    let sealed = envelope::seal(&key, ID, b"k", b"value").unwrap();
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(envelope::open(&key, b"k", &changed).is_err(), "byte {at}");
        assert!(envelope::open(&key, b"k", &sealed[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn the_same_value_is_never_sealed_the_same() {
    let key = key();
    let seal = || envelope::seal(&key, ID, b"k", b"value").unwrap();
    assert_ne!(seal(), seal());
}

fn ring(text: &str) -> (Ring, Arc<Mutex<String>>) {
    let saved = Arc::new(Mutex::new(text.to_owned()));
    let file = saved.clone();
    let save = Arc::new(move |text: &str| {
        text.clone_into(&mut file.lock().unwrap());
        Ok(())
    });
    (Ring::read(text, save).unwrap(), saved)
}

#[test]
fn a_ring_is_what_its_file_says() {
    let (first, saved) = ring(&new_key_file().unwrap());
    let old = first.primary();
    let sealed = first.seal(b"k", Bytes::from_static(b"value")).unwrap();
    first.add(ID, key()).unwrap();
    assert_eq!(first.primary(), old, "known is not used");
    first.promote(ID).unwrap();
    let newer = first.seal(b"k", Bytes::from_static(b"value")).unwrap();
    assert_eq!(envelope::key_id(&newer), Some(ID));
    let text = saved.lock().unwrap().clone();
    let (again, _) = ring(&text);
    assert_eq!(again.open(b"k", sealed.clone()).unwrap(), "value");
    again.keep_only(ID).unwrap();
    assert_eq!(again.open(b"k", sealed.clone()).unwrap(), "value", "kept until the process ends");
    first.keep_only(ID).unwrap();
    let (third, _) = ring(&saved.lock().unwrap().clone());
    assert_eq!(third.open(b"k", sealed), Err(EnvelopeError::UnknownKey { id: old }));
    assert_eq!(third.open(b"k", newer).unwrap(), "value");
}

#[test]
fn without_a_key_nothing_is_sealed_and_plain_values_are_read() {
    let (empty, _) = ring("");
    assert_eq!(empty.seal(b"k", Bytes::from_static(b"{}")).unwrap(), "{}");
    assert_eq!(empty.open(b"k", Bytes::from_static(b"{}")).unwrap(), "{}");
    assert!(empty.promote(ID).is_err(), "a key that is not known");
}

#[test]
fn a_file_that_cannot_be_read_is_never_shown() {
    for text in [
        "secret",
        "{\"version\":1,\"primary\":\"x\",\"keys\":[]}",
        "{\"version\":2,\"primary\":\"\",\"keys\":[]}",
    ] {
        let save = Arc::new(|_: &str| Ok(()));
        let why = Ring::read(text, save).err().unwrap();
        assert!(!why.contains("secret"), "{why}");
    }
}

#[test]
fn resources_are_named_like_in_errors() {
    let encryption = |resource: &str| {
        Encryption::new("", Arc::new(|_: &str| Ok(())), b"s", &[resource.to_owned()])
    };
    let widgets = encryption("widgets.example.com").unwrap();
    assert!(widgets.covers(b"/registry/example.com/widgets/ns/a"));
    let secrets = encryption("secrets").unwrap();
    assert!(secrets.covers(b"/registry/core/secrets/ns/a"));
    assert!(!secrets.covers(b"/registry/core/secretsandmore/ns/a"));
    assert!(encryption("a/b").is_err() && encryption("").is_err());
}
