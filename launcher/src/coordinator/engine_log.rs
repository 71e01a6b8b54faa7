//! What mpirun and srun say about the ends of ranks and hosts.

/// Which rank did not even start, and why, by what the engine says. Where it says that one did not and
/// not which, as mpirun does when it is in a hurry, it is the only one that is `missing`, and the
/// engine's own exit `code` is its.
pub(crate) fn start_failure(
    log: &str,
    missing: Option<usize>,
    code: Option<i32>,
) -> (Option<usize>, String) {
    let number = |before: &str, after: &str| -> Option<usize> {
        let rest = &log[log.find(before)? + before.len()..];
        let rest = &rest[rest.find(after)? + after.len()..];
        rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    // `Process name: [[26410,1],1]` and `Exit code:    127`, or `n2: task 1: Exited with exit code 127`.
    let by_mpirun = || Some((number("Process name:", "],")?, number("Exit code:", "")?));
    let by_srun = || Some((number("error: ", ": task ")?, number(": Exited with exit code", "")?));
    let nameless = || {
        let is_one = log.contains("1 process returned") && log.contains("non-zero exit code");
        is_one.then_some((missing?, usize::try_from(code?).ok()?))
    };
    let ended = by_mpirun().or_else(by_srun).or_else(nameless);
    let says_why = |line: &&str| {
        let line = line.to_lowercase();
        ["error", "cannot", "could not", "unable"].iter().any(|word| line.contains(word))
    };
    let is_frame = |line: &str| line.starts_with("---");
    let is_said = |line: &&str| {
        !line.is_empty() && !is_frame(line) && !line.contains("Exited with exit code")
    };
    let lines = || log.lines().map(str::trim).filter(is_said);
    let reason =
        lines().find(says_why).or_else(|| lines().next_back()).unwrap_or("it did not say why");
    // What mpirun says in a frame is broken into lines anywhere.
    let after = log.lines().map(str::trim).skip_while(|line| *line != reason);
    let frames_before = log.lines().map(str::trim).take_while(|line| *line != reason);
    let reason = match frames_before.filter(|line| is_frame(line)).count() % 2 {
        0 => reason.to_owned(),
        _ => {
            let paragraph = after.take_while(|line| !line.is_empty() && !is_frame(line));
            let text = paragraph.collect::<Vec<_>>().join(" ");
            text.split_once(". ").map_or(text.as_str(), |(sentence, _)| sentence).to_owned()
        }
    };
    match (ended, lost_host(log)) {
        (Some((rank, code)), _) => {
            (Some(rank), format!("it did not start (exit code {code}): {reason}"))
        }
        (None, Some(host)) => {
            let words =
                "it is cut off, without power, or a firewall keeps its daemons from each other";
            (None, format!("not all workers connected: mpirun has lost {host}: {words}"))
        }
        (None, None) => {
            (None, format!("not all workers connected before the engine ended: {reason}"))
        }
    }
}

/// The host that mpirun says it has no connection to any more, or of which srun says that Slurm has
/// lost it.
pub(crate) fn lost_host(log: &str) -> Option<String> {
    let by_srun = log.lines().find_map(|line| line.split_once("error: Node failure on "));
    if let Some((_, node)) = by_srun {
        return Some(node.trim().to_owned());
    }
    let about = &log[log.find("lost communication with a remote daemon")?..];
    let line = about.lines().find(|line| line.trim_start().starts_with("Remote daemon"))?;
    Some(line.split_once(" on node ")?.1.trim().to_owned())
}

/// What mpirun says about a rank's end.
pub(crate) fn death(log: &str, rank: usize) -> Option<String> {
    let text = log.replace('\n', " ");
    let about = &text[text.find(&format!("process rank {rank} "))?..];
    let signal = &about[about.find("on signal ")? + "on signal ".len()..];
    let number = signal.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some(describe_signal(number))
}

/// The name of a signal.
pub(crate) fn describe_signal(number: i32) -> String {
    let name = signal_hook::low_level::signal_name(number).unwrap_or("unknown");
    let hint = if number == 9 { "; the system does so when memory runs out" } else { "" };
    format!("ended by signal {number} ({name}){hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mpirun_says_about_a_signal_is_understood() {
        let words = "mpirun noticed that process rank 1 with PID 0 on node n1 exited on \
                     signal 9 (Killed).\n";
        let said = death(words, 1).unwrap();
        assert!(said.starts_with("ended by signal 9 (SIGKILL)"), "{said}");
        assert_eq!(death(words, 0), None);
    }

    #[test]
    fn what_keeps_a_rank_from_starting_is_understood() {
        let library = "/w: error while loading shared libraries: libtorch_cpu.so: no such file";
        let frame = "-".repeat(70);
        let mpirun = format!(
            "{library}\n{frame}\nmpirun detected that one or more processes exited with non-zero \
             status, thus causing\nthe job to be terminated. The first process to do so was:\n\n  \
             Process name: [[26410,1],3]\n  Exit code:    127\n{frame}\n"
        );
        let srun = format!("{library}\nsrun: error: n2: task 3: Exited with exit code 127\n");
        let expected = (Some(3), format!("it did not start (exit code 127): {library}"));
        let hurried = format!(
            "{library}\n{frame}\nPrimary job  terminated normally, but 1 process returned\na \
             non-zero exit code. Per user-direction, the job has been aborted.\n{frame}\n"
        );
        assert_eq!(start_failure(&mpirun, None, None), expected);
        assert_eq!(start_failure(&srun, None, None), expected);
        assert_eq!(start_failure(&hurried, Some(3), Some(127)), expected);
        assert_eq!(start_failure(&hurried, None, Some(127)).0, None);
        let refused = "srun: error: Unable to create step for job 7: Required node not available";
        let (rank, message) =
            start_failure(&format!("srun: Job 7 step creation\n{refused}\n"), Some(1), Some(1));
        assert_eq!(rank, None);
        assert!(message.ends_with(refused), "{message}");
        let broken = format!(
            "{frame}\nThe SLURM process starter for OpenMPI was unable to locate a\nusable \"srun\" \
             command in its path. Please check your path\nand try again.\n{frame}\n"
        );
        let (_, message) = start_failure(&broken, Some(1), Some(1));
        assert!(message.ends_with("to locate a usable \"srun\" command in its path"), "{message}");
        let (_, message) = start_failure("", None, None);
        assert!(message.ends_with(": it did not say why"), "{message}");
    }

    #[test]
    fn a_lost_host_is_understood() {
        let words = "ORTE has lost communication with a remote daemon.\n\n  \
                     HNP daemon   : [[15556,0],0] on node n0\n  \
                     Remote daemon: [[15556,0],2] on node n2\n";
        assert_eq!(lost_host(words).as_deref(), Some("n2"));
        let (rank, message) = start_failure(words, None, Some(1));
        assert_eq!(rank, None);
        assert!(message.contains(": mpirun has lost n2: it is cut off, "), "{message}");
        let words = "srun: error: Node failure on n3\nsrun: error: n1: task 0: Killed\n";
        assert_eq!(lost_host(words).as_deref(), Some("n3"));
        assert_eq!(lost_host("nothing\n"), None);
    }
}
