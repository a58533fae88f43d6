//! An age file's header: lines of text that wrap the file's key, and their checksum.

use aws_lc_rs::aead::{Aad, Nonce};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::keys::{EphemeralKey, Identity, Recipient};
use super::{Error, FILE_KEY_BYTES, FileKey, Key, Lock, aead_key, derive, random};

/// Ours has less than a kilobyte; one for a hundred keys has ten.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
const FIRST_LINE: &str = "age-encryption.org/v1";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
const SCRYPT_INFO: &[u8] = b"age-encryption.org/v1/scrypt";
const SALT_BYTES: usize = 16;
/// Trying a passphrase takes 2^17 KiB of memory and about half a second.
const LOG_N: u8 = 17;
/// What age takes by itself. More would let a file that somebody made up take all the memory.
const LOG_N_MAX: u8 = 18;
/// A body's lines have this many characters, all but the last, which has fewer.
const LINE: usize = 64;

/// One way to the file's key.
struct Stanza<'a> {
    arguments: Vec<&'a str>,
    body: Vec<u8>,
}

pub(super) fn write(file_key: &FileKey, lock: &Lock) -> Result<Vec<u8>, Error> {
    let mut text = format!("{FIRST_LINE}\n");
    match lock {
        Lock::Passphrase(passphrase) => {
            let salt: [u8; SALT_BYTES] = random()?;
            let key = passphrase_key(passphrase, &salt, LOG_N)?;
            let arguments = format!("scrypt {} {LOG_N}", STANDARD_NO_PAD.encode(salt));
            write_stanza(&mut text, &arguments, &wrap(&key, file_key)?);
        }
        Lock::Recipients(recipients) => {
            if recipients.is_empty() {
                return Err(Error::Key("there is no key to encrypt for"));
            }
            for recipient in recipients {
                let ephemeral = EphemeralKey::generate()?;
                let share = ephemeral.public()?;
                let key = shared_key(&ephemeral.agree(recipient)?, &share, recipient)?;
                let arguments = format!("X25519 {}", STANDARD_NO_PAD.encode(share));
                write_stanza(&mut text, &arguments, &wrap(&key, file_key)?);
            }
        }
    }
    text.push_str("---");
    let tag = hmac::sign(&header_key(file_key)?, text.as_bytes());
    text.push(' ');
    text.push_str(&STANDARD_NO_PAD.encode(tag));
    text.push('\n');
    Ok(text.into_bytes())
}

fn write_stanza(text: &mut String, arguments: &str, body: &[u8]) {
    text.push_str("-> ");
    text.push_str(arguments);
    text.push('\n');
    // A wrapped key is shorter than a line.
    text.push_str(&STANDARD_NO_PAD.encode(body));
    text.push('\n');
}

/// The file's key and where the header ends; `None` while it has not come whole.
pub(super) fn read(bytes: &[u8], key: &Key) -> Result<Option<(FileKey, usize)>, Error> {
    let start = FIRST_LINE.len().min(bytes.len());
    if bytes[..start] != FIRST_LINE.as_bytes()[..start] {
        return Err(Error::NotEncrypted);
    }
    let Some(end) = end_of(bytes) else {
        let too_long = bytes.len() > HEADER_BYTES_MAX;
        return if too_long { Err(Error::Header("it does not end")) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&bytes[..end]).ok().filter(|text| text.is_ascii());
    let text = text.ok_or(Error::Header("it is not text"))?;
    let (signed, tag) = text
        .trim_end_matches('\n')
        .rsplit_once(' ')
        .filter(|(signed, _)| signed.ends_with("\n---"))
        .ok_or(Error::Header("its last line is not as it should be"))?;
    let stanzas = stanzas(signed)?;
    let file_key = unwrap(&stanzas, key)?;
    let tag = decode(tag)?;
    hmac::verify(&header_key(&file_key)?, signed.as_bytes(), &tag)
        .map_err(|_unspecified| Error::Header("its checksum is wrong"))?;
    Ok(Some((file_key, end)))
}

/// What to say of a file that ends within its header.
pub(super) fn incomplete(bytes: &[u8]) -> Error {
    if bytes.len() >= FIRST_LINE.len() { Error::Cut } else { Error::NotEncrypted }
}

/// Behind the line that begins with three dashes.
fn end_of(bytes: &[u8]) -> Option<usize> {
    let dashes = bytes.windows(5).position(|window| window == b"\n--- ")?;
    let line = bytes.get(dashes + 1..)?;
    Some(dashes + 2 + line.iter().position(|byte| *byte == b'\n')?)
}

fn stanzas(signed: &str) -> Result<Vec<Stanza<'_>>, Error> {
    let wrong = Error::Header("its lines are not as they should be");
    let mut lines = signed.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err(wrong);
    }
    let mut stanzas = Vec::new();
    loop {
        let Some(line) = lines.next() else { return Err(wrong) };
        if line == "---" && lines.next().is_none() {
            return Ok(stanzas);
        }
        let arguments = line.strip_prefix("-> ").ok_or(wrong.clone())?;
        let mut body = String::new();
        loop {
            let Some(line) = lines.next().filter(|line| line.len() <= LINE) else {
                return Err(wrong);
            };
            body.push_str(line);
            if line.len() < LINE {
                break;
            }
        }
        stanzas.push(Stanza { arguments: arguments.split(' ').collect(), body: decode(&body)? });
    }
}

