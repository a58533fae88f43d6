//! Entry point for the fuzzer: what reads the kernel's answers.

use crate::conntrack;
use crate::netlink::{Attributes, messages, route};
use crate::nft;

/// What one receive call got, read as every object that is asked for anywhere.
pub fn answers(bytes: &[u8]) {
    for message in messages(bytes).map_while(Result::ok) {
        let body = message.body;
        std::hint::black_box(route::read_link(body));
        std::hint::black_box(route::read_address(body));
        std::hint::black_box(route::read_route(body));
        let attributes = Attributes::after(body, 4);
        std::hint::black_box(attributes.text(3));
        std::hint::black_box(conntrack::read(attributes.nested(1)));
        std::hint::black_box(nft::read_elements(attributes));
        std::hint::black_box(nft::read_comment(attributes.get(6).unwrap_or_default()));
    }
}
