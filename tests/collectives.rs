//! Collective operations, among processes that mpirun starts.

use std::path::Path;
use std::process::Command;

use tandem_tests::{expect_code, mpirun, program};
use tempfile::TempDir;

#[test]
fn mpi_conforms_at_1_to_4_ranks() {
    for ranks in 1..=4 {
        let said = expect_code(mpirun(ranks).arg("conformance"), 0).stdout;
        assert_eq!(said, format!("mpi conforms with {ranks} ranks\n"));
    }
}

/// Stand-ins of NCCL and of CUDA's driver, on main memory.
struct Doubles {
    folder: TempDir,
}

/// A script of tests/doubles.
fn double(script: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("doubles").join(script))
}

impl Doubles {
    fn new() -> Self {
        Self::of(&["22907"])
    }

    /// With NCCL's version, and its soname.
    fn of(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        expect_code(double("build.sh").arg(folder.path()).args(arguments), 0);
        Self { folder }
    }

    /// The CUDA half of a libtorch that comes with the NCCL of `other`, of which it needs a function.
    fn add_libtorch(&self, other: &Self, function: &str) {
        let mut script = double("libtorch_cuda.sh");
        expect_code(script.args([self.folder.path(), other.folder.path()]).arg(function), 0);
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().expect("UTF-8")
    }

    /// What the worker says of its libraries where these come first.
    fn libraries(&self) -> serde_json::Value {
        let mut command = program("tandem-worker");
        let said = said(command.arg("libraries").env("LD_LIBRARY_PATH", self.path()), 0);
        serde_json::from_str(&said).expect("JSON")
    }

    /// The conformance test of NCCL with these stand-ins.
    fn conformance(&self, ranks: usize) -> Command {
        let mut command = mpirun(ranks);
        command.args(["conformance", "--backend", "nccl", "--host-memory", "--deadline", "20"]);
        command.env("LD_LIBRARY_PATH", self.folder.path());
        command.env("TANDEM_DOUBLE_FOLDER", self.folder.path());
        command
    }
}

fn said(command: &mut Command, code: i32) -> String {
    let ended = expect_code(command, code);
    ended.stdout + &ended.stderr
}

#[test]
fn nccl_conforms_on_stand_ins_at_1_to_4_ranks() {
    let doubles = Doubles::new();
    for ranks in 1..=4 {
        let said = said(&mut doubles.conformance(ranks), 0);
        assert_eq!(said, format!("nccl conforms with {ranks} ranks\n"));
    }
}

#[test]
fn bandwidth_is_measured() {
    let mut command = mpirun(2);
    let said = said(command.args(["conformance", "--bandwidth", "5"]), 0);
    let sizes: Vec<&str> =
        said.lines().filter_map(|line| line.strip_prefix("all-reduce")).collect();
    assert_eq!(sizes.len(), 2, "{said}");
    assert!(sizes.iter().all(|line| line.ends_with("GB/s on each link")), "{said}");
}

#[test]
fn what_keeps_nccl_from_starting_is_said() {
    let doubles = Doubles::new();
    for (variable, value, expected) in [
        ("TANDEM_DOUBLE_VERSION", "21603", "libnccl.so.2) is too old: 2.18.0 or newer is needed"),
        ("TANDEM_DOUBLE_GPUS", "0", "CUDA: DriverError(CUDA_ERROR_NO_DEVICE"),
        ("TANDEM_DOUBLE_ONE_GPU", "1", "ranks 0 and 1 have the same GPU"),
    ] {
        let said = said(doubles.conformance(2).env(variable, value), 1);
        assert!(said.contains(expected), "{variable}: {said}");
    }
}

#[test]
fn a_library_that_cannot_be_loaded_is_named() {
    for library in ["libnccl.so.2", "libcuda.so"] {
        let doubles = Doubles::new();
        for name in [library, "libnccl.so", "libcuda.so.1"] {
            // In place of whatever this machine has.
            std::fs::write(doubles.folder.path().join(name), "no library").expect("a file");
        }
        let said = said(&mut doubles.conformance(1), 1);
        assert!(said.contains(&format!("{library} cannot be loaded")), "{said}");
    }
}

