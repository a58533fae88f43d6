//! The shim's loop: waits for output, requests and the end of processes.
//!
//! It sleeps in one `poll` without a timeout while nothing happens.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::exec::{self, Report};
use super::launch::Launched;
use super::log::{Log, Stream};
use super::streams::{self, Streams};
use super::{ShimConfig, oom};
use crate::exit::{EXIT_VERSION, Exit};
use crate::frame::{Body, ErrorCode, Op, PROTOCOL_VERSION, Reply, Request, ShimState};
use crate::seqpacket;

/// How long output is awaited after the first process has ended: a grandchild may hold
/// the pipes for ever.
const DRAIN: Duration = Duration::from_secs(1);

/// Between tries to write the exit record to a full disk.
const SAVE_RETRY: Duration = Duration::from_secs(5);

/// Connections at once; further ones are closed.
const CONNECTIONS_MAX: usize = 64;

/// Exits of commands whose pid has not been reported yet.
const EARLY_EXITS_MAX: usize = 64;

struct Connection {
    id: u32,
    fd: OwnedFd,
    watches: bool,
}

/// A further command in the container.
struct Exec {
    connection: u32,
    pid: Option<i32>,
    /// Ends when the command runs.
    report: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    failed: Option<String>,
    exited: Option<i32>,
}

/// How the first process ended, and until when the rest is awaited.
struct End {
    status: WaitStatus,
    at: jiff::Timestamp,
    deadline: Duration,
}

/// What a descriptor in the poll set is for.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Oom,
    Output(Stream),
    Input,
    ClientInput(u32),
    Connection(u32),
    ExecReport(u32),
}

pub(crate) struct Server {
    config: ShimConfig,
    dir: PathBuf,
    listener: OwnedFd,
    signals: SignalFd,
    launched: Launched,
    state: ShimState,
    streams: Streams,
    connections: Vec<Connection>,
    execs: Vec<Exec>,
    early_exits: Vec<(i32, i32)>,
    next_id: u32,
    oom: oom::Watch,
    end: Option<End>,
    start_error: Option<String>,
    unsaved: Option<Exit>,
}

impl Server {
    pub(crate) fn new(
        config: ShimConfig,
        dir: PathBuf,
        listener: OwnedFd,
        mut launched: Launched,
        state: ShimState,
    ) -> io::Result<Server> {
        let mut mask = SigSet::empty();
        mask.add(NixSignal::SIGCHLD);
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let log = Log::open(&config.log)?;
        let streams = Streams::new(&mut launched, log, config.stdin_once)?;
        let oom = oom::Watch::new(&config.cgroups, &config.cgroup);
        Ok(Server {
            config,
            dir,
            listener,
            signals,
            launched,
            state,
            streams,
            connections: Vec::new(),
            execs: Vec::new(),
            early_exits: Vec::new(),
            next_id: 0,
            oom,
            end: None,
            start_error: None,
            unsaved: None,
        })
    }

    /// Adds the agent's own connection, as if it had asked to watch.
    pub(crate) fn add_watcher(&mut self, fd: OwnedFd) {
        if let Err(error) = rustix::io::ioctl_fionbio(&fd, true) {
            super::complain(&format!("atoll shim: {error}"));
        }
        let id = self.add_connection(fd);
        self.answer(id, Op::Watch, Vec::new());
    }

    /// Serves until the container has ended and its record is safe.
    pub(crate) fn run(&mut self) {
        // The first process may have ended before the mask was set.
        self.reap();
        loop {
            if self.finished() {
                return;
            }
            let sources = self.wait();
            for source in sources {
                self.on_ready(source);
            }
        }
    }

