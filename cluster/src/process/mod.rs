//! Processes, by Linux's own means: groups, the parent's death, an end without ceremony.
//!
//! The only file of this crate with calls into libc.

use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How often a process is polled while waiting for its end.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How Rust's own panics end a process.
pub const PANIC_EXIT_CODE: u8 = 101;

/// Ends this process at once: no destructors, no exit handlers, which could wait for other ranks.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// A name that nobody guesses: 32 hexadecimal digits.
///
/// # Errors
/// Where the system has no random numbers.
pub fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// Whether this process ignores a signal, as one that was started under `nohup` does SIGHUP.
pub fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: without a new action `sigaction` only writes the old one, for which zeros will do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Writes a line to standard error, which may be a file on a full disk: then it is lost, and the
/// process continues. (`eprintln!` would panic.)
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Ends this process when any thread panics, after the usual message: a half-dead rank would leave
/// the others waiting. (`panic = "abort"` would do the same, and have every crate compiled twice:
/// tests are always built to unwind.)
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        exit_now(PANIC_EXIT_CODE.into());
    }));
}

/// Makes the command the leader of a process group of its own, killed when the thread that
/// starts it ends: that thread has to live as long as the command may run.
pub fn lead_group_until_parent_dies(command: &mut Command) {
    let parent = std::process::id() as libc::pid_t;
    command.process_group(0);
    let prepare = move || {
        // SAFETY: both calls are async-signal-safe and touch no memory of ours.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if libc::getppid() != parent {
                libc::_exit(1);
            }
        }
        Ok(())
    };
    // SAFETY: `prepare` allocates nothing and takes no lock between fork and exec.
    unsafe { command.pre_exec(prepare) };
}

/// Has this process killed when its parent dies, even while it is stopped.
///
/// # Errors
/// Where the system refuses.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: this option of `prctl` takes a signal number and no pointer.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for a process's end; none if it has not ended in time.
///
/// # Errors
/// Where the system does not say.
pub fn wait_within(child: &mut Child, longest: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + longest;
    loop {
        match child.try_wait()? {
            None if Instant::now() < deadline => std::thread::sleep(POLL_INTERVAL),
            ended => return Ok(ended),
        }
    }
}

/// Runs a command without standard input, and returns what it printed. What has not ended in time is
/// killed, with all that it started.
///
/// # Errors
/// It cannot be started, or has not ended in time.
pub fn output_within(command: &mut Command, longest: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + longest;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    lead_group_until_parent_dies(command);
    let mut child = command.spawn()?;
    // While it runs: more than a pipe holds would keep it from ending.
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let late = || {
        let program = command.get_program().to_string_lossy();
        let words = format!("{program} did not answer within {} s", longest.as_secs_f64());
        io::Error::new(io::ErrorKind::TimedOut, words)
    };
    let Some(status) = wait_within(&mut child, longest)? else {
        kill_group(child.id());
        child.wait()?;
        return Err(late());
    };
    // Something that it left behind may hold the pipes.
    let rest = |bytes: Receiver<Vec<u8>>| {
        let left = deadline.saturating_duration_since(Instant::now()).max(POLL_INTERVAL);
        bytes.recv_timeout(left).map_err(|_| late())
    };
    Ok(Output { status, stdout: rest(stdout)?, stderr: rest(stderr)? })
}

/// Reads a pipe to its end, in a thread that is left behind if nobody waits for it.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still valid output.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// Signals that ask a process to end, or warn of it, do nothing from now on. Children inherit that.
pub fn ignore_requests_to_end() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Kills every process of a group; a group that is gone already is fine.
pub fn kill_group(leader: u32) {
    signal(-(leader as libc::pid_t), libc::SIGKILL);
}

/// Whether any process of a group is left, one that has ended and was not waited for included.
pub fn group_exists(leader: u32) -> bool {
    signal(-(leader as libc::pid_t), 0)
}

/// Kills one process.
pub fn kill(pid: u32) {
    signal(pid as libc::pid_t, libc::SIGKILL);
}

/// Whether a process of this number exists.
pub fn exists(pid: u32) -> bool {
    signal(pid as libc::pid_t, 0)
}

/// Asks a process to end.
pub fn terminate(pid: u32) -> bool {
    signal(pid as libc::pid_t, libc::SIGTERM)
}

