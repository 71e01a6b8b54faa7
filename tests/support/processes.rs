//! The processes of a run, as /proc shows them.

use std::path::Path;

/// The processes of `program` that have the folder `run` on their command line, in no order; one
/// that has ended and was not waited for has no command line any more.
pub fn of_run(program: &str, run: &Path) -> Vec<u32> {
    let mine = |line: &str| {
        let mut words = line.split('\0');
        let first = Path::new(words.next().unwrap_or_default());
        first.file_name().is_some_and(|name| name == program)
            && words.any(|word| Path::new(word) == run)
    };
    every_process().filter(|pid| mine(&proc_file(*pid, "cmdline"))).collect()
}

/// A number in a process's environment.
pub fn variable(pid: u32, name: &str) -> Option<u64> {
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
    proc_file(pid, "environ").split('\0').find_map(of)
}

/// The thread of this name in a process.
pub fn thread(pid: u32, name: &str) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let threads = tasks.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    threads
        .into_iter()
        .find(|thread| proc_file(pid, &format!("task/{thread}/comm")).trim_end() == name)
}

fn every_process() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// A file of /proc/PID; empty for a process that is gone.
fn proc_file(pid: u32, name: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
