//! Groups so large that limits of the system matter; one process plays all ranks.

use std::os::unix::fs::symlink;

use tandem_tests::live::{Run, eventually};
use tandem_tests::{program, run_by};

use super::support::fake_run;

/// A run of which `examples/many_ranks.rs` takes the place of mpirun.
fn many_ranks(ranks: usize) -> Run {
    let run = fake_run(ranks);
    symlink(program("examples/many_ranks").get_program(), run.beside("mpirun")).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", run.beside("").display());
    run.set(&format!("training.micro_batches={ranks}"))
        .set("training.steps=1000000")
        .with("PATH", &path)
}

#[test]
fn a_rank_takes_one_of_the_launchers_open_files() {
    let few_files = ["sh", "-c", "ulimit -n 512; exec \"$@\"", "sh"];
    let run = many_ranks(350);
    let launch = run.start_with(&[], |command| run_by(command, &few_files));
    eventually("all have joined", || run.events("joined").len() == 350);
    launch.signal("INT");
    launch.wait(75);

    let run = many_ranks(450);
    let refused = run.start_with(&[], |command| run_by(command, &few_files)).wait(2);
    refused.assert_said("may open only 512 files, but workers and their connections need 578");
}
