//! What is locked opens again; whatever is done to it in between does not.

use super::*;

fn passphrase(text: &str) -> (Lock, Key) {
    (Lock::Passphrase(text.into()), Key::Passphrase(text.into()))
}

fn pair() -> (Lock, Key) {
    let identities = Identity::parse_file(&generate().unwrap()).unwrap();
    let recipient = identities[0].recipient().unwrap();
    (Lock::Recipients(vec![recipient]), Key::Identities(identities))
}

fn seal(lock: &Lock, content: &[u8], piece: usize) -> Vec<u8> {
    let (mut sealer, mut out) = Sealer::new(lock).unwrap();
    for piece in content.chunks(piece) {
        sealer.push(piece, &mut out).unwrap();
    }
    sealer.finish(&mut out).unwrap();
    out
}

fn open(key: &Key, sealed: &[u8], piece: usize) -> Result<Vec<u8>, Error> {
    let mut opener = Opener::new(key.clone());
    let mut out = Vec::new();
    for piece in sealed.chunks(piece) {
        opener.push(piece, &mut out)?;
    }
    opener.finish(&mut out)?;
    Ok(out)
}

fn content(bytes: usize) -> Vec<u8> {
    (0..=250).cycle().take(bytes).collect()
}

#[test]
fn content_of_any_length_comes_back() {
    let (lock, key) = pair();
    for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 200_001] {
        for piece in [1000, CHUNK_BYTES, 1 << 20] {
            let sealed = seal(&lock, &content(bytes), piece);
            assert_eq!(open(&key, &sealed, piece).unwrap(), content(bytes), "{bytes} {piece}");
        }
    }
    let sealed = seal(&lock, b"few", 1);
    assert_eq!(open(&key, &sealed, 1).unwrap(), b"few");
}

#[test]
fn a_passphrase_opens_and_another_does_not() {
    let (lock, key) = passphrase("correct horse");
    let sealed = seal(&lock, b"content", 100);
    assert_eq!(open(&key, &sealed, sealed.len()).unwrap(), b"content");
    let (_, other) = passphrase("correct horse ");
    assert_eq!(open(&other, &sealed, sealed.len()), Err(Error::WrongPassphrase));
    let (_, identity) = pair();
    assert_eq!(open(&identity, &sealed, 9), Err(Error::NeedsPassphrase));
}

#[test]
fn a_file_opens_for_each_of_its_keys_and_no_other() {
    let ((Lock::Recipients(mut first), first_key), (Lock::Recipients(second), second_key)) =
        (pair(), pair())
    else {
        unreachable!()
    };
    first.extend(second);
    let sealed = seal(&Lock::Recipients(first), b"content", 100);
    for key in [first_key, second_key] {
        assert_eq!(open(&key, &sealed, 50).unwrap(), b"content");
    }
    assert_eq!(open(&pair().1, &sealed, 50), Err(Error::OtherKey));
    assert_eq!(open(&passphrase("x").1, &sealed, 50), Err(Error::NeedsIdentity));
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let (lock, key) = pair();
    let sealed = seal(&lock, b"some content", 100);
    for at in 0..sealed.len() {
        for bit in [1, 0x80] {
            let mut damaged = sealed.clone();
            damaged[at] ^= bit;
            let opened = open(&key, &damaged, 4096);
            assert!(opened.is_err(), "byte {at}, mask {bit:x}: {opened:?}");
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (lock, key) = pair();
    let sealed = seal(&lock, &content(2 * CHUNK_BYTES + 5), 100_000);
    let head = sealed.len() - (2 * SEALED_BYTES + 5 + TAG_BYTES);
    for length in (0..head + 3).chain([
        head + SEALED_BYTES,
        head + 2 * SEALED_BYTES,
        head + 2 * SEALED_BYTES + 3,
        sealed.len() - 1,
    ]) {
        let opened = open(&key, &sealed[..length], 4096);
        assert!(opened.is_err(), "{length}");
    }
    // On a chunk's border it is certain that it was cut.
    assert_eq!(open(&key, &sealed[..head + SEALED_BYTES], 4096), Err(Error::Cut));
    let mut longer = sealed.clone();
    longer.push(0);
    assert!(open(&key, &longer, 4096).is_err());
}

#[test]
fn chunks_cannot_change_places() {
    let (lock, key) = pair();
    let sealed = seal(&lock, &content(3 * CHUNK_BYTES), 100_000);
    let head = sealed.len() - 3 * SEALED_BYTES;
    let mut swapped = sealed[..head].to_vec();
    swapped.extend_from_slice(&sealed[head + SEALED_BYTES..head + 2 * SEALED_BYTES]);
    swapped.extend_from_slice(&sealed[head..head + SEALED_BYTES]);
    swapped.extend_from_slice(&sealed[head + 2 * SEALED_BYTES..]);
    let (from, to) = (head as u64, (head + SEALED_BYTES) as u64);
    assert_eq!(open(&key, &swapped, 4096), Err(Error::Damaged { from, to }));
}

#[test]
fn what_is_no_such_file_is_said_to_be_none() {
    let key = passphrase("x").1;
    assert_eq!(open(&key, b"-----BEGIN SOMETHING-----\n", 5), Err(Error::NotEncrypted));
    assert_eq!(open(&key, b"", 5), Err(Error::NotEncrypted));
    let costly = "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 30\nAAAA\n--- AAAA\n";
    assert_eq!(open(&key, costly.as_bytes(), 100), Err(Error::TooCostly { log_n: 30 }));
    let endless = [b"age-encryption.org/v1\n".to_vec(), vec![b'x'; 100_000]].concat();
    assert_eq!(open(&key, &endless, 5000), Err(Error::Header("it does not end")));
}

#[test]
fn keys_that_are_none_are_refused_with_a_reason() {
    let secret = generate().unwrap();
    assert!(secret.starts_with("AGE-SECRET-KEY-1"), "{secret}");
    let refused = secret.parse::<Recipient>().unwrap_err().to_string();
    assert!(refused.contains("secret key"), "{refused}");
    assert!("age1qqqq".parse::<Recipient>().is_err());
    assert!(Identity::parse_file("# only a remark\n").is_err());
    let recipient = Identity::parse_file(&secret).unwrap()[0].recipient().unwrap();
    assert_eq!(recipient.to_string().parse::<Recipient>().unwrap(), recipient);
}
