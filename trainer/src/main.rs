//! `tandem-worker`: one rank of a run.

fn main() -> std::process::ExitCode {
    tandem_trainer::commands::main()
}
