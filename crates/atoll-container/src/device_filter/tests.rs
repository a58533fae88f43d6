//! What the program answers, in an interpreter of its few instructions; that the kernel
//! takes and obeys it is tested with containers.

use libcontainer::oci_spec::runtime::LinuxDeviceCgroupBuilder;

use super::*;

fn allow_or_deny(allow: bool, letters: &str) -> LinuxDeviceCgroup {
    LinuxDeviceCgroupBuilder::default().allow(allow).access(letters).build().unwrap()
}

/// What the kernel would do: `None` when the program leaves itself or never ends.
fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> Option<bool> {
    let context = [kind | access << 16, major, minor];
    let mut registers = [0u64; 11];
    let mut at = 0usize;
    for _ in 0..program.len() {
        let Instruction { code, registers: pair, offset, value } = *program.get(at)?;
        let (target, source) = (usize::from(pair & 0xf), usize::from(pair >> 4));
        #[allow(clippy::cast_possible_truncation, reason = "jumps compare the lower halves")]
        let low = registers[target] as u32;
        let jumps = match code {
            bpf::LOAD => {
                registers[target] = u64::from(context[usize::try_from(offset).ok()? / 4]);
                false
            }
            bpf::COPY => {
                registers[target] = registers[source];
                false
            }
            // The constant's sign is extended.
            bpf::AND => {
                registers[target] &= i64::from(value.cast_signed()).cast_unsigned();
                false
            }
            bpf::SHIFT_RIGHT => {
                registers[target] >>= value;
                false
            }
            bpf::SET => {
                registers[target] = u64::from(value);
                false
            }
            bpf::JUMP_UNLESS_EQUAL => low != value,
            bpf::JUMP_IF_ANY => low & value != 0,
            bpf::JUMP => true,
            bpf::EXIT => return Some(registers[0] != 0),
            _ => return None,
        };
        at += 1 + if jumps { usize::try_from(offset).ok()? } else { 0 };
    }
    None
}

#[test]
fn an_ordinary_container_opens_what_every_container_has_and_makes_any_node() {
    let program = program(&rules(&[allow_or_deny(false, "rwm")])).unwrap();
    let ask = |kind, access, major, minor| run(&program, kind, access, major, minor).unwrap();
    assert!(ask(CHARACTER, READ | WRITE, 1, 3), "null");
    assert!(ask(CHARACTER, READ, 1, 9), "urandom");
    assert!(ask(CHARACTER, READ | WRITE, 136, 7), "a terminal");
    assert!(ask(CHARACTER, MAKE, 1, 1) && ask(BLOCK, MAKE, 8, 0), "any node may be made");
    assert!(!ask(CHARACTER, READ, 1, 1), "mem");
    assert!(!ask(CHARACTER, WRITE, 1, 11), "kmsg");
    assert!(!ask(CHARACTER, MAKE | READ, 1, 11), "making it is not opening it");
    assert!(!ask(BLOCK, READ, 1, 3), "the numbers of null, but a block device");
    assert!(!ask(BLOCK, READ, 8, 0) && !ask(BLOCK, WRITE, 254, 0));
}

#[test]
fn the_later_rule_wins_for_each_kind_of_access() {
    let device = |allow, letters: &str| {
        LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(LinuxDeviceType::B)
            .major(8)
            .minor(1)
            .access(letters)
            .build()
            .unwrap()
    };
    let all =
        [allow_or_deny(false, "rwm"), device(true, "r"), device(true, "w"), device(false, "m")];
    let list: Vec<Rule> = all.iter().map(Rule::from_spec).collect();
    let program = program(&list).unwrap();
    let ask = |access, minor| run(&program, BLOCK, access, 8, minor).unwrap();
    assert!(ask(READ, 1) && ask(WRITE, 1));
    assert!(ask(READ | WRITE, 1), "two rules together");
    assert!(!ask(MAKE, 1) && !ask(READ | MAKE, 1));
    assert!(!ask(READ, 2));
}

#[test]
fn wildcards_match_every_number() {
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(LinuxDeviceType::C)
        .major(-1)
        .minor(5)
        .access("r")
        .build()
        .unwrap();
    let list = [Rule::from_spec(&allow_or_deny(false, "rwm")), Rule::from_spec(&rule)];
    let program = program(&list).unwrap();
    assert_eq!(run(&program, CHARACTER, READ, 0xfff, 5), Some(true));
    assert_eq!(run(&program, CHARACTER, READ, 0xfff, 6), Some(false));
}

#[test]
fn who_may_everything_needs_no_program() {
    let mut list = rules(&[allow_or_deny(true, "rwm")]);
    assert_eq!(program(&list), None);
    list.insert(0, Rule::from_spec(&allow_or_deny(false, "w")));
    assert!(program(&list).is_some());
}

#[test]
fn nothing_is_allowed_by_no_rule() {
    assert_eq!(run(&program(&[]).unwrap(), CHARACTER, READ, 1, 3), Some(false));
}

#[test]
fn the_first_instructions_are_as_the_kernel_documents_them() {
    let program = program(&[]).unwrap();
    let bytes: Vec<[u8; 8]> = program
        .iter()
        .map(|i| {
            let (offset, value) = (i.offset.to_le_bytes(), i.value.to_le_bytes());
            let [a, b, c, d] = value;
            [i.code, i.registers, offset[0], offset[1], a, b, c, d]
        })
        .collect();
    assert_eq!(
        bytes,
        [
            [0x61, 0x12, 0, 0, 0, 0, 0, 0],       // r2 = *(u32 *)(r1 + 0)
            [0xbf, 0x23, 0, 0, 0, 0, 0, 0],       // r3 = r2
            [0x77, 0x03, 0, 0, 16, 0, 0, 0],      // r3 >>= 16
            [0x57, 0x02, 0, 0, 0xff, 0xff, 0, 0], // r2 &= 0xffff
            [0x61, 0x14, 4, 0, 0, 0, 0, 0],       // r4 = *(u32 *)(r1 + 4)
            [0x61, 0x15, 8, 0, 0, 0, 0, 0],       // r5 = *(u32 *)(r1 + 8)
            [0xb7, 0x00, 0, 0, 0, 0, 0, 0],       // r0 = 0
            [0x95, 0x00, 0, 0, 0, 0, 0, 0],       // exit
        ]
    );
}
