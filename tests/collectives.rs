//! Collective operations, among processes that mpirun starts.

use std::process::Command;

use tandem_tests::{expect_code, program};

#[test]
fn mpi_conforms_at_1_to_4_ranks() {
    for ranks in ["1", "2", "3", "4"] {
        let output = expect_code(mpirun(ranks).arg("conformance"), 0);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, format!("mpi conforms with {ranks} ranks\n"));
    }
}

/// `tandem-worker` on so many ranks; rank 0 alone is heard.
fn mpirun(ranks: &str) -> Command {
    let worker = program("tandem-worker");
    let mut command = Command::new("mpirun");
    command
        .args(["-n", ranks, "--oversubscribe", "--bind-to", "none"])
        .envs(worker.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .arg(worker.get_program());
    command
}
