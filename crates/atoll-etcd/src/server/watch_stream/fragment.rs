//! Splits an answer that is larger than a message should be, for clients that asked for it.

use std::collections::VecDeque;

use prost::Message;
use prost::encoding::encoded_len_varint;

use crate::proto::etcdserverpb::WatchResponse;

/// All parts but the last say that more follows. One event is never split.
pub(super) fn split(
    mut answer: WatchResponse,
    bytes_max: usize,
    parts: &mut VecDeque<WatchResponse>,
) {
    if answer.events.len() < 2 || answer.encoded_len() < bytes_max {
        parts.push_back(answer);
        return;
    }
    let events = std::mem::take(&mut answer.events);
    let empty = WatchResponse { fragment: true, ..answer };
    let mut part = empty.clone();
    let mut bytes = empty.encoded_len();
    for event in events {
        let event_bytes = event.encoded_len();
        let added_bytes = 1 + encoded_len_varint(event_bytes as u64) + event_bytes;
        if !part.events.is_empty() && bytes + added_bytes >= bytes_max {
            parts.push_back(std::mem::replace(&mut part, empty.clone()));
            bytes = empty.encoded_len();
        }
        bytes += added_bytes;
        part.events.push(event);
    }
    part.fragment = false;
    parts.push_back(part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::{Event, KeyValue};

    fn answer(count: usize, value_bytes: usize) -> WatchResponse {
        let value = vec![b'v'; value_bytes];
        let kv = KeyValue { key: "k".into(), value: value.into(), ..KeyValue::default() };
        let event = Event { kv: Some(kv), ..Event::default() };
        WatchResponse { watch_id: 3, events: vec![event; count], ..WatchResponse::default() }
    }

    #[test]
    fn parts_are_small_enough_and_only_the_last_says_it_is() {
        let mut parts = VecDeque::new();
        split(answer(10, 100), 350, &mut parts);
        assert_eq!(parts.iter().map(|part| part.events.len()).sum::<usize>(), 10);
        assert!(parts.iter().all(|part| part.encoded_len() < 350 && part.watch_id == 3));
        let marks: Vec<_> = parts.iter().map(|part| part.fragment).collect();
        assert_eq!(marks, [true, true, true, false]);
    }

    #[test]
    fn one_event_is_never_split_and_a_small_answer_stays_whole() {
        for (count, value_bytes) in [(1, 1000), (3, 10)] {
            let mut parts = VecDeque::new();
            split(answer(count, value_bytes), 350, &mut parts);
            assert_eq!(parts, [answer(count, value_bytes)]);
        }
    }
}
