//! Small changes of an input, of the kinds that break parsers.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

const NUMBERS: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Pieces of the formats at hand.
const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-",
    "- ",
    "&a ",
    "*a",
    "<<: ",
    "!!",
    "|",
    ">",
    "\n",
    "  ",
    "\\u0000",
    "\\",
    "/",
    "..",
    "../",
    "%00",
    "%",
    "=",
    ";",
    "~",
    "$patch",
    "e999",
    "1e400",
    ".",
    "-0",
    "99999999999999999999",
    "\u{0}",
    "\u{feff}",
    "\u{2028}",
    "é",
    "+",
    "*",
    "(",
    ")",
    " in ",
];
/// So often a piece is repeated at most: what nests or is quadratic shows.
const REPEATS_MAX: usize = 20_000;
const GROWN_BYTES_MAX: usize = 64 << 10;

pub(crate) fn mutate(random: &mut StdRng, input: &mut Vec<u8>, other: &[u8]) {
    if input.is_empty() {
        input.push(0);
    }
    let at = random.random_range(0..input.len());
    let length = random.random_range(1..=(input.len() - at).min(64));
    match random.random_range(0..11) {
        0 => input[at] ^= 1 << random.random_range(0..8),
        1 => input[at] = random.random(),
        2 => overwrite_number(random, input, at),
        3 => drop(input.drain(at..at + length)),
        4 => input.truncate(at),
        5 => insert(input, at, TOKENS.choose(random).copied().unwrap_or("").as_bytes()),
        6 => {
            let piece = input[at..at + length].to_vec();
            insert(input, at, &piece);
        }
        7 => {
            let from = random.random_range(0..=other.len());
            let piece = other[from..(from + length).min(other.len())].to_vec();
            insert(input, at, &piece);
        }
        8 => {
            let piece = if random.random_bool(0.5) {
                TOKENS.choose(random).copied().unwrap_or("").as_bytes().to_vec()
            } else {
                input[at..at + length].to_vec()
            };
            let room = GROWN_BYTES_MAX.saturating_sub(input.len()) / piece.len().max(1);
            let count = random.random_range(1..=REPEATS_MAX).min(room);
            insert(input, at, &piece.repeat(count));
        }
        9 => {
            let to = random.random_range(0..input.len());
            let piece: Vec<_> = input.drain(at..at + length).collect();
            let to = to.min(input.len());
            insert(input, to, &piece);
        }
        _ => {
            input.truncate(at);
            input.extend_from_slice(&other[random.random_range(0..=other.len())..]);
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

fn overwrite_number(random: &mut StdRng, input: &mut [u8], at: usize) {
    let number = NUMBERS.choose(random).copied().unwrap_or(0);
    let little = number.to_le_bytes();
    let big = number.to_be_bytes();
    let width = *[1, 2, 4, 8].choose(random).unwrap_or(&1);
    let bytes = if random.random_bool(0.5) { &little[..width] } else { &big[8 - width..] };
    for (place, byte) in input[at..].iter_mut().zip(bytes) {
        *place = *byte;
    }
}
