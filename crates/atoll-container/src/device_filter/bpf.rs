//! The few instructions of the kernel's virtual machine that a device filter takes, and the
//! two calls that load and attach it.

#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Registers: what the program returns, what it is given, and what it has read of that.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
pub(crate) const KIND: u8 = 2;
const ACCESS: u8 = 3;
pub(crate) const MAJOR: u8 = 4;
pub(crate) const MINOR: u8 = 5;

/// One instruction, as the kernel reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// The target in the lower half, the source in the upper.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) value: u32,
}

/// Codes: a load of 32 bits, and operations with a constant on 64 bits; jumps compare 32.
pub(crate) const LOAD: u8 = 0x61;
pub(crate) const AND: u8 = 0x57;
pub(crate) const SHIFT_RIGHT: u8 = 0x77;
pub(crate) const SET: u8 = 0xb7;
pub(crate) const COPY: u8 = 0xbf;
pub(crate) const JUMP_UNLESS_EQUAL: u8 = 0x56;
pub(crate) const JUMP_IF_ANY: u8 = 0x46;
pub(crate) const JUMP: u8 = 0x05;
pub(crate) const EXIT: u8 = 0x95;

/// A jump to the end of its rule, which is not known yet.
const END: i16 = i16::MAX;

impl Instruction {
    const fn new(code: u8, target: u8, offset: i16, value: u32) -> Instruction {
        Instruction { code, registers: target, offset, value }
    }

    /// Leaves the rule when the register holds something else.
    pub(crate) const fn skip_unless_equal(register: u8, value: u32) -> Instruction {
        Instruction::new(JUMP_UNLESS_EQUAL, register, END, value)
    }

    fn is_jump(self) -> bool {
        matches!(self.code, JUMP_UNLESS_EQUAL | JUMP_IF_ANY | JUMP)
    }
}

/// Reads what is asked: the kind of the node in the lower half of the first word and what
/// is wanted of it in the upper, then its numbers.
pub(crate) fn prologue() -> Vec<Instruction> {
    let load = |target: u8, offset| Instruction {
        code: LOAD,
        registers: target | CONTEXT << 4,
        offset,
        value: 0,
    };
    vec![
        load(KIND, 0),
        Instruction { code: COPY, registers: ACCESS | KIND << 4, offset: 0, value: 0 },
        Instruction::new(SHIFT_RIGHT, ACCESS, 0, 16),
        Instruction::new(AND, KIND, 0, 0xffff),
        load(MAJOR, 4),
        load(MINOR, 8),
    ]
}

/// Takes these off what is still to be decided, and allows when nothing is left.
pub(crate) fn allow(access: u32) -> Vec<Instruction> {
    let mut block = vec![
        Instruction::new(AND, ACCESS, 0, !access),
        Instruction::new(JUMP_UNLESS_EQUAL, ACCESS, END, 0),
    ];
    block.extend(answer(true));
    block
}

/// Denies when one of these is still to be decided.
pub(crate) fn deny(access: u32) -> Vec<Instruction> {
    let mut block =
        vec![Instruction::new(JUMP_IF_ANY, ACCESS, 1, access), Instruction::new(JUMP, 0, END, 0)];
    block.extend(answer(false));
    block
}

pub(crate) fn answer(allowed: bool) -> [Instruction; 2] {
    [Instruction::new(SET, RESULT, 0, u32::from(allowed)), Instruction::new(EXIT, 0, 0, 0)]
}

/// Fills in where the rule's jumps to its end lead.
pub(crate) fn aim_at_end(block: &mut [Instruction]) {
    let count = block.len();
    for (at, instruction) in block.iter_mut().enumerate() {
        if instruction.is_jump() && instruction.offset == END {
            instruction.offset = i16::try_from(count - at - 1).unwrap_or(END);
        }
    }
}

const PROGRAM_LOAD: libc::c_int = 5;
const PROGRAM_ATTACH: libc::c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Beside the programs of cgroups above and below, which then all have to allow.
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn call<T>(command: libc::c_int, arguments: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as it is told, and copies what they point to
    // before it returns.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(arguments), size_of::<T>())
    };
    match RawFd::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel check and compile the program.
pub(crate) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..13].copy_from_slice(b"atoll_devices");
    let arguments = Load {
        program_type: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    let fd = call(PROGRAM_LOAD, &arguments)?;
    // SAFETY: the call made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn attach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(io::Error::other);
    let arguments = Attach {
        target: number(cgroup)?,
        program: number(program)?,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    call(PROGRAM_ATTACH, &arguments).map(drop)
}
