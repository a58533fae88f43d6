//! nf_tables transactions: tables, chains, sets, elements and rules as netlink messages.
//!
//! A [`Batch`] is one transaction and one send: the kernel takes all of it or nothing.

mod expression;

use crate::netlink::{Attributes, Family, Message, NetlinkError, Socket};

pub(crate) use expression::{Reg, Rule};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const DEL_CHAIN: u16 = SUBSYSTEM | 5;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const DEL_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const GET_SET: u16 = SUBSYSTEM | 10;
const DEL_SET: u16 = SUBSYSTEM | 11;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DEL_ELEMENT: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const ACK: u16 = 4;

const VERDICT_TYPE: u32 = 0xffff_ff00;

const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_DYNAMIC: u32 = 0x20;

/// Elements in one message; its list may hold 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Where a base chain stands in the kernel's path of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) point: Point,
    pub(crate) priority: i32,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Point {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A set, or a map when it has data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetSpec<'a> {
    pub(crate) name: &'a str,
    /// The parts of the key, as `nft list` shows them.
    pub(crate) key: &'static [Part],
    pub(crate) holds: Holds,
    /// Filled by packets, with elements that age; at most so many.
    pub(crate) dynamic: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Holds {
    Nothing,
    Verdicts,
    Parts(&'static [Part]),
}

/// A part of a key; each takes 4 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Address = 7,
    Protocol = 12,
    Port = 13,
    Mark = 19,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    Nothing,
    Bytes(Vec<u8>),
    Goto(String),
    Drop,
}

/// One transaction on one table.
#[derive(Debug)]
pub(crate) struct Batch {
    message: Message,
    table: String,
    sets: u32,
}

impl Batch {
    pub(crate) fn new(table: &str) -> Self {
        let mut message = Message::new();
        message.begin(BATCH_BEGIN, 0, &[0, 0, 0, 10]);
        Self { message, table: table.to_owned(), sets: 0 }
    }

    fn begin(&mut self, kind: u16, flags: u16) -> &mut Message {
        let table = self.table.clone();
        self.message.begin(kind, flags, &HEADER).text(1, &table)
    }

    /// The comment is what `nft list` shows; that of a table which is there stays.
    pub(crate) fn add_table(&mut self, comment: &str) {
        let message = self.begin(NEW_TABLE, CREATE).be32(2, 0);
        if let Ok(length) = u8::try_from(comment.len() + 1) {
            let value = [&[TABLE_COMMENT, length], comment.as_bytes(), &[0]].concat();
            message.attribute(6, &value);
        }
    }

    pub(crate) fn delete_table(&mut self) {
        self.begin(DEL_TABLE, 0);
    }

    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        let message = self.begin(NEW_CHAIN, CREATE).text(3, name);
        if let Some(hook) = hook {
            message
                .nest(4, |place| {
                    place.be32(1, hook.point as u32).be32(2, hook.priority.cast_unsigned());
                })
                .text(7, hook.kind);
        }
    }

    pub(crate) fn delete_chain(&mut self, name: &str) {
        self.begin(DEL_CHAIN, 0).text(3, name);
    }

    pub(crate) fn flush_chain(&mut self, name: &str) {
        self.begin(DEL_RULE, 0).text(2, name);
    }

    pub(crate) fn add_rule(&mut self, chain: &str, write: impl FnOnce(&mut Rule<'_>)) {
        self.begin(NEW_RULE, CREATE | APPEND)
            .text(2, chain)
            .nest(4, |expressions| write(&mut Rule::new(expressions)));
    }

    pub(crate) fn add_set(&mut self, set: &SetSpec<'_>) {
        self.sets += 1;
        let id = self.sets;
        let mut flags = if set.dynamic.is_some() { SET_DYNAMIC | SET_TIMEOUT } else { 0 };
        if !matches!(set.holds, Holds::Nothing) {
            flags |= SET_MAP;
        }
        let message = self.begin(NEW_SET, CREATE).text(2, set.name).be32(3, flags);
        message.be32(4, type_of(set.key)).be32(5, length_of(set.key));
        match set.holds {
            Holds::Nothing => {}
            Holds::Verdicts => {
                message.be32(6, VERDICT_TYPE);
            }
            Holds::Parts(parts) => {
                message.be32(6, type_of(parts)).be32(7, length_of(parts));
            }
        }
        if let Some(size) = set.dynamic {
            message.nest(9, |description| {
                description.be32(1, size);
            });
        }
        message.be32(10, id);
    }

    pub(crate) fn delete_set(&mut self, set: &str) {
        self.begin(DEL_SET, 0).text(2, set);
    }

    /// Removes all elements.
    pub(crate) fn flush_set(&mut self, set: &str) {
        self.begin(DEL_ELEMENT, 0).text(2, set);
    }

    pub(crate) fn add_elements<'a>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = (&'a [u8], Data)>,
    ) {
        self.elements(NEW_ELEMENT, CREATE, set, elements);
    }

    pub(crate) fn delete_elements<'a>(
        &mut self,
        set: &str,
        keys: impl IntoIterator<Item = &'a [u8]>,
    ) {
        self.elements(DEL_ELEMENT, 0, set, keys.into_iter().map(|key| (key, Data::Nothing)));
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        elements: impl IntoIterator<Item = (&'a [u8], Data)>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.begin(kind, flags).text(2, set).nest(3, |list| {
                for (key, held) in elements.by_ref().take(ELEMENTS_PER_MESSAGE) {
                    list.nest(1, |element| write_element(element, key, &held));
                }
            });
        }
    }

    /// Commits; on an error nothing has changed.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        let last = self.message.count().saturating_sub(1);
        if last == 0 {
            return Ok(());
        }
        self.message.flag(ACK);
        self.message.begin(BATCH_END, 0, &[0, 0, 0, 10]);
        let sent = socket.send(&mut self.message)?;
        socket.acknowledged(sent, last)
    }
}

