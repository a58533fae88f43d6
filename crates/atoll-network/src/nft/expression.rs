//! The expressions of a rule, in the order in which a packet meets them.

use super::Message;
use crate::settings::Ipv4Net;

/// A 4-byte register. A key of several parts stands in neighbouring ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reg(pub(crate) u32);

const VERDICT_REGISTER: u32 = 0;
const FIRST_REGISTER: u32 = 8;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const ACCEPT: i32 = 1;
const DROP: i32 = 0;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_MARK: u32 = 3;
const META_L4PROTO: u32 = 16;

/// Bits of the source and destination ports' place: fully random source ports.
const FULLY_RANDOM: u32 = 16;

/// Writes the expressions of one rule.
#[derive(Debug)]
pub(crate) struct Rule<'a> {
    list: &'a mut Message,
}

impl<'a> Rule<'a> {
    pub(crate) fn new(list: &'a mut Message) -> Self {
        Self { list }
    }

    fn expression(&mut self, name: &str, write: impl FnOnce(&mut Message)) -> &mut Self {
        self.list.nest(1, |element| {
            element.text(1, name).nest(2, write);
        });
        self
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32, to: Reg) -> &mut Self {
        self.expression("payload", |body| {
            body.be32(1, to.number()).be32(2, base).be32(3, offset).be32(4, length);
        })
    }

    pub(crate) fn source_address(&mut self, to: Reg) -> &mut Self {
        self.payload(NETWORK_HEADER, 12, 4, to)
    }

    pub(crate) fn destination_address(&mut self, to: Reg) -> &mut Self {
        self.payload(NETWORK_HEADER, 16, 4, to)
    }

    pub(crate) fn destination_port(&mut self, to: Reg) -> &mut Self {
        self.payload(TRANSPORT_HEADER, 2, 2, to)
    }

    pub(crate) fn protocol(&mut self, to: Reg) -> &mut Self {
        self.meta(META_L4PROTO, to)
    }

    fn meta(&mut self, key: u32, to: Reg) -> &mut Self {
        self.expression("meta", |body| {
            body.be32(1, to.number()).be32(2, key);
        })
    }

    fn compare(&mut self, register: Reg, equal: bool, value: &[u8]) -> &mut Self {
        self.expression("cmp", |body| {
            body.be32(1, register.number()).be32(2, u32::from(!equal)).nest(3, |operand| {
                operand.attribute(1, value);
            });
        })
    }

    fn mask(&mut self, register: Reg, mask: [u8; 4], xor: [u8; 4]) -> &mut Self {
        self.expression("bitwise", |body| {
            body.be32(1, register.number())
                .be32(2, register.number())
                .be32(3, 4)
                .nest(4, |value| {
                    value.attribute(1, &mask);
                })
                .nest(5, |value| {
                    value.attribute(1, &xor);
                });
        })
    }

    /// Goes on if the address in the register is (or is not) in the network.
    fn within(&mut self, register: Reg, net: Ipv4Net, wanted: bool) -> &mut Self {
        self.mask(register, net.mask().octets(), [0; 4]).compare(
            register,
            wanted,
            &net.address().octets(),
        )
    }

    pub(crate) fn source_in(&mut self, net: Ipv4Net, wanted: bool) -> &mut Self {
        self.source_address(Reg(0)).within(Reg(0), net, wanted)
    }

    pub(crate) fn destination_in(&mut self, net: Ipv4Net, wanted: bool) -> &mut Self {
        self.destination_address(Reg(0)).within(Reg(0), net, wanted)
    }

    /// Goes on if the packet is for an address of this node.
    pub(crate) fn destination_is_local(&mut self) -> &mut Self {
        const BY_DESTINATION: u32 = 2;
        self.is_local(BY_DESTINATION)
    }

    /// Goes on if the packet is from an address of this node.
    pub(crate) fn source_is_local(&mut self) -> &mut Self {
        const BY_SOURCE: u32 = 1;
        self.is_local(BY_SOURCE)
    }

    fn is_local(&mut self, by: u32) -> &mut Self {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const LOCAL: u32 = 2;
        self.expression("fib", |body| {
            body.be32(1, Reg(0).number()).be32(2, RESULT_ADDRESS_TYPE).be32(3, by);
        })
        .compare(Reg(0), true, &LOCAL.to_ne_bytes())
    }

    fn tracked(&mut self, key: u32, to: Reg) -> &mut Self {
        self.expression("ct", |body| {
            body.be32(1, to.number()).be32(2, key);
        })
    }

    fn original(&mut self, key: u32, to: Reg) -> &mut Self {
        const ORIGINAL: u8 = 0;
        self.expression("ct", |body| {
            body.be32(1, to.number()).be32(2, key).attribute(3, &[ORIGINAL]);
        })
    }

    /// What the connection was addressed to before it was translated.
    pub(crate) fn original_address(&mut self, to: Reg) -> &mut Self {
        const DESTINATION_ADDRESS: u32 = 20;
        self.original(DESTINATION_ADDRESS, to)
    }

    pub(crate) fn original_port(&mut self, to: Reg) -> &mut Self {
        const DESTINATION_PORT: u32 = 12;
        self.original(DESTINATION_PORT, to)
    }

    /// Goes on if the connection was sent elsewhere than it was addressed to.
    pub(crate) fn is_translated(&mut self) -> &mut Self {
        const STATUS: u32 = 2;
        const DESTINATION_TRANSLATED: u32 = 32;
        self.tracked(STATUS, Reg(0))
            .mask(Reg(0), DESTINATION_TRANSLATED.to_ne_bytes(), [0; 4])
            .compare(Reg(0), false, &[0; 4])
    }

