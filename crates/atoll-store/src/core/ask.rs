//! What is asked of the leader, by a caller on its own server or by another member.

use bytes::Bytes;

use crate::cluster::Member;
use crate::codec::{Malformed, Reader, put_bytes, put_i64, put_u64};
use crate::kv::{Error, LeaseId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    AddLearner(Member),
    Promote(u64),
    Remove(u64),
    Update(Member),
    Transfer(Option<u64>),
    KeepAlive { keyspace: u8, id: LeaseId },
    LeaseLeft { keyspace: u8, id: LeaseId },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Done,
    Member(Member),
    Seconds(i64),
}

pub(crate) type AskResult = Result<Told, Error>;

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

pub(crate) fn text(reader: &mut Reader) -> Result<String, Malformed> {
    String::from_utf8(reader.bytes()?.to_vec()).map_err(|_error| Malformed("a text is not UTF-8"))
}

pub(crate) fn put_member(out: &mut Vec<u8>, member: &Member) {
    put_u64(out, member.id);
    put_text(out, &member.name);
    put_text(out, &member.peer_address);
    put_u64(out, member.client_urls.len() as u64);
    for url in &member.client_urls {
        put_text(out, url);
    }
    out.push(u8::from(member.is_learner));
}

pub(crate) fn member(reader: &mut Reader) -> Result<Member, Malformed> {
    let id = reader.u64()?;
    let name = text(reader)?;
    let peer_address = text(reader)?;
    let mut client_urls = Vec::new();
    for _ in 0..reader.u64()? {
        client_urls.push(text(reader)?);
    }
    Ok(Member { id, name, peer_address, client_urls, is_learner: reader.bool()? })
}

impl Ask {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::AddLearner(member) => {
                out.push(1);
                put_member(out, member);
            }
            Self::Promote(id) => {
                out.push(2);
                put_u64(out, *id);
            }
            Self::Remove(id) => {
                out.push(3);
                put_u64(out, *id);
            }
            Self::Update(member) => {
                out.push(4);
                put_member(out, member);
            }
            Self::Transfer(to) => {
                out.push(5);
                put_u64(out, to.unwrap_or(0));
            }
            Self::KeepAlive { keyspace, id } => {
                out.extend_from_slice(&[6, *keyspace]);
                put_i64(out, *id);
            }
            Self::LeaseLeft { keyspace, id } => {
                out.extend_from_slice(&[7, *keyspace]);
                put_i64(out, *id);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            1 => Self::AddLearner(member(reader)?),
            2 => Self::Promote(reader.u64()?),
            3 => Self::Remove(reader.u64()?),
            4 => Self::Update(member(reader)?),
            5 => Self::Transfer(Some(reader.u64()?).filter(|id| *id != 0)),
            6 => Self::KeepAlive { keyspace: reader.u8()?, id: reader.i64()? },
            7 => Self::LeaseLeft { keyspace: reader.u8()?, id: reader.i64()? },
            _ => return Err(Malformed("an unknown question")),
        })
    }
}

pub(crate) fn encode_result(out: &mut Vec<u8>, result: &AskResult) {
    match result {
        Ok(Told::Done) => out.push(0),
        Ok(Told::Member(member)) => {
            out.push(1);
            put_member(out, member);
        }
        Ok(Told::Seconds(seconds)) => {
            out.push(2);
            put_i64(out, *seconds);
        }
        Err(Error::NoLeader) => out.push(3),
        Err(Error::NoQuorum { seen, voters }) => {
            out.push(4);
            put_u64(out, *seen as u64);
            put_u64(out, *voters as u64);
        }
        Err(Error::Timeout { maybe_applied }) => {
            out.extend_from_slice(&[5, u8::from(*maybe_applied)])
        }
        Err(Error::LeaseNotFound { id }) => {
            out.push(6);
            put_i64(out, *id);
        }
        Err(Error::NoSpace { detail }) => {
            out.push(7);
            put_text(out, detail);
        }
        Err(Error::Unavailable { detail }) => {
            out.push(8);
            put_text(out, detail);
        }
        Err(other) => {
            out.push(8);
            put_text(out, &other.to_string());
        }
    }
}

pub(crate) fn decode_result(reader: &mut Reader) -> Result<AskResult, Malformed> {
    Ok(match reader.u8()? {
        0 => Ok(Told::Done),
        1 => Ok(Told::Member(member(reader)?)),
        2 => Ok(Told::Seconds(reader.i64()?)),
        3 => Err(Error::NoLeader),
        4 => Err(Error::NoQuorum { seen: reader.usize()?, voters: reader.usize()? }),
        5 => Err(Error::Timeout { maybe_applied: reader.bool()? }),
        6 => Err(Error::LeaseNotFound { id: reader.i64()? }),
        7 => Err(Error::NoSpace { detail: text(reader)? }),
        8 => Err(Error::Unavailable { detail: text(reader)? }),
        _ => return Err(Malformed("an unknown answer")),
    })
}

/// The whole of `bytes` by one of the readers above.
pub(crate) fn read_all<T>(
    bytes: Bytes,
    read: impl FnOnce(&mut Reader) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let mut reader = Reader::new(bytes);
    let found = read(&mut reader)?;
    if reader.is_empty() { Ok(found) } else { Err(Malformed("something follows the end")) }
}
