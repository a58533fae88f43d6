//! Bech32 (BIP 173) of 32 bytes, the text form of age's keys.

const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const CHECKSUM: usize = 6;

pub(super) fn encode(prefix: &str, bytes: &[u8; 32]) -> String {
    let mut groups = regroup(bytes, 8, 5, true).unwrap_or_default();
    let mut checked = expand(prefix);
    checked.extend_from_slice(&groups);
    checked.extend_from_slice(&[0; CHECKSUM]);
    let checksum = polymod(&checked) ^ 1;
    groups.extend((0..CHECKSUM).map(|at| low_byte(checksum >> (5 * (5 - at)) & 31)));
    let text = groups.iter().map(|group| char::from(ALPHABET[usize::from(*group)]));
    format!("{prefix}1{}", text.collect::<String>())
}

/// `None` if the prefix is another, a character is wrong, or the checksum is.
pub(super) fn decode(prefix: &str, text: &str) -> Option<[u8; 32]> {
    let lower = text.to_ascii_lowercase();
    if text != lower && text != text.to_ascii_uppercase() {
        return None;
    }
    let payload = lower.strip_prefix(prefix)?.strip_prefix('1')?;
    let groups: Vec<u8> = payload
        .bytes()
        .map(|byte| {
            ALPHABET.iter().position(|known| *known == byte).and_then(|at| u8::try_from(at).ok())
        })
        .collect::<Option<_>>()?;
    let mut checked = expand(prefix);
    checked.extend_from_slice(&groups);
    let content = groups.len().checked_sub(CHECKSUM)?;
    if polymod(&checked) != 1 {
        return None;
    }
    regroup(&groups[..content], 5, 8, false)?.try_into().ok()
}

fn expand(prefix: &str) -> Vec<u8> {
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    high.chain([0]).chain(low).collect()
}

fn polymod(groups: &[u8]) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let mut sum: u32 = 1;
    for group in groups {
        let top = sum >> 25;
        sum = (sum & 0x1ff_ffff) << 5 ^ u32::from(*group);
        for (bit, number) in GENERATOR.iter().enumerate() {
            if top >> bit & 1 == 1 {
                sum ^= number;
            }
        }
    }
    sum
}

/// Bits in groups of another size. Without padding, what is left over must be zeros and less
/// than a group.
fn regroup(groups: &[u8], from: u32, to: u32, pad: bool) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut held) = (0_u32, 0_u32);
    for group in groups {
        bits = (bits << from | u32::from(*group)) & 0xfff;
        held += from;
        while held >= to {
            held -= to;
            out.push(low_byte(bits >> held & ((1 << to) - 1)));
        }
    }
    let left = bits & ((1 << held) - 1);
    if pad && held > 0 {
        out.push(low_byte(left << (to - held)));
    } else if !pad && (held >= from || left != 0) {
        return None;
    }
    Some(out)
}

fn low_byte(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_age_are_read_and_written() {
        // From age's own documentation.
        let text = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let bytes = decode("age", text).unwrap();
        assert_eq!(encode("age", &bytes), text);
        assert_eq!(decode("age", &text.to_ascii_uppercase()), Some(bytes));
        assert_eq!(decode("age", &text.replace("ql3z", "qL3z")), None);
        assert_eq!(decode("age", &text.replace("ql3z", "ql4z")), None);
        assert_eq!(decode("age-secret-key-", text), None);
    }
}