    /// What is ready, after sleeping until something is.
    fn wait<'a>(&'a self) -> Vec<Source> {
        let mut sources = Vec::with_capacity(8);
        let mut fds: Vec<PollFd<'a>> = Vec::with_capacity(8);
        let mut add = |source: Source, fd: BorrowedFd<'a>, flags: PollFlags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        add(Source::Signals, self.signals.as_fd(), PollFlags::IN);
        add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        if let Some(fd) = self.oom.fd() {
            add(Source::Oom, fd, PollFlags::IN);
        }
        let stdout = self.streams.terminal.as_ref().or(self.streams.stdout.as_ref());
        for (stream, fd) in
            [(Stream::Stdout, stdout), (Stream::Stderr, self.streams.stderr.as_ref())]
        {
            if let Some(fd) = fd {
                add(Source::Output(stream), fd.as_fd(), PollFlags::IN);
            }
        }
        if let Some(fd) = self.streams.blocked_input() {
            add(Source::Input, fd, PollFlags::OUT);
        }
        if self.streams.wants_input() {
            for attachment in &self.streams.attachments {
                if let Some(fd) = &attachment.stdin {
                    add(Source::ClientInput(attachment.connection), fd.as_fd(), PollFlags::IN);
                }
            }
        }
        for connection in &self.connections {
            add(Source::Connection(connection.id), connection.fd.as_fd(), PollFlags::IN);
        }
        for exec in &self.execs {
            if let Some(fd) = &exec.report {
                add(Source::ExecReport(exec.connection), fd.as_fd(), PollFlags::IN);
            }
        }
        match rustix::event::poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Vec::new(),
            Err(error) => super::complain(&format!("atoll shim: poll: {error}")),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        sources.into_iter().zip(ready).filter_map(|(s, ready)| ready.then_some(s)).collect()
    }

    fn timeout(&self) -> Option<Timespec> {
        let wait = match (&self.unsaved, &self.end) {
            (Some(_), _) => SAVE_RETRY,
            (None, Some(end)) => end.deadline.saturating_sub(monotonic()),
            (None, None) => return None,
        };
        Some(Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        })
    }

    fn on_ready(&mut self, source: Source) {
        match source {
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Source::Listener => self.accept(),
            Source::Oom => {
                if self.oom.happened(&self.config.cgroups, &self.config.cgroup) {
                    self.tell_watchers(&Body::Oom);
                }
            }
            Source::Output(stream) => self.streams.read(stream),
            Source::Input => self.streams.write_input(),
            Source::ClientInput(id) => self.streams.read_input(id),
            Source::Connection(id) => self.on_request(id),
            Source::ExecReport(id) => self.on_exec_report(id),
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.launched.pid {
                self.end = Some(End { status, at: super::now(), deadline: monotonic() + DRAIN });
            } else if !self.streams.log.reaped(pid.as_raw_nonzero().get()) {
                self.exec_ended(pid.as_raw_nonzero().get(), code_of(status));
            }
        }
    }

    fn exec_ended(&mut self, pid: i32, code: i32) {
        match self.execs.iter_mut().find(|e| e.pid == Some(pid)) {
            Some(exec) => {
                exec.exited = Some(code);
                let connection = exec.connection;
                self.settle_exec(connection);
            }
            None => {
                // A helper, an orphan of the container, or a command not yet reported.
                if self.early_exits.len() == EARLY_EXITS_MAX {
                    self.early_exits.remove(0);
                }
                self.early_exits.push((pid, code));
            }
        }
    }

    fn accept(&mut self) {
        let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
        while let Ok(fd) = rustix::net::accept_with(&self.listener, flags) {
            if self.connections.len() < CONNECTIONS_MAX {
                self.add_connection(fd);
            }
        }
    }

    fn add_connection(&mut self, fd: OwnedFd) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.connections.push(Connection { id: self.next_id, fd, watches: false });
        self.next_id
    }

    fn on_request(&mut self, id: u32) {
        let Some(connection) = self.connections.iter().find(|c| c.id == id) else { return };
        match seqpacket::recv::<Request>(&connection.fd) {
            Ok(Some((request, fds))) if request.v <= PROTOCOL_VERSION => {
                self.answer(id, request.op, fds);
            }
            Ok(Some((request, _))) => self.reply_error(
                id,
                ErrorCode::Request,
                format!("this shim speaks version {PROTOCOL_VERSION}, not {}", request.v),
            ),
            Ok(None) => self.drop_connection(id),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                self.reply_error(id, ErrorCode::Request, e.to_string());
            }
            Err(_) => self.drop_connection(id),
        }
    }

    fn drop_connection(&mut self, id: u32) {
        self.connections.retain(|c| c.id != id);
        self.streams.detach(id);
        if let Some(exec) = self.execs.iter().find(|e| e.connection == id)
            && let Some(pid) = exec.pid.and_then(Pid::from_raw)
        {
            // Its own session: the whole group goes with it.
            if rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).is_err() {
                super::complain("atoll shim: a dropped command was gone already");
            }
        }
        self.execs.retain(|e| e.connection != id);
    }

    fn answer(&mut self, id: u32, op: Op, fds: Vec<OwnedFd>) {
        match op {
            Op::Watch => {
                if let Some(c) = self.connections.iter_mut().find(|c| c.id == id) {
                    c.watches = true;
                }
                self.reply(id, &Body::Status(self.state.clone()), &[]);
                if let Some(exit) = self.unsaved.clone() {
                    self.reply(id, &Body::Exited { exit }, &[]);
                }
            }
            Op::Start => self.start(id),
            Op::Exec { process, privileged, stdin, stdout, stderr } => {
                let [stdin, stdout, stderr] = in_order([stdin, stdout, stderr], fds);
                self.exec(id, exec::Wish { process, privileged, stdin, stdout, stderr });
            }
            Op::Attach { stdin, stdout, stderr } => {
                let streams = in_order([stdin, stdout, stderr], fds);
                match self.streams.attach(id, streams) {
                    Ok(()) => self.reply(id, &Body::Done, &[]),
                    Err(reason) => self.reply_error(id, ErrorCode::State, reason),
                }
            }
            Op::Resize(size) => {
                let of_exec = self
                    .execs
                    .iter()
                    .find(|e| e.connection == id)
                    .and_then(|e| e.terminal.as_ref());
                let result = match of_exec {
                    Some(terminal) => streams::resize(terminal, size),
                    None => self.streams.resize(size),
                };
                if let Err(reason) = result {
                    super::complain(&format!("atoll shim: resize: {reason}"));
                }
            }
            Op::Signal { signal } => self.signal(id, signal),
            Op::ReopenLog => match self.streams.log.reopen() {
                Ok(()) => self.reply(id, &Body::Done, &[]),
                Err(e) => self.reply_error(id, ErrorCode::State, e.to_string()),
            },
        }
    }

    fn start(&mut self, id: u32) {
        match self.launched.start() {
            Ok(()) => {
                self.state.started_at = Some(super::now());
                super::write_state(&self.dir, &self.state);
                self.reply(id, &Body::Started(self.state.clone()), &[]);
                let body = Body::Started(self.state.clone());
                self.tell_watchers(&body);
                super::join_shims(&self.config);
            }
            Err(reason) if self.state.started_at.is_some() => {
                self.reply_error(id, ErrorCode::State, reason);
            }
            Err(reason) => {
                self.start_error = Some(reason.clone());
                if rustix::process::kill_process(self.launched.pid, rustix::process::Signal::KILL)
                    .is_err()
                {
                    super::complain("atoll shim: the container was gone already");
                }
                self.reply_error(id, ErrorCode::Start, reason);
            }
        }
    }

    fn signal(&mut self, id: u32, signal: i32) {
        let of_exec = self.execs.iter().find(|e| e.connection == id);
        let pid = match of_exec {
            Some(exec) => exec.pid.and_then(Pid::from_raw),
            None if self.end.is_none() => Some(self.launched.pid),
            None => None,
        };
        let is_exec = of_exec.is_some();
        let sent = match pid {
            Some(pid) => kill(pid, signal),
            None => Err("it has ended".to_owned()),
        };
        match sent {
            // An exec's connection carries its exit only.
            _ if is_exec => {}
            Ok(()) => self.reply(id, &Body::Done, &[]),
            Err(reason) => self.reply_error(id, ErrorCode::State, reason),
        }
    }

    fn exec(&mut self, id: u32, wish: exec::Wish) {
        if self.state.started_at.is_none() || self.end.is_some() {
            self.reply_error(id, ErrorCode::State, "the container does not run".to_owned());
            return;
        }
        match exec::spawn(&self.config, &self.dir, self.launched.pid, &wish) {
            Ok(report) => self.execs.push(Exec {
                connection: id,
                pid: None,
                report: Some(report),
                terminal: None,
                failed: None,
                exited: None,
            }),
            Err(error) => self.reply_error(id, ErrorCode::Exec, format!("fork: {error}")),
        }
    }

    fn on_exec_report(&mut self, id: u32) {
        let Some(exec) = self.execs.iter_mut().find(|e| e.connection == id) else { return };
        let Some(socket) = &exec.report else { return };
        match seqpacket::recv::<Report>(socket) {
            Ok(Some((Report::Pid { pid }, _))) => {
                exec.pid = Some(pid);
                if let Some(at) = self.early_exits.iter().position(|(p, _)| *p == pid) {
                    exec.exited = Some(self.early_exits.remove(at).1);
                }
            }
            Ok(Some((Report::Terminal, mut fds))) => exec.terminal = fds.pop(),
            Ok(Some((Report::Failed { reason }, _))) => exec.failed = Some(reason),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => {
                exec.report = None;
                self.on_exec_settled(id);
            }
        }
    }

    /// The command runs, or never will.
    fn on_exec_settled(&mut self, id: u32) {
        let Some(at) = self.execs.iter().position(|e| e.connection == id) else { return };
        let exec = &self.execs[at];
        let (failed, pid) = (exec.failed.clone(), exec.pid);
        match (failed, pid) {
            (Some(reason), _) => {
                self.execs.remove(at);
                self.reply_error(id, ErrorCode::Exec, reason);
            }
            (None, None) => {
                self.execs.remove(at);
                self.reply_error(id, ErrorCode::Exec, "its helper died".to_owned());
            }
            (None, Some(pid)) => {
                let terminal = exec.terminal.as_ref().and_then(|t| t.try_clone().ok());
                let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                self.reply(id, &Body::ExecStarted { pid }, &fds);
                self.settle_exec(id);
            }
        }
    }

    /// Tells how a command ended, once it is known to have run.
    fn settle_exec(&mut self, id: u32) {
        let Some(at) = self.execs.iter().position(|e| e.connection == id) else { return };
        let exec = &self.execs[at];
        if let (None, Some(code)) = (&exec.report, exec.exited) {
            self.execs.remove(at);
            self.reply(id, &Body::ExecExited { code }, &[]);
        }
    }

    fn reply(&self, id: u32, body: &Body, fds: &[BorrowedFd<'_>]) {
        let Some(connection) = self.connections.iter().find(|c| c.id == id) else { return };
        if let Err(error) = seqpacket::send(&connection.fd, &Reply::new(body.clone()), fds) {
            // Its end is noticed by the loop; a watcher that reads nothing loses events.
            super::complain(&format!("atoll shim: answering: {error}"));
        }
    }

    fn reply_error(&self, id: u32, code: ErrorCode, message: String) {
        self.reply(id, &Body::Error { code, message }, &[]);
    }

    fn tell_watchers(&self, body: &Body) {
        for connection in self.connections.iter().filter(|c| c.watches) {
            self.reply(connection.id, body, &[]);
        }
    }

    /// Whether all is done; does the last things when the time has come.
    fn finished(&mut self) -> bool {
        if let Some(exit) = self.unsaved.take() {
            return self.save(exit);
        }
        let Some(end) = &self.end else { return false };
        let waiting = !self.streams.drained() || !self.execs.is_empty();
        if waiting && monotonic() < end.deadline {
            return false;
        }
        self.streams.close_all();
        if self.oom.is_untold(&self.config.cgroups, &self.config.cgroup) {
            self.tell_watchers(&Body::Oom);
        }
        let exit = self.exit();
        super::release(&self.config, &self.dir);
        self.save(exit)
    }

    fn save(&mut self, exit: Exit) -> bool {
        match super::write_exit(&self.dir, &exit) {
            Ok(()) => {
                self.tell_watchers(&Body::Exited { exit });
                true
            }
            Err(_) if !self.dir.exists() => true,
            Err(error) => {
                super::complain(&format!("atoll shim: writing the exit record: {error}"));
                self.unsaved = Some(exit);
                false
            }
        }
    }

    fn exit(&self) -> Exit {
        let (code, signal, at) = match &self.end {
            Some(end) => (code_of(end.status), end.status.terminating_signal(), end.at),
            None => (crate::exit::CODE_UNKNOWN, None, super::now()),
        };
        let started = self.state.started_at;
        let oom_killed = code != 0 && self.oom.count(&self.config.cgroups, &self.config.cgroup) > 0;
        Exit {
            version: EXIT_VERSION,
            code: if self.start_error.is_some() { super::CODE_NOT_STARTED } else { code },
            signal: if self.start_error.is_some() { None } else { signal },
            oom_killed,
            unknown: false,
            start_error: self.start_error.clone(),
            started_at: started,
            finished_at: at,
        }
    }
}

fn in_order(wanted: [bool; 3], fds: Vec<OwnedFd>) -> [Option<OwnedFd>; 3] {
    let mut fds = fds.into_iter();
    wanted.map(|wanted| if wanted { fds.next() } else { None })
}

fn code_of(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => crate::exit::CODE_UNKNOWN,
    }
}

#[allow(unsafe_code, reason = "signals by number, the real-time ones included")]
fn kill(pid: Pid, signal: i32) -> Result<(), String> {
    // SAFETY: kill touches no memory of this process.
    let result = unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().to_string()) }
}

fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}