    /// Goes on if the packet begins a connection.
    pub(crate) fn is_new(&mut self) -> &mut Self {
        const NEW: u32 = 8;
        self.in_state(NEW)
    }

    /// Goes on if the packet is of no connection and begins none.
    pub(crate) fn is_invalid(&mut self) -> &mut Self {
        const INVALID: u32 = 1;
        self.in_state(INVALID)
    }

    fn in_state(&mut self, state: u32) -> &mut Self {
        const STATE: u32 = 0;
        self.tracked(STATE, Reg(0)).mask(Reg(0), state.to_ne_bytes(), [0; 4]).compare(
            Reg(0),
            false,
            &[0; 4],
        )
    }

    pub(crate) fn marked(&mut self, bit: u32) -> &mut Self {
        self.meta(META_MARK, Reg(0)).mask(Reg(0), bit.to_ne_bytes(), [0; 4]).compare(
            Reg(0),
            false,
            &[0; 4],
        )
    }

    /// Sets or clears a bit of the packet's mark.
    pub(crate) fn set_mark(&mut self, bit: u32, on: bool) -> &mut Self {
        let xor = if on { bit } else { 0 };
        self.meta(META_MARK, Reg(13))
            .mask(Reg(13), (!bit).to_ne_bytes(), xor.to_ne_bytes())
            .expression("meta", |body| {
                body.be32(3, Reg(13).number()).be32(2, META_MARK);
            })
    }

    /// Goes on if the key that begins at the register is in the set.
    pub(crate) fn in_set(&mut self, set: &str, key: Reg) -> &mut Self {
        self.expression("lookup", |body| {
            body.text(1, set).be32(2, key.number());
        })
    }

    /// Goes on with the data of the key, if the map has it.
    pub(crate) fn lookup(&mut self, map: &str, key: Reg, to: Reg) -> &mut Self {
        self.expression("lookup", |body| {
            body.text(1, map).be32(2, key.number()).be32(3, to.number());
        })
    }

    /// Does what the map says of the key, if it has it.
    pub(crate) fn verdict_of(&mut self, map: &str, key: Reg) -> &mut Self {
        self.expression("lookup", |body| {
            body.text(1, map).be32(2, key.number()).be32(3, VERDICT_REGISTER);
        })
    }

    /// A random number below `modulus`.
    pub(crate) fn random(&mut self, modulus: u32, to: Reg) -> &mut Self {
        const RANDOM: u32 = 1;
        self.expression("numgen", |body| {
            body.be32(1, to.number()).be32(2, modulus).be32(3, RANDOM);
        })
    }

    /// Puts key and data into a dynamic map, or makes its element young again. Rules do
    /// not delete: the kernel (6.18) goes on counting what a rule deletes from a map, until
    /// the map is full.
    pub(crate) fn remember(
        &mut self,
        map: &str,
        key: Reg,
        held: Reg,
        timeout_ms: u64,
    ) -> &mut Self {
        const UPDATE: u32 = 1;
        self.expression("dynset", |body| {
            body.text(1, map).be32(3, UPDATE).be32(4, key.number()).be32(5, held.number());
            body.be64(6, timeout_ms);
        })
    }

    /// Sends the connection to the address and port in the registers.
    pub(crate) fn translate_to(&mut self, address: Reg, port: Reg) -> &mut Self {
        const DESTINATION: u32 = 1;
        const IPV4: u32 = 2;
        self.expression("nat", |body| {
            body.be32(1, DESTINATION).be32(2, IPV4);
            body.be32(3, address.number()).be32(5, port.number());
        })
    }

    pub(crate) fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |body| {
            body.be32(1, FULLY_RANDOM);
        })
    }

    pub(crate) fn is_tcp(&mut self) -> &mut Self {
        const TCP: u8 = 6;
        self.protocol(Reg(3)).compare(Reg(3), true, &[TCP])
    }

    /// Answers with a TCP reset.
    pub(crate) fn reset(&mut self) -> &mut Self {
        const TCP_RESET: u32 = 1;
        self.expression("reject", |body| {
            body.be32(1, TCP_RESET).attribute(2, &[0]);
        })
    }

    /// Answers with ICMP port unreachable.
    pub(crate) fn reject(&mut self) -> &mut Self {
        const ICMP_UNREACHABLE: u32 = 0;
        const PORT: u8 = 3;
        self.expression("reject", |body| {
            body.be32(1, ICMP_UNREACHABLE).attribute(2, &[PORT]);
        })
    }

    pub(crate) fn accept(&mut self) -> &mut Self {
        self.verdict(|verdict| {
            verdict.be32(1, ACCEPT.cast_unsigned());
        })
    }

    pub(crate) fn drop(&mut self) -> &mut Self {
        self.verdict(|verdict| {
            verdict.be32(1, DROP.cast_unsigned());
        })
    }

    pub(crate) fn goto(&mut self, chain: &str) -> &mut Self {
        self.verdict(|verdict| goto(verdict, chain))
    }

    pub(crate) fn jump(&mut self, chain: &str) -> &mut Self {
        self.verdict(|verdict| {
            verdict.be32(1, JUMP.cast_unsigned()).text(2, chain);
        })
    }

    fn verdict(&mut self, write: impl FnOnce(&mut Message)) -> &mut Self {
        self.expression("immediate", |body| {
            body.be32(1, VERDICT_REGISTER).nest(2, |held| {
                held.nest(2, write);
            });
        })
    }
}

impl Reg {
    fn number(self) -> u32 {
        FIRST_REGISTER + self.0
    }
}

pub(super) fn goto(verdict: &mut Message, chain: &str) {
    verdict.be32(1, GOTO.cast_unsigned()).text(2, chain);
}
