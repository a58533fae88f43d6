//! Greetings written and read back, and what is refused before it is believed.

use proptest::prelude::*;

use super::*;

fn hello() -> Hello {
    Hello {
        format: 1,
        level: 2,
        cluster_id: [7; 16],
        from: 3,
        to: 4,
        epoch: 5,
        last: Position { index: 6, term: 7 },
        acknowledged: (8, 9),
        release: "1.2.3".to_owned(),
    }
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::Format { theirs: 3, ours: 1 },
        Refusal::OtherCluster { theirs: "a".into(), ours: "b".into() },
        Refusal::OtherMember { claimed: 1 },
        Refusal::NotAddressed { id: 2 },
        Refusal::Removed { id: 3 },
        Refusal::Unknown { id: u64::MAX },
        Refusal::OldCopy { id: 5, acknowledged: 6, last: 7 },
        Refusal::Level { theirs: 1, cluster: 2 },
        Refusal::Other("no".into()),
    ]
}

#[test]
fn what_is_said_is_understood() {
    for purpose in [Purpose::Messages, Purpose::Snapshot] {
        let said = Greeting::Hello { purpose, hello: hello() };
        assert_eq!(decode(&encode(&said)).unwrap(), said);
    }
    for refusal in refusals() {
        let said = Greeting::Refusal(refusal);
        assert_eq!(decode(&encode(&said)).unwrap(), said);
    }
}

#[test]
fn a_later_release_may_say_more() {
    let mut bytes = encode(&Greeting::Hello { purpose: Purpose::Messages, hello: hello() });
    bytes.truncate(bytes.len() - CRC_BYTES);
    bytes.extend_from_slice(b"something new");
    let length = u16::try_from(bytes.len() - HEAD_BYTES).unwrap();
    bytes[8..10].copy_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    let read = decode(&bytes).unwrap();
    assert_eq!(read, Greeting::Hello { purpose: Purpose::Messages, hello: hello() });
}

#[test]
fn a_refusal_of_a_later_release_is_told_in_its_words() {
    let mut body = Vec::new();
    put_refusal(&mut body, &Refusal::Removed { id: 0xab });
    body[0] = 200;
    let read = read_refusal(&body).unwrap();
    assert_eq!(read, Refusal::Other("member ab was removed from the cluster".into()));
}

#[test]
fn texts_are_cut_between_characters_and_hold_no_control_characters() {
    let mut body = Vec::new();
    let text = format!("\u{1b}[2J{}", "é".repeat(TEXT_BYTES_MAX));
    put_refusal(&mut body, &Refusal::Other(text));
    let Some(Refusal::Other(read)) = read_refusal(&body) else { panic!("not read") };
    assert!(read.starts_with(" [2Jé") && read.len() <= TEXT_BYTES_MAX, "{read}");
}

#[test]
fn what_is_not_a_greeting_is_told_from_its_head() {
    let good = encode(&Greeting::Refusal(Refusal::Other(String::new())));
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        decode(&bytes).unwrap_err()
    };
    assert!(matches!(with(0, b'G'), GreetingError::Magic));
    assert!(matches!(with(6, 9), GreetingError::Version { version: 9 }));
    assert!(matches!(with(9, 0xff), GreetingError::TooLong { .. }));
    assert!(matches!(with(7, 3), GreetingError::Checksum));
    assert!(matches!(decode(&good[..12]), Err(GreetingError::Malformed)));
}

#[tokio::test]
async fn not_one_byte_more_than_the_greeting_is_read() {
    let mut bytes = encode(&Greeting::Hello { purpose: Purpose::Messages, hello: hello() });
    bytes.extend_from_slice(b"frames");
    let mut source = bytes.as_slice();
    read(&mut source).await.unwrap();
    assert_eq!(source, b"frames");
    let ended = read(&mut source).await;
    assert!(matches!(ended, Err(GreetingError::Closed)), "{ended:?}");
}

proptest! {
    #[test]
    fn whatever_comes_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(decode(&bytes));
        let mut framed = encode(&Greeting::Refusal(Refusal::Other(String::new())))[..8].to_vec();
        framed[7] = bytes.first().map_or(1, |byte| byte % 3);
        framed.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_le_bytes());
        framed.extend_from_slice(&bytes);
        framed.extend_from_slice(&crc32c::crc32c(&framed).to_le_bytes());
        drop(decode(&framed));
    }
}
