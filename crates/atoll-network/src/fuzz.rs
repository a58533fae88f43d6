//! Entry point for the fuzzer: what reads the kernel's answers.

use crate::conntrack;
use crate::netlink::{Attributes, messages, route};

/// What one receive call got, read as every object that is asked for anywhere.
pub fn answers(bytes: &[u8]) {
    for message in messages(bytes).map_while(Result::ok) {
        let body = message.body;
        drop(route::read_link(body));
        drop(route::read_address(body));
        drop(route::read_route(body));
        let attributes = Attributes::after(body, 4);
        attributes.text(3);
        conntrack::read(attributes.nested(1));
    }
}
