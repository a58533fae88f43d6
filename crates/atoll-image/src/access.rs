//! Who may use an image that took credentials to pull: who shows them again.
//!
//! Otherwise a pod could run a private image only because another pod's secret has brought
//! it to the node. The index keeps a salted hash of each pair that a registry accepted.

use crate::config::Credentials;
use crate::digest::Hasher;

/// Of the hash; enough to tell pairs apart, and too little to be sure of a guess.
const DIGITS: usize = 16;

fn hash(salt: &str, credentials: &Credentials) -> String {
    let mut hasher = Hasher::default();
    for part in [salt, &credentials.username, &credentials.password] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    crate::digest::hex(&hasher.finish()).chars().take(DIGITS).collect()
}

/// Pairs that are kept of one image. With more the oldest goes, and has to ask again.
const SEALS_MAX: usize = 100;

/// Keeps one more pair, once.
pub(crate) fn add(mut seals: Vec<String>, credentials: &Credentials) -> Vec<String> {
    if !opens(&seals, std::slice::from_ref(credentials)) {
        seals.push(seal(credentials));
    }
    let surplus = seals.len().saturating_sub(SEALS_MAX);
    seals.drain(..surplus);
    seals
}

/// What is kept of credentials: a salt, and the hash with it.
fn seal(credentials: &Credentials) -> String {
    let salt = format!("{:016x}", rand::random::<u64>());
    format!("{salt}:{}", hash(&salt, credentials))
}

/// Whether one of the credentials is among those that are kept.
pub(crate) fn opens(seals: &[String], credentials: &[Credentials]) -> bool {
    seals
        .iter()
        .filter_map(|seal| seal.split_once(':'))
        .any(|(salt, kept)| credentials.iter().any(|credentials| hash(salt, credentials) == kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_pair_opens() {
        let pair = |username: &str, password: &str| Credentials {
            username: username.into(),
            password: password.into(),
        };
        let seals = [seal(&pair("ali", "open sesame")), seal(&pair("baba", "x"))];
        assert!(opens(&seals, &[pair("nobody", ""), pair("ali", "open sesame")]));
        for wrong in [pair("ali", "x"), pair("alio", "pen sesame"), pair("", "")] {
            assert!(!opens(&seals, &[wrong]));
        }
        assert!(!opens(&seals, &[]));
        let once = add(add(Vec::new(), &pair("ali", "x")), &pair("ali", "x"));
        assert_eq!(once.len(), 1);
        assert!(!seals[0].contains("sesame"));
    }
}
