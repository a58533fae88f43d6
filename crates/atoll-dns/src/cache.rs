//! A small cache of upstream answers.
//!
//! Bounded in entries and in the size of each, so that no client can make it grow.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

/// Answers kept; the oldest goes when another comes.
const ENTRIES_MAX: usize = 512;

/// Larger answers are not kept.
const ANSWER_BYTES_MAX: usize = 1_232;

/// As CoreDNS' default configuration has it in Kubernetes.
const KEPT_SECONDS_MAX: u32 = 30;

/// What an answer is kept under. Answers with and without DNSSEC records differ.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    pub(crate) dnssec: bool,
    /// The client checks signatures itself, and is told also what does not hold.
    pub(crate) unchecked: bool,
}

#[derive(Debug)]
struct Entry {
    answer: Vec<u8>,
    stored_at: Instant,
    kept: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Question, Entry>,
    order: VecDeque<Question>,
}

impl Cache {
    /// The answer, its times to live lessened by its age.
    pub(crate) fn get(&self, question: &Question, now: Instant) -> Option<Message> {
        let entry = self.entries.get(question)?;
        let age = now.saturating_duration_since(entry.stored_at);
        if age >= entry.kept {
            return None;
        }
        let mut message = Message::from_vec(&entry.answer).ok()?;
        let aged = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let Message { answers, authorities, additionals, .. } = &mut message;
        for record in answers.iter_mut().chain(authorities).chain(additionals) {
            record.ttl = record.ttl.saturating_sub(aged);
        }
        Some(message)
    }

    pub(crate) fn put(
        &mut self,
        question: Question,
        answer: &[u8],
        message: &Message,
        now: Instant,
    ) {
        let Some(seconds) = worth_keeping(message).filter(|_| answer.len() <= ANSWER_BYTES_MAX)
        else {
            return;
        };
        let kept = Duration::from_secs(u64::from(seconds));
        let entry = Entry { answer: answer.to_vec(), stored_at: now, kept };
        if self.entries.insert(question.clone(), entry).is_none() {
            self.order.push_back(question);
        }
        while self.order.len() > ENTRIES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }
}

/// For how long the answer holds: by its records, or by the zone's word on what is not.
fn worth_keeping(message: &Message) -> Option<u32> {
    let settled = matches!(message.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    if !settled || message.truncation {
        return None;
    }
    let answers = message.answers.iter().map(|record| record.ttl).min();
    let denies = message.answers.is_empty() || message.response_code == ResponseCode::NXDomain;
    let least = if denies {
        // Only the zone's own word says how long there is nothing (RFC 2308).
        let denied = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(start) => Some(record.ttl.min(start.minimum)),
            _ => None,
        })?;
        denied.min(answers.unwrap_or(u32::MAX))
    } else {
        answers?
    };
    Some(least.min(KEPT_SECONDS_MAX)).filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, Record};

    fn question(name: &str) -> Question {
        Question { name: name.to_owned(), kind: RecordType::A, dnssec: false, unchecked: false }
    }

    fn answer(ttl: u32) -> (Vec<u8>, Message) {
        let mut message = Message::response(1, OpCode::Query);
        let name = Name::from_ascii("example.com.").unwrap();
        message.add_answer(Record::from_rdata(name, ttl, RData::A(A::new(192, 0, 2, 1))));
        (message.to_vec().unwrap(), message)
    }

    #[test]
    fn an_answer_ages_and_ends() {
        let mut cache = Cache::default();
        let now = Instant::now();
        let (bytes, message) = answer(10);
        cache.put(question("a"), &bytes, &message, now);
        let later = cache.get(&question("a"), now + Duration::from_secs(4)).unwrap();
        assert_eq!(later.answers[0].ttl, 6);
        assert!(cache.get(&question("a"), now + Duration::from_secs(10)).is_none());
        assert!(cache.get(&question("b"), now).is_none());
    }

    #[test]
    fn it_stays_small() {
        let mut cache = Cache::default();
        let now = Instant::now();
        let (bytes, message) = answer(10);
        for number in 0..2_000 {
            cache.put(question(&number.to_string()), &bytes, &message, now);
        }
        assert_eq!((cache.entries.len(), cache.order.len()), (ENTRIES_MAX, ENTRIES_MAX));
        assert!(cache.get(&question("1999"), now).is_some());
    }

    #[test]
    fn a_denial_is_kept_as_long_as_the_zone_says_and_not_without_its_word() {
        use hickory_proto::rr::rdata::{NS, SOA};
        let zone = Name::from_ascii("example.com.").unwrap();
        let mut denial = Message::response(1, OpCode::Query);
        denial.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(worth_keeping(&denial), None);
        let referral = RData::NS(NS(zone.clone()));
        denial.add_authority(Record::from_rdata(zone.clone(), 300, referral));
        assert_eq!(worth_keeping(&denial), None);
        let start = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 7);
        denial.add_authority(Record::from_rdata(zone, 300, RData::SOA(start)));
        assert_eq!(worth_keeping(&denial), Some(7));
    }

    #[test]
    fn failures_and_zero_times_are_not_kept() {
        let mut cache = Cache::default();
        let (bytes, message) = answer(0);
        cache.put(question("a"), &bytes, &message, Instant::now());
        let failed = Message::error_msg(1, OpCode::Query, ResponseCode::ServFail);
        cache.put(question("b"), &bytes, &failed, Instant::now());
        assert!(cache.entries.is_empty());
    }
}