fn unwrap(stanzas: &[Stanza<'_>], key: &Key) -> Result<FileKey, Error> {
    let passphrase = stanzas.iter().find(|stanza| stanza.arguments.first() == Some(&"scrypt"));
    match (key, passphrase) {
        (Key::Passphrase(given), Some(stanza)) => {
            // As age has it: whoever adds a second way in may know the passphrase, or not.
            if stanzas.len() != 1 {
                return Err(Error::Header("a passphrase is not the only way in"));
            }
            unwrap_by_passphrase(stanza, given)
        }
        (Key::Passphrase(_), None) => Err(Error::NeedsIdentity),
        (Key::Identities(_), Some(_)) => Err(Error::NeedsPassphrase),
        (Key::Identities(identities), None) => {
            for stanza in stanzas {
                for identity in identities {
                    if let Some(file_key) = unwrap_by_identity(stanza, identity)? {
                        return Ok(file_key);
                    }
                }
            }
            Err(Error::OtherKey)
        }
    }
}

fn unwrap_by_passphrase(stanza: &Stanza<'_>, passphrase: &str) -> Result<FileKey, Error> {
    let wrong = Error::Header("how the passphrase is used is not as it should be");
    let [_, salt, log_n] = stanza.arguments[..] else { return Err(wrong) };
    let salt = decode(salt)?;
    let is_number = log_n.bytes().all(|byte| byte.is_ascii_digit()) && !log_n.starts_with('0');
    let log_n: u8 = log_n.parse().ok().filter(|_| is_number).ok_or(wrong.clone())?;
    if salt.len() != SALT_BYTES || log_n >= 64 {
        return Err(wrong);
    }
    if log_n > LOG_N_MAX {
        return Err(Error::TooCostly { log_n });
    }
    let key = passphrase_key(passphrase, &salt, log_n)?;
    open(&key, &stanza.body).ok_or(Error::WrongPassphrase)
}

fn unwrap_by_identity(stanza: &Stanza<'_>, identity: &Identity) -> Result<Option<FileKey>, Error> {
    let ["X25519", share] = stanza.arguments[..] else { return Ok(None) };
    let share: [u8; 32] = decode(share)?
        .try_into()
        .map_err(|_wrong: Vec<u8>| Error::Header("a key in it has another length"))?;
    let shared = identity.agree(&share)?;
    let key = shared_key(&shared, &share, &identity.recipient()?)?;
    Ok(open(&key, &stanza.body))
}

fn shared_key(
    shared: &[u8; 32],
    share: &[u8; 32],
    recipient: &Recipient,
) -> Result<[u8; 32], Error> {
    derive(shared, &[&share[..], recipient.bytes()].concat(), X25519_INFO)
}

fn passphrase_key(passphrase: &str, salt: &[u8], log_n: u8) -> Result<[u8; 32], Error> {
    let parameters =
        scrypt::Params::new(log_n, 8, 1, 32).map_err(|_invalid| Error::TooCostly { log_n })?;
    let salt = [SCRYPT_INFO, salt].concat();
    let mut key = [0; 32];
    scrypt::scrypt(passphrase.as_bytes(), &salt, &parameters, &mut key)
        .map_err(|_invalid| Error::Failed)?;
    Ok(key)
}

fn header_key(file_key: &FileKey) -> Result<hmac::Key, Error> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &derive(file_key, &[], b"header")?))
}

/// Each of these keys wraps one file key, so the nonce may be zero.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn wrap(key: &[u8; 32], file_key: &FileKey) -> Result<Vec<u8>, Error> {
    let mut body = file_key.to_vec();
    aead_key(key)?
        .seal_in_place_append_tag(nonce(), Aad::empty(), &mut body)
        .map_err(|_unspecified| Error::Failed)?;
    Ok(body)
}

fn open(key: &[u8; 32], body: &[u8]) -> Option<FileKey> {
    let mut body = body.to_vec();
    // The length is checked first: another one could be made to open under several keys.
    if body.len() != FILE_KEY_BYTES + 16 {
        return None;
    }
    let opened = aead_key(key).ok()?.open_in_place(nonce(), Aad::empty(), &mut body).ok()?;
    opened.first_chunk::<FILE_KEY_BYTES>().copied()
}

fn decode(text: &str) -> Result<Vec<u8>, Error> {
    STANDARD_NO_PAD.decode(text).map_err(|_malformed| Error::Header("it is not base64"))
}
