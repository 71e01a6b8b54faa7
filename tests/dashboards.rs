//! The recipes of docs/dashboards.md, with the real programs: `make test-dashboards`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tandem_tests::live::Run;
use tandem_tests::{Tiny, expect_code};

#[test]
#[ignore = "needs 1 GB of Python packages: make test-dashboards"]
fn wandb_and_mlflow_take_every_point() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let python = |program: &Path, argument: Option<&Path>| {
        let mut command = Command::new(root.join(".deps/dashboards/bin/python"));
        command.arg(program).args(argument).current_dir(folder.path());
        expect_code(command.env("WANDB_MODE", "offline"), 0).stdout
    };
    let run = Run::new(&Tiny::shared(), "dashboards", 1, &["training.log_every=5"]);
    run.launch(&[], 0);

    let page = std::fs::read_to_string(root.join("docs/dashboards.md")).expect("a page");
    let recipes = page.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
    let recipes: Vec<&str> = recipes.collect();
    assert_eq!(recipes.len(), 2, "one for each program");
    for recipe in recipes {
        let program = folder.path().join("recipe.py");
        std::fs::write(&program, recipe).expect("a program");
        python(&program, Some(run.folder()));
    }

    let kept = python(&root.join("tests/python/read_dashboards.py"), None);
    let kept: Value = serde_json::from_str(&kept).expect("one object");
    let curves = run.curves();
    let losses = &curves["train/loss"];
    assert!(losses.len() > 2, "{losses:?}");
    // Texts and hyperparameters are no curves.
    let numbers =
        |points: &Value| -> Option<Vec<(u64, f64)>> { serde_json::from_value(points.clone()).ok() };
    for program in ["wandb", "mlflow"] {
        for (tag, points) in &curves {
            let points = numbers(&serde_json::json!(points));
            assert_eq!(numbers(&kept[program][tag]), points, "{program}: {tag}");
        }
    }
}

#[test]
#[ignore = "needs 1 GB of Python packages: make test-dashboards"]
fn this_tensorboard_starts_beside_a_new_setuptools() {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/dashboards/bin");
    let output = expect_code(Command::new(bin.join("tensorboard")).arg("--version"), 0).stdout;
    assert!(output.contains("2.21"));
}
