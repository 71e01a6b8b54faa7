//! Collective operations, among processes that mpirun starts.

use std::path::Path;
use std::process::Command;

use tandem_tests::{expect_code, mpirun, program};
use tempfile::TempDir;

#[test]
fn mpi_conforms_at_1_to_4_ranks() {
    for ranks in 1..=4 {
        let output = expect_code(mpirun(ranks).arg("conformance"), 0);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, format!("mpi conforms with {ranks} ranks\n"));
    }
}

/// Stand-ins of NCCL and of CUDA's driver, on main memory.
struct Doubles {
    folder: TempDir,
}

impl Doubles {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("doubles/build.sh");
        expect_code(Command::new(script).arg(folder.path()), 0);
        Self { folder }
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
    let output = expect_code(command, code);
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stdout) + &of(&output.stderr)
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
        ("TANDEM_DOUBLE_VERSION", "21603", "NCCL 2.16.3 is too old: 2.18.0 or newer is needed"),
        ("TANDEM_DOUBLE_GPUS", "0", "CUDA: DriverError(CUDA_ERROR_NO_DEVICE"),
        ("TANDEM_DOUBLE_ONE_GPU", "1", "ranks 0 and 1 have the same GPU"),
    ] {
        let said = said(doubles.conformance(2).env(variable, value), 1);
        assert!(said.contains(expected), "{variable}: {said}");
    }
}

#[test]
fn a_library_that_cannot_be_loaded_is_named() {
    for library in ["libnccl.so", "libcuda.so"] {
        let doubles = Doubles::new();
        for name in [library, "libcuda.so.1"] {
            // In place of whatever this machine has.
            std::fs::write(doubles.folder.path().join(name), "no library").expect("a file");
        }
        let said = said(&mut doubles.conformance(1), 1);
        assert!(said.contains(&format!("{library} cannot be loaded")), "{said}");
    }
}

/// The library of NVIDIA itself, beside a stand-in of the driver: as far as it goes without a GPU.
#[test]
#[ignore = "needs the NCCL that `make test-nccl` fetches"]
fn real_nccl_is_loaded_named_and_refuses_a_machine_without_gpus() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let python = std::fs::read_dir(project.join(".deps/nccl/lib")).expect("`make test-nccl`");
    let python = python.flatten().next().expect("a version of Python").path();
    let doubles = Doubles::new();
    let link = doubles.folder.path().join("libnccl.so");
    std::fs::remove_file(&link).expect("the stand-in");
    let real = python.join("site-packages/nvidia/nccl/lib/libnccl.so.2");
    std::os::unix::fs::symlink(real, link).expect("a link");

    let mut command = program("tandem-worker");
    let found = said(command.arg("libraries").env("LD_LIBRARY_PATH", doubles.folder.path()), 0);
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let pinned = std::fs::read_to_string(project.join(".deps/nccl.txt")).expect("the version");
    let version = found["nccl"].as_str().expect("a version, and a unique id");
    assert!(pinned.contains(&format!("=={version} ")), "{version} is not {pinned}");

    let said = said(&mut doubles.conformance(1), 1);
    assert!(said.contains("NCCL: joining the other ranks failed: unhandled cuda error"), "{said}");
}
