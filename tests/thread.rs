//! Stops one thread of a process while the others run on.

use crate::live::eventually;

/// A thread that does not run any more. Its process cannot quite end before it is waited for.
pub struct FrozenThread {
    thread: libc::pid_t,
}

impl FrozenThread {
    /// Stops the thread of this name in a descendant of this process, while it waits and so holds
    /// no lock of which others have need.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn named(pid: u32, name: &str) -> Self {
        let mut found: Option<libc::pid_t> = None;
        eventually("the thread is there", || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
            let is_named = |path: &std::path::PathBuf| {
                std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
            };
            let path = threads.filter_map(|entry| Some(entry.ok()?.path())).find(is_named);
            found = path.and_then(|path| path.file_name()?.to_str()?.parse().ok());
            found.is_some()
        });
        let frozen = Self { thread: found.expect("it is there") };
        frozen.trace(libc::PTRACE_SEIZE);
        let call = format!("/proc/{pid}/task/{}/syscall", frozen.thread);
        loop {
            frozen.trace(libc::PTRACE_INTERRUPT);
            frozen.wait();
            let call = std::fs::read_to_string(&call).unwrap_or_default();
            let number = call.split_whitespace().next().and_then(|number| number.parse().ok());
            if number == Some(libc::SYS_futex) {
                return frozen;
            }
            frozen.trace(libc::PTRACE_CONT);
        }
    }

    /// Waits until it has ended, which it does with its process.
    pub fn wait_for_its_end(self) {
        while libc::WIFSTOPPED(self.wait()) {}
    }

    fn trace(&self, request: libc::c_uint) {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the requests used here touch no memory of this process.
        let answer = unsafe { libc::ptrace(request, self.thread, nothing, nothing) };
        let error = std::io::Error::last_os_error();
        assert_eq!(answer, 0, "ptrace, with which one thread is stopped: {error}");
    }

    fn wait(&self) -> libc::c_int {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let answer = unsafe { libc::waitpid(self.thread, &mut status, libc::__WALL) };
        assert_eq!(answer, self.thread, "{}", std::io::Error::last_os_error());
        status
    }
}
