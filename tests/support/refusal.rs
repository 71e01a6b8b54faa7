//! A system that lacks something: it refuses calls to a program and to all that this starts. The
//! programs know nothing of it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a file system says that has no modes to set and no links, as of CIFS or FUSE.
pub const PLAIN_FILES: [Refusal; 5] = [
    Refusal::of(libc::SYS_chmod, libc::EPERM),
    Refusal::of(libc::SYS_fchmod, libc::EPERM),
    Refusal::of(libc::SYS_fchmodat, libc::EPERM),
    Refusal::of(libc::SYS_symlink, libc::EPERM),
    Refusal::of(libc::SYS_symlinkat, libc::EPERM),
];

/// What a system says that has no IPv4.
pub const NO_IPV4: Refusal =
    Refusal::of(libc::SYS_socket, libc::EAFNOSUPPORT).with_first(libc::AF_INET);

/// What file systems say that have no locks.
pub const NO_LOCKS: [Refusal; 2] =
    [Refusal::of(libc::SYS_flock, libc::ENOSYS), Refusal::of(libc::SYS_flock, libc::ENOLCK)];

/// A system call that fails.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    call: libc::c_long,
    first: Option<u32>,
    error: i32,
}

impl Refusal {
    /// Each of these calls fails with this error.
    const fn of(call: libc::c_long, error: i32) -> Self {
        Self { call, first: None, error }
    }

    /// The error in words.
    pub fn words(&self) -> String {
        io::Error::from_raw_os_error(self.error).to_string()
    }

    /// Those with this first argument.
    #[must_use]
    const fn with_first(self, argument: i32) -> Self {
        Self { first: Some(argument as u32), ..self }
    }
}

/// Has a program meet these refusals.
pub fn refuse(command: &mut Command, refusals: &[Refusal]) {
    let filter = filter(refusals);
    // SAFETY: between fork and exec there are two system calls, and memory that is there already.
    unsafe { command.pre_exec(move || install(&filter)) };
}

/// Has a program meet modes as anybody does, even if root starts it.
pub fn obey_modes(command: &mut Command) {
    /// What lets root pass over modes: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
    const PASSING: [libc::c_ulong; 2] = [1, 2];
    let give_up = || {
        for capability in PASSING {
            // SAFETY: this takes a number. Who is not root has nothing to give up.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec there are two system calls.
    unsafe { command.pre_exec(give_up) };
}

/// The kernel's own form of it: <https://docs.kernel.org/userspace-api/seccomp_filter.html>.
fn filter(refusals: &[Refusal]) -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;
    /// Where `seccomp_data` has the call's number, and its first argument.
    const NUMBER: u32 = 0;
    const FIRST: u32 = 16;
    let step =
        |code: u32, k: u32, past: u8| libc::sock_filter { code: code as u16, jt: 0, jf: past, k };
    let mut steps = Vec::new();
    for refusal in refusals {
        let answer = libc::SECCOMP_RET_ERRNO | refusal.error as u32;
        let behind = if refusal.first.is_some() { 3 } else { 1 };
        steps.extend([step(LOAD, NUMBER, 0), step(EQUAL, refusal.call as u32, behind)]);
        if let Some(argument) = refusal.first {
            steps.extend([step(LOAD, FIRST, 0), step(EQUAL, argument, 1)]);
        }
        steps.push(step(ANSWER, answer, 0));
    }
    steps.push(step(ANSWER, libc::SECCOMP_RET_ALLOW, 0));
    steps
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which outlives the call.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
