//! Faults of the file system, made at any one of a process's file operations: it is killed there,
//! or the disk is full from there on.
//!
//! The operations are seen and changed with `ptrace`, so the code under test has no part in it.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use libc::{c_int, c_long, c_void, pid_t, user_regs_struct};

/// What happens at a file operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// The process is killed before it.
    Kill,
    /// Half of it is written, then the process is killed; [`Strike::Kill`] for what is no write.
    Tear,
    /// Half of it is written; this and all that need space fail from then on, until so many
    /// operations have been begun and there is space again.
    Full(usize),
    /// This and all others fail from then on: the folder has become read-only.
    ReadOnly,
}

/// What became of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// How many file operations it began.
    pub operations: usize,
    /// Its exit code; none if it was killed.
    pub code: Option<i32>,
}

/// Runs `body` in a process of its own, and strikes at its file operation `at`, counted from 0.
/// The process ends with 0 if `body` answers true, with 1 if not, and with 101 if it panics.
///
/// # Panics
/// If this machine allows no tracing.
pub fn run(at: usize, strike: Strike, body: impl FnOnce() -> bool) -> Traced {
    // SAFETY: the child calls only `body`, which has to get on with this thread alone; the
    // allocator of glibc is usable in a forked child.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: requests without pointers.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
        }
        let code = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(true) => 0,
            Ok(false) => 1,
            Err(_) => 101,
        };
        // SAFETY: no preconditions.
        unsafe { libc::_exit(code) };
    }
    Tracer { pid, ended: Cell::new(0) }.follow(at, strike)
}

struct Tracer {
    pid: pid_t,
    /// The status with which it ended.
    ended: Cell<c_int>,
}

impl Tracer {
    fn follow(&self, at: usize, strike: Strike) -> Traced {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        self.wait();
        self.request(libc::PTRACE_SETOPTIONS, options.into());
        let mut operations = 0;
        while let Some(mut call) = self.next_stop() {
            let mut refused = None;
            if let Some(needs_space) = file_operation(&call) {
                let first = operations == at;
                operations += 1;
                match strike {
                    Strike::Kill if first => return self.kill(operations),
                    Strike::Tear if first && is_write(&call) && call.rdx > 1 => {
                        call.rdx /= 2;
                        self.set(&call);
                        self.next_stop();
                        return self.kill(operations);
                    }
                    Strike::Tear if first => return self.kill(operations),
                    Strike::Full(_) if first && is_write(&call) && call.rdx > 1 => {
                        call.rdx /= 2;
                        self.set(&call);
                    }
                    Strike::Full(some) if needs_space => {
                        let is_full = operations > at && operations - at <= some;
                        refused = is_full.then_some(libc::ENOSPC);
                    }
                    Strike::ReadOnly if operations > at => refused = Some(libc::EROFS),
                    _ => {}
                }
            }
            if refused.is_some() {
                call.orig_rax = u64::MAX;
                self.set(&call);
            }
            let Some(mut done) = self.next_stop() else { break };
            if let Some(error) = refused {
                done.rax = -i64::from(error) as u64;
                self.set(&done);
            }
        }
        let status = self.ended.get();
        let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        Traced { operations, code }
    }
}

/// Stops one thread of another process until that process has ended; the others go on.
///
/// # Panics
/// If this machine allows no tracing, or the thread is gone.
pub fn hold(thread: u32) -> JoinHandle<()> {
    let (told, is_held) = std::sync::mpsc::channel();
    let holder = std::thread::spawn(move || {
        // Whoever seizes a thread has to be the one that waits for it.
        let tracer = Tracer { pid: thread as pid_t, ended: Cell::new(0) };
        tracer.request(libc::PTRACE_SEIZE, 0);
        tracer.request(libc::PTRACE_INTERRUPT, 0);
        tracer.wait();
        told.send(()).expect("somebody waits");
        while libc::WIFSTOPPED(tracer.wait()) {}
    });
    is_held.recv().expect("the thread is held");
    holder
}

impl Tracer {
    /// Lets it run to its next entry into the system or return from it; none at its end.
    fn next_stop(&self) -> Option<user_regs_struct> {
        const SYSTEM_CALL: c_int = libc::SIGTRAP | 0x80;
        let mut signal = 0;
        loop {
            self.request(libc::PTRACE_SYSCALL, signal);
            let status = self.wait();
            if !libc::WIFSTOPPED(status) {
                self.ended.set(status);
                return None;
            }
            match libc::WSTOPSIG(status) {
                SYSTEM_CALL => break,
                other => signal = other.into(),
            }
        }
        // SAFETY: all zeros are valid, and the request fills the struct.
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, &raw mut registers as c_long);
        Some(registers)
    }

    fn set(&self, registers: &user_regs_struct) {
        self.request(libc::PTRACE_SETREGS, &raw const *registers as c_long);
    }

    fn kill(&self, operations: usize) -> Traced {
        // SAFETY: two numbers; the process is this one's child and was not waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        while libc::WIFSTOPPED(self.wait()) {}
        Traced { operations, code: None }
    }

    fn wait(&self) -> c_int {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let found = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
        assert_eq!(found, self.pid, "waitpid: {}", io::Error::last_os_error());
        status
    }

    fn request(&self, request: libc::c_uint, data: c_long) {
        let nothing = std::ptr::null_mut::<c_void>();
        // SAFETY: `data` is what the request takes: a number, or a pointer to registers.
        let answer = unsafe { libc::ptrace(request, self.pid, nothing, data) };
        assert!(answer >= 0, "ptrace: {}", io::Error::last_os_error());
    }
}

/// Whether this call changes or syncs files, and if so whether it needs space.
fn file_operation(call: &user_regs_struct) -> Option<bool> {
    match call.orig_rax as c_long {
        libc::SYS_open => creates(call.rsi),
        libc::SYS_openat => creates(call.rdx),
        // Standard output and standard error are no files of the run.
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev => (call.rdi > 2).then_some(true),
        libc::SYS_mkdir | libc::SYS_mkdirat | libc::SYS_symlink | libc::SYS_symlinkat => Some(true),
        libc::SYS_copy_file_range | libc::SYS_sendfile => Some(true),
        // Where space is given to a file late, its sync finds out.
        libc::SYS_fsync | libc::SYS_fdatasync => Some(true),
        libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => Some(false),
        libc::SYS_unlink | libc::SYS_unlinkat | libc::SYS_rmdir => Some(false),
        libc::SYS_truncate | libc::SYS_ftruncate => Some(false),
        _ => None,
    }
}

fn creates(flags: u64) -> Option<bool> {
    (flags as c_int & libc::O_CREAT != 0).then_some(true)
}

fn is_write(call: &user_regs_struct) -> bool {
    matches!(call.orig_rax as c_long, libc::SYS_write | libc::SYS_pwrite64)
}