fn signal(target: libc::pid_t, signal: libc::c_int) -> bool {
    // SAFETY: `kill` takes two numbers; 0, 1 and -1 would address others than the one meant.
    !(-1..=1).contains(&target) && unsafe { libc::kill(target, signal) } == 0
}

/// When a process started, in clock ticks since boot: with its number, it names one process for
/// ever, since numbers are used again.
pub fn start_time(pid: u32) -> Option<u64> {
    stat_field(pid, 19)?.parse().ok()
}

/// Whether a process has ended and only waits for its parent to notice.
pub fn is_zombie(pid: u32) -> bool {
    stat_field(pid, 0).is_some_and(|state| state == "Z")
}

/// A field of /proc/PID/stat, counted from 0 behind the program's name.
fn stat_field(pid: u32, index: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold spaces and parentheses.
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(index).map(str::to_owned)
}

/// Bytes that this user may still write where `path` lies.
///
/// # Errors
/// Where the system does not say.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statvfs is a valid value, which the call overwrites.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string, and a place for the answer.
    match unsafe { libc::statvfs(path.as_ptr(), &mut found) } {
        0 => Ok(found.f_bavail * found.f_frsize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An address of this machine's, and the interface that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The interface.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// How many of its first bits are those of the network.
    pub prefix: u8,
}

/// This machine's interfaces, one for each address; none where the system does not say.
pub fn interfaces() -> Vec<Interface> {
    let mut found = Vec::new();
    let mut first = std::ptr::null_mut();
    // SAFETY: the call only writes where the list begins.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return found;
    }
    let mut next = first;
    // SAFETY: the list, and what it points to, is there until it is freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        if entry.ifa_flags & libc::IFF_UP as u32 == 0 {
            continue;
        }
        // SAFETY: as above; addresses are as long as their family's are.
        let (address, mask) = unsafe { (ip(entry.ifa_addr), ip(entry.ifa_netmask)) };
        if let (Some(address), Some(mask)) = (address, mask) {
            let ones = match mask {
                IpAddr::V4(mask) => u32::from(mask).count_ones(),
                IpAddr::V6(mask) => u128::from(mask).count_ones(),
            };
            // SAFETY: as above; a name ends with a zero.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            let name = name.to_string_lossy().into_owned();
            found.push(Interface { name, address, prefix: ones as u8 });
        }
    }
    // SAFETY: nothing of the list is used any more.
    unsafe { libc::freeifaddrs(first) };
    found
}

/// The address of IPv4 or IPv6 in a socket's address.
///
/// # Safety
/// It is null, or as long as its family says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: as the caller promises.
    unsafe {
        match i32::from(address.as_ref()?.sa_family) {
            libc::AF_INET => {
                let found = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let found = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(found.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

/// This machine's name.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "localhost".into())
}

/// Where the number of a process means the same process: this machine since it was started, as far as this
/// process sees it. The names of machines do not tell, since copies of one may have the same.
pub fn number_space() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_differ() {
        assert_ne!(random_name().unwrap(), random_name().unwrap());
        assert_eq!(random_name().unwrap().len(), 32);
    }

    #[test]
    fn a_group_dies_as_one() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & sleep 60"]);
        lead_group_until_parent_dies(&mut command);
        let mut child = command.spawn().unwrap();
        assert!(group_exists(child.id()));
        kill_group(child.id());
        child.wait().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while group_exists(child.id()) {
            assert!(std::time::Instant::now() < deadline, "the group outlived its SIGKILL");
            std::thread::yield_now();
        }
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; exit 3"]);
        let output = output_within(&mut command, Duration::from_secs(60)).unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 300_000));
    }

    #[test]
    fn what_does_not_end_is_killed_with_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 987654 & sleep 987654"]);
        let started = Instant::now();
        let error = output_within(&mut command, Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("sh did not answer within 0.2 s"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_process_is_named_by_number_and_start() {
        let me = std::process::id();
        assert!(exists(me));
        assert_eq!(start_time(me), start_time(me));
        assert!(start_time(me).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn nobody_else_is_addressed_by_mistake() {
        assert!(!signal(0, 0) && !signal(1, 0) && !signal(-1, 0));
    }
}
