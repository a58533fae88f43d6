//! The container's input and output: to the log, to whoever is attached, and back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::launch::Launched;
use super::log::{Log, Stream};
use crate::runtime::TermSize;

/// Read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Attached clients of one container; more are refused.
pub(crate) const ATTACHMENTS_MAX: usize = 16;

/// One attached client.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// The connection that it lives with.
    pub(crate) connection: u32,
    pub(crate) stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// All streams of the container's first process.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    /// What the container has not taken yet of its input.
    pending: Vec<u8>,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) log: Log,
    buffer: Vec<u8>,
}

fn nonblocking(fd: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(fd) = fd {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    Ok(())
}

impl Streams {
    pub(crate) fn new(launched: &mut Launched, log: Log, stdin_once: bool) -> io::Result<Streams> {
        let streams = Streams {
            stdout: launched.stdout.take(),
            stderr: launched.stderr.take(),
            terminal: launched.terminal.take(),
            stdin: launched.stdin.take(),
            stdin_once,
            pending: Vec::new(),
            attachments: Vec::new(),
            log,
            buffer: vec![0; CHUNK_BYTES],
        };
        for fd in [&streams.stdout, &streams.stderr, &streams.terminal, &streams.stdin] {
            nonblocking(fd.as_ref())?;
        }
        Ok(streams)
    }

    /// Whether all output has ended.
    pub(crate) fn drained(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && self.terminal.is_none()
    }

    /// Reads what there is of a stream, once.
    pub(crate) fn read(&mut self, stream: Stream) {
        let fd = match (&self.terminal, stream) {
            (Some(terminal), _) => terminal,
            (None, Stream::Stdout) => match &self.stdout {
                Some(fd) => fd,
                None => return,
            },
            (None, Stream::Stderr) => match &self.stderr {
                Some(fd) => fd,
                None => return,
            },
        };
        match rustix::io::read(fd, &mut self.buffer) {
            Ok(0) => self.close(stream),
            Ok(length) => {
                let chunk = std::mem::take(&mut self.buffer);
                self.log.feed(stream, &chunk[..length], super::now());
                self.fan_out(stream, &chunk[..length]);
                self.buffer = chunk;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose last user is gone says EIO.
            Err(_) => self.close(stream),
        }
    }

    /// Gives up on what grandchildren may still write.
    pub(crate) fn close_all(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.close(stream);
        }
    }

    fn close(&mut self, stream: Stream) {
        match stream {
            _ if self.terminal.is_some() => self.terminal = None,
            Stream::Stdout => self.stdout = None,
            Stream::Stderr => self.stderr = None,
        }
        self.log.finish(stream, super::now());
        for attachment in &mut self.attachments {
            match stream {
                Stream::Stdout => attachment.stdout = None,
                Stream::Stderr => attachment.stderr = None,
            }
        }
    }

    /// A client that does not keep up loses output; the container never waits for one.
    fn fan_out(&mut self, stream: Stream, chunk: &[u8]) {
        for attachment in &mut self.attachments {
            let slot = match stream {
                Stream::Stdout => &mut attachment.stdout,
                Stream::Stderr => &mut attachment.stderr,
            };
            let Some(fd) = slot else { continue };
            match rustix::io::write(&*fd, chunk) {
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => *slot = None,
            }
        }
    }

    pub(crate) fn attach(
        &mut self,
        connection: u32,
        [stdin, stdout, stderr]: [Option<OwnedFd>; 3],
    ) -> Result<(), String> {
        if self.attachments.len() >= ATTACHMENTS_MAX {
            return Err(format!("{ATTACHMENTS_MAX} clients are attached already"));
        }
        for fd in [&stdin, &stdout, &stderr] {
            nonblocking(fd.as_ref()).map_err(|e| e.to_string())?;
        }
        self.attachments.push(Attachment { connection, stdin, stdout, stderr });
        Ok(())
    }

    pub(crate) fn detach(&mut self, connection: u32) {
        let had_stdin =
            self.attachments.iter().any(|a| a.connection == connection && a.stdin.is_some());
        self.attachments.retain(|a| a.connection != connection);
        if had_stdin {
            self.input_ended();
        }
    }

    /// Whether a client's input may be read: the container has taken what came before.
    pub(crate) fn wants_input(&self) -> bool {
        self.pending.is_empty()
    }

    /// The container's input, while there is something to write to it.
    pub(crate) fn blocked_input(&self) -> Option<BorrowedFd<'_>> {
        if self.pending.is_empty() {
            return None;
        }
        self.stdin.as_ref().or(self.terminal.as_ref()).map(AsFd::as_fd)
    }

    /// Reads a client's input, once.
    pub(crate) fn read_input(&mut self, connection: u32) {
        let Some(attachment) = self.attachments.iter_mut().find(|a| a.connection == connection)
        else {
            return;
        };
        let Some(fd) = &attachment.stdin else { return };
        match rustix::io::read(fd, &mut self.buffer) {
            Ok(0) => {
                attachment.stdin = None;
                self.input_ended();
            }
            Ok(length) => {
                self.pending.extend_from_slice(&self.buffer[..length]);
                self.write_input();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                attachment.stdin = None;
                self.input_ended();
            }
        }
    }

    pub(crate) fn write_input(&mut self) {
        let target = self.stdin.as_ref().or(self.terminal.as_ref());
        let Some(fd) = target else {
            self.pending.clear();
            return;
        };
        match rustix::io::write(fd, &self.pending) {
            Ok(written) => {
                self.pending.drain(..written);
                if self.pending.is_empty() {
                    self.close_input_if_done();
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                // The container has closed its input.
                self.stdin = None;
                self.pending.clear();
            }
        }
    }

    fn input_ended(&mut self) {
        if self.pending.is_empty() {
            self.close_input_if_done();
        }
    }

    fn close_input_if_done(&mut self) {
        let open = self.attachments.iter().any(|a| a.stdin.is_some());
        if self.stdin_once && !open {
            self.stdin = None;
        }
    }

    pub(crate) fn resize(&self, size: TermSize) -> Result<(), String> {
        match &self.terminal {
            Some(terminal) => resize(terminal, size),
            None => Err("the container has no terminal".to_owned()),
        }
    }
}

pub(crate) fn resize(terminal: &OwnedFd, size: TermSize) -> Result<(), String> {
    let size = rustix::termios::Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).map_err(|e| e.to_string())
}