/// What `nft` keeps in a table's own data: the kind of an entry, its length, its bytes.
const TABLE_COMMENT: u8 = 0;

/// Family ip, version 0, no resource.
const HEADER: [u8; 4] = [2, 0, 0, 0];

fn write_element(element: &mut Message, key: &[u8], held: &Data) {
    element.nest(1, |value| {
        value.attribute(1, key);
    });
    match held {
        Data::Nothing => {}
        Data::Bytes(bytes) => {
            element.nest(2, |value| {
                value.attribute(1, bytes);
            });
        }
        Data::Goto(chain) => {
            element.nest(2, |value| {
                value.nest(2, |verdict| expression::goto(verdict, chain));
            });
        }
        Data::Drop => {
            element.nest(2, |value| {
                value.nest(2, |verdict| {
                    verdict.be32(1, 0);
                });
            });
        }
    }
}

/// `nft` packs the types of a concatenation in 6 bits each.
fn type_of(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |packed, part| packed << 6 | *part as u32)
}

fn length_of(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |length, _| length + 4)
}

pub(crate) fn open() -> Result<Socket, NetlinkError> {
    Socket::open(Family::Netfilter)
}

/// The comment of a table, if it has one; `None` when there is no such table.
pub(crate) fn table_comment(
    socket: &mut Socket,
    table: &str,
) -> Result<Option<Option<String>>, NetlinkError> {
    let mut request = Message::new();
    request.begin(GET_TABLE, 0, &HEADER);
    let found = socket.dump(&mut request, |kind, body| {
        let attributes = Attributes::after(body, HEADER.len());
        let ours = kind == NEW_TABLE && attributes.text(1) == Some(table);
        ours.then(|| read_comment(attributes.get(6).unwrap_or_default()))
    })?;
    Ok(found.into_iter().next())
}

pub(crate) fn read_comment(mut entries: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = entries {
        let (value, further) = rest.split_at_checked(usize::from(*length))?;
        if *kind == TABLE_COMMENT {
            let text = std::str::from_utf8(value).ok()?;
            return Some(text.trim_end_matches('\0').to_owned());
        }
        entries = further;
    }
    None
}

/// The names of the table's chains.
pub(crate) fn chains(socket: &mut Socket, table: &str) -> Result<Vec<String>, NetlinkError> {
    names(socket, table, (GET_CHAIN, NEW_CHAIN), 3)
}

/// The names of the table's sets and maps.
pub(crate) fn sets(socket: &mut Socket, table: &str) -> Result<Vec<String>, NetlinkError> {
    names(socket, table, (GET_SET, NEW_SET), 2)
}

fn names(
    socket: &mut Socket,
    table: &str,
    (get, new): (u16, u16),
    name: u16,
) -> Result<Vec<String>, NetlinkError> {
    let mut request = Message::new();
    request.begin(get, 0, &HEADER).text(1, table);
    socket.dump(&mut request, |kind, body| {
        let attributes = Attributes::after(body, HEADER.len());
        let ours = kind == new && attributes.text(1) == Some(table);
        attributes.text(name).filter(|_| ours).map(str::to_owned)
    })
}

/// A key of a map, and what it leads to.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

pub(crate) fn elements(
    socket: &mut Socket,
    table: &str,
    map: &str,
) -> Result<Vec<Entry>, NetlinkError> {
    let mut request = Message::new();
    request.begin(GET_ELEMENT, 0, &HEADER).text(1, table).text(2, map);
    let lists = socket.dump(&mut request, |kind, body| {
        (kind == NEW_ELEMENT).then(|| read_elements(Attributes::after(body, HEADER.len())))
    })?;
    Ok(lists.concat())
}

pub(crate) fn read_elements(message: Attributes<'_>) -> Vec<Entry> {
    let elements = message.nested(3).filter(|(kind, _)| *kind == 1);
    let value = |element: Attributes<'_>, kind| element.nested(kind).get(1).map(<[u8]>::to_vec);
    elements
        .filter_map(|(_, element)| {
            let element = Attributes(element);
            Some((value(element, 1)?, value(element, 2)?))
        })
        .collect()
}

/// Removes a table with everything in it; one that is not there is no error.
pub(crate) fn drop_table(socket: &mut Socket, table: &str) -> Result<(), NetlinkError> {
    let mut batch = Batch::new(table);
    batch.delete_table();
    crate::netlink::unless(batch.commit(socket), &[libc::ENOENT])
}