/// As with PyTorch's wheels: libtorch's own NCCL lies where libtorch looks before LD_LIBRARY_PATH.
#[test]
fn libtorch_uses_the_nccl_of_the_library_path_too() {
    let (theirs, ours) = (Doubles::of(&["22809"]), Doubles::of(&["23007"]));
    ours.add_libtorch(&theirs, "ncclGetVersion");
    let found = ours.libraries();
    assert_eq!(found["no_cuda"], serde_json::Value::Null);
    assert_eq!(found["nccl"], "2.30.7");
    assert_eq!(found["nccl_file"], format!("{}/libnccl.so.2", ours.path()));
    for ranks in 1..=2 {
        let said = said(&mut ours.conformance(ranks), 0);
        assert_eq!(said, format!("nccl conforms with {ranks} ranks\n"));
    }
}

#[test]
fn the_nccl_of_libtorch_is_used_where_there_is_no_other() {
    let (theirs, ours) = (Doubles::of(&["22809"]), Doubles::new());
    ours.add_libtorch(&theirs, "ncclGetVersion");
    std::fs::remove_file(ours.folder.path().join("libnccl.so.2")).expect("the stand-in");
    let found = ours.libraries();
    assert_eq!(found["nccl_file"], format!("{}/libnccl.so.2", theirs.path()), "{found}");
}

#[test]
fn an_nccl_that_is_too_old_for_libtorch_is_named() {
    let (theirs, ours) = (Doubles::of(&["23007"]), Doubles::of(&["22809"]));
    ours.add_libtorch(&theirs, "ncclOfTheFuture");
    let found = ours.libraries();
    let reason = found["no_cuda"].as_str().expect("a reason");
    let file = format!("{}/libnccl.so.2", ours.path());
    assert!(
        reason.contains(&format!("libtorch needs a newer NCCL than 2.28.9 ({file})")),
        "{reason}"
    );
}

#[test]
fn two_copies_of_nccl_are_refused_by_name() {
    // As where a program that is preloaded was linked with one of its own.
    let (ours, other) = (Doubles::of(&["23007"]), Doubles::of(&["22809", "libother.so"]));
    let preloaded = format!("{}/libother.so", other.path());
    let said = said(ours.conformance(1).env("LD_PRELOAD", &preloaded), 1);
    let used = format!("{}/libnccl.so.2", ours.path());
    assert!(said.contains(&format!("two NCCLs in this process, {used} and {preloaded}")), "{said}");
}

#[test]
fn ranks_share_a_gpu_where_nccl_lets_them() {
    let shared = |version: &str, code: i32| {
        let doubles = Doubles::of(&[version]);
        let mut command = doubles.conformance(2);
        command.args(["--workers-per-gpu", "2"]).env("TANDEM_DOUBLE_ONE_GPU", "1");
        said(&mut command, code)
    };
    assert_eq!(shared("23007", 0), "nccl conforms with 2 ranks\n");
    let refused = shared("22907", 1);
    assert!(refused.contains("workers_per_gpu is 2, but NCCL 2.29.7 ("), "{refused}");
}

/// The library of NVIDIA itself, beside a stand-in of the driver: as far as it goes without a GPU.
#[test]
#[ignore = "needs the NCCL that `make test-nccl` fetches"]
fn real_nccl_is_loaded_named_and_refuses_a_machine_without_gpus() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let python = std::fs::read_dir(project.join(".deps/nccl/lib")).expect("`make test-nccl`");
    let python = python.flatten().next().expect("a version of Python").path();
    let doubles = Doubles::new();
    let link = doubles.folder.path().join("libnccl.so.2");
    std::fs::remove_file(&link).expect("the stand-in");
    let real = python.join("site-packages/nvidia/nccl/lib/libnccl.so.2");
    std::os::unix::fs::symlink(real, link).expect("a link");

    let found = doubles.libraries();
    let pinned = std::fs::read_to_string(project.join(".deps/nccl.txt")).expect("the version");
    let version = found["nccl"].as_str().expect("a version, and a unique id");
    assert!(pinned.contains(&format!("=={version} ")), "{version} is not {pinned}");

    let said = said(&mut doubles.conformance(1), 1);
    assert!(said.contains("NCCL: joining the other ranks failed: unhandled cuda error"), "{said}");
}
