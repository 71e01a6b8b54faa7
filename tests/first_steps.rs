//! The first steps with Tandem: a run file from a few answers, completion in a shell, manual pages.

use std::process::Command;

use tandem_tests::{Tiny, expect_code, program};

#[test]
fn a_run_file_is_written_from_a_few_answers_and_trains() {
    let tiny = Tiny::shared();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tandem = |words: &[&str]| {
        let mut command = program("tandem");
        command.current_dir(folder.path()).args(words);
        command
    };
    let path = |name: &str| tiny.path(name).display().to_string();
    let said = expect_code(&mut tandem(&["init", "de-en.yaml", "--train", "a.tsv"]), 2).stderr;
    assert!(said.contains("--encoder, --decoder, --valid, --test must be given"), "{said}");

    let (train, valid) = (path("train.tsv"), path("valid.tsv"));
    let (encoder, decoder) = (path("bert-de/export"), path("bert-en/export"));
    let mut answers = vec!["init", "de-en.yaml", "--train", &train, "--valid", &valid, "--test"];
    answers.extend([&*valid, "--encoder", &encoder, "--decoder", &decoder, "--steps", "4"]);
    expect_code(&mut tandem(&answers), 0);
    let small = ["--set", "training.max_tokens=300", "--set", "training.micro_batches=1"];
    expect_code(tandem(&["launch", "de-en.yaml"]).args(small), 0);
    assert!(folder.path().join("runs/de-en/report.md").is_file());

    // What was written, and perhaps edited since, is never written again.
    let written = std::fs::read(folder.path().join("de-en.yaml")).expect("a run file");
    expect_code(&mut tandem(&answers), 2);
    assert_eq!(std::fs::read(folder.path().join("de-en.yaml")).expect("a run file"), written);
}

#[test]
fn bash_completes_commands_and_options() {
    let tandem = program("tandem");
    let complete = |words: &str, index: usize| {
        let script = format!(
            "source <(\"$0\" completions bash); COMP_WORDS=({words}); COMP_CWORD={index}; \
             _tandem tandem \"${{COMP_WORDS[{index}]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        let output = expect_code(bash.args(["-c", &script]).arg(tandem.get_program()), 0).stdout;
        output.trim().to_owned()
    };
    assert_eq!(complete("tandem laun", 1), "launch");
    assert_eq!(complete("tandem launch --res", 2), "--restart");
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    expect_code(program("tandem").arg("man").arg(folder.path().join("man1")), 0);
    let help = expect_code(program("tandem").arg("--help"), 0).stdout;
    let commands = help.split("Commands:").nth(1).and_then(|text| text.split("Options:").next());
    let names = commands.expect("commands").lines().filter(|line| line.starts_with("  "));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"launch"), "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let page = folder.path().join(format!("man1/tandem-{name}.1"));
        let text = std::fs::read_to_string(&page).expect("a page");
        assert!(text.contains(".TH tandem"), "{text}");
    }
}
