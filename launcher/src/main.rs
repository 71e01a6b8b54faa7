//! `tandem`: the launcher.

fn main() -> std::process::ExitCode {
    tandem_launcher::commands::main()
}
