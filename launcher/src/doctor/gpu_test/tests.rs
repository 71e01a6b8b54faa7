//! The test of GPUs with a script in the worker's place.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, PoisonError};

use tandem_cluster::run::gpu_report::{Check, Measurement};

use super::*;

/// What a worker would find, with a loss that is so much off.
fn report(error: f64) -> String {
    let check = Check::new("loss, f32", "relative error", error, 1e-4);
    let speed = Measurement { name: "copy".into(), value: 25.0, unit: "GB/s".into() };
    let (checks, measurements) = (vec![check], vec![speed]);
    let report = GpuReport { checks, measurements, ..GpuReport::default() };
    serde_json::to_string(&report).unwrap()
}

/// A process has one such test, whose log has its number.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Tests so many GPUs with this script; what was found, and what was told.
fn test(gpus: usize, nccl: &str, script: &str, seconds: u64) -> (GpuTest, Vec<String>) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let worker = folder.path().join("tandem-worker");
    std::fs::write(&worker, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&worker, PermissionsExt::from_mode(0o755)).unwrap();
    let host = tandem_cluster::process::host_name();
    let machine = Machine { cpus: 1, gpus, gpus_by: "by decree", mpirun: true, host };
    let deadline = Instant::now() + FOR_COLLECTIVES + Duration::from_secs(seconds);
    let setting = Setting { machine: &machine, worker: &worker, nccl: Ok(nccl), deadline };
    let mut told = Vec::new();
    let found = GpuTest::run(&setting, &mut |line| told.push(line.to_owned())).unwrap();
    (found, told)
}

/// A worker whose GPU 1 is so much off.
fn worker(error: f64) -> String {
    let (good, bad) = (report(0.0), report(error));
    format!(
        "[ $1 = conformance ] && {{ shift 5; echo \"$*, $NCCL_MAX_CTAS\"; exit 0; }}
echo \"     GPU number $4\" >&2
[ $4 = 1 ] && {{ echo '{bad}'; exit 1; }}
echo '{good}'"
    )
}

#[test]
fn gpus_that_compute_and_work_together_pass() {
    let (found, told) = test(2, "2.29.7", &worker(1e-5), 60);
    assert_eq!(found.failures(), [""; 0]);
    assert_eq!(found.success(), "2 GPUs compute what the CPU does; 2 ranks work together");
    assert_eq!(
        told,
        [
            "GPU 0       GPU number 0",
            "GPU 1       GPU number 1",
            "     --workers-per-gpu 1 --bandwidth 256, ",
            "     --workers-per-gpu 1 --bandwidth 256, ",
            "ok   collective operations: 2 ranks work together",
        ]
    );
}

#[test]
fn wrong_numbers_are_named_with_their_gpu() {
    let (found, _) = test(2, "2.29.7", &worker(0.5), 60);
    assert_eq!(found.failures(), ["GPU 1: loss, f32"]);
    assert!(found.gpus.iter().all(|tested| tested.report.is_some()));
}

#[test]
fn one_gpu_is_tested_with_as_many_ranks_as_nccl_allows() {
    let (found, told) = test(1, "2.30.7", &worker(0.0), 60);
    assert_eq!(found.success(), "the GPU computes what the CPU does; 2 ranks work together");
    let shared = "     --workers-per-gpu 2 --bandwidth 256, 2";
    assert_eq!(told.iter().filter(|line| *line == shared).count(), 2, "{told:#?}");

    let (found, told) = test(1, "2.29.7", &worker(0.0), 60);
    assert_eq!(found.success(), "the GPU computes what the CPU does; one rank conforms");
    assert_eq!(told[1], "     --workers-per-gpu 1, ");
    assert!(told[3].contains("only one rank was tested"), "{told:#?}");
}

#[test]
fn what_does_not_end_is_killed_and_named() {
    let script = "[ $1 = conformance ] && exit 3; echo '     card: slow' >&2; exec sleep 987654";
    let (found, told) = test(1, "2.29.7", script, 1);
    let late = "the test did not end within 1 s; the last line was `card: slow`";
    assert_eq!(found.failures(), [late, "collective operations"]);
    assert!(told.contains(&format!("FAIL {late}")), "{told:#?}");
}

#[test]
fn a_worker_that_fails_is_quoted() {
    let script = "[ $1 = conformance ] && exit 0; echo 'error: no driver' >&2; exit 1";
    let (found, _) = test(1, "2.29.7", script, 60);
    assert_eq!(found.failures(), ["the test ended early (exit status: 1): error: no driver"]);
}
