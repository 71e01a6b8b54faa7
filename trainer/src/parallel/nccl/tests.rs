//! Tests of the backend on stand-ins for NCCL and CUDA's driver (tests/doubles), in main memory, with
//! threads as ranks. Separate processes are tested with the real programs.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Barrier, OnceLock};

use super::*;
use crate::parallel::collective::conformance;

/// Short enough for a test, long enough for a busy machine.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(60);

/// Loads the stand-ins: because of their names, the dynamic linker gives them to cudarc.
fn load_doubles() {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/doubles/build.sh");
        assert!(Command::new(script).arg(folder.path()).status().unwrap().success());
        for library in ["libcuda.so", "libnccl.so.2"] {
            dlopen(&folder.path().join(library));
        }
    });
}

fn dlopen(path: &Path) {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: loads a library that is never unloaded.
    assert!(!unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null());
}

/// The cards of ranks that each have a GPU of their own.
fn cards(ranks: usize) -> Vec<Card> {
    load_doubles();
    let (.., first) = Card::new(Device::Cpu, true).unwrap();
    let card = |rank: usize| Card { gpu: [rank as u8; 16], ..first };
    (0..ranks).map(card).collect()
}

/// Runs `body` on each rank, and returns the results.
fn on_ranks<T: Send>(ranks: usize, deadline: Duration, body: impl Fn(&Nccl) -> T + Sync) -> Vec<T> {
    let cards = cards(ranks);
    let (cards, body) = (&cards, &body);
    std::thread::scope(|scope| {
        let start = |rank: usize| scope.spawn(move || body(&join(rank, cards, deadline).unwrap()));
        let threads: Vec<_> = (0..ranks).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn join(rank: usize, cards: &[Card], deadline: Duration) -> Result<Nccl, NcclError> {
    let (library, gpu) = (library::load()?, driver::gpu(0)?);
    Nccl::join(library, rank, cards, (gpu, Device::Cpu), deadline)
}

#[test]
fn conforms_at_1_to_4_ranks() {
    for ranks in 1..=4 {
        for outcome in on_ranks(ranks, LATE, |nccl| conformance(nccl, Device::Cpu)) {
            outcome.unwrap();
        }
    }
}

#[test]
fn adds_bf16() {
    for sum in on_ranks(3, LATE, |nccl| {
        let mut tensor = Tensor::from_slice(&[1.0f32, -2.5, 1024.0]).to_kind(Kind::BFloat16);
        nccl.begin().unwrap();
        nccl.all_reduce_sum(&mut tensor).unwrap();
        nccl.settle().unwrap();
        Vec::<f32>::try_from(tensor.to_kind(Kind::Float)).unwrap()
    }) {
        assert_eq!(sum, [3.0, -7.5, 3072.0]);
    }
}

#[test]
fn a_missing_rank_ends_the_start_at_the_deadline() {
    let cards = cards(2);
    let error = join(0, &cards, SOON).err().unwrap();
    assert!(matches!(error, NcclError::Deadline { operation: "joining the other ranks", .. }));
}

#[test]
fn a_rank_that_left_is_an_error_at_once_and_for_all_later_calls() {
    let left = Barrier::new(2);
    let outcomes = on_ranks(2, LATE, |nccl| {
        let mut tensor = Tensor::ones([5], (Kind::Float, Device::Cpu));
        if nccl.rank() == 1 {
            nccl.release(nccl.library.functions.comm_abort);
            left.wait();
            return (String::new(), String::new());
        }
        left.wait();
        nccl.begin().unwrap();
        let first = nccl.all_reduce_sum(&mut tensor).unwrap_err().to_string();
        (first, nccl.all_reduce_sum(&mut tensor).unwrap_err().to_string())
    });
    let (first, later) = &outcomes[0];
    assert!(first.starts_with("NCCL: summing over the ranks failed: remote process"), "{first}");
    assert_eq!(later, "NCCL: the communicator was given up after an earlier error");
}

#[test]
fn a_rank_that_hangs_is_an_error_at_the_deadline() {
    let given_up = Barrier::new(2);
    let outcomes = on_ranks(2, SOON, |nccl| {
        let hangs = nccl.rank() == 1;
        let outcome = if hangs { Ok(()) } else { reduce_without_patience(nccl) };
        given_up.wait();
        outcome
    });
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(error.starts_with("NCCL: the reduction of a step did not end within 1 s"), "{error}");
}

fn reduce_without_patience(nccl: &Nccl) -> Result<(), CollectiveError> {
    // SAFETY: looks up a name.
    let patience = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"double_patience".as_ptr()) };
    assert!(!patience.is_null());
    // SAFETY: a variable of the calling thread in tests/doubles/nccl.c, as dlsym answers those.
    unsafe { *patience.cast::<libc::c_long>() = 10 };
    nccl.begin()?;
    nccl.all_reduce_sum(&mut Tensor::ones([5], (Kind::Float, Device::Cpu)))?;
    nccl.settle().expect("nothing that was settled before");
    nccl.settle()
}

#[test]
fn communication_without_waiting_for_computation_is_refused() {
    // The stand-in refuses what would be a race on a GPU.
    for error in on_ranks(1, LATE, |nccl| {
        let mut tensor = Tensor::ones([5], (Kind::Float, Device::Cpu));
        nccl.all_reduce_sum(&mut tensor).unwrap_err().to_string()
    }) {
        assert!(error.contains("invalid usage: the stream waited for no event"), "{error}");
    }
}

#[test]
fn an_invalid_unique_id_is_refused_with_nccls_error() {
    let card = Card { id: [b'x'; 128], ..cards(1)[0] };
    let error = join(0, &[card], SOON).err().unwrap().to_string();
    let expected = "NCCL: joining the other ranks failed: unhandled system error: no communicator \
                    has this id (NCCL 2.29.7, ";
    assert!(error.starts_with(expected) && error.ends_with("libnccl.so.2)"), "{error}");
}

#[test]
fn cards_are_serialised_without_loss() {
    let card = Card { version: Version(22907), gpu: [7; 16], id: [200; 128] };
    assert_eq!(Card::from_bytes(&card.to_bytes()), card);
}

#[test]
fn ranks_that_cannot_work_together_say_why() {
    let card = |rank: u8| Card { version: Version(22907), gpu: [rank; 16], id: [0; 128] };
    let said = |cards: &[Card]| check(cards, 1).unwrap_err().to_string();
    assert!(check(&[card(0), card(1), card(2)], 1).is_ok());
    assert!(said(&[card(0), Card::UNUSABLE]).starts_with("rank 1 cannot use NCCL"));
    let older = Card { version: Version(22705), ..card(2) };
    assert!(
        said(&[card(0), card(1), older])
            .starts_with("rank 0 has NCCL 2.29.7 and rank 2 has NCCL 2.27.5")
    );
    assert!(said(&[card(0), card(1), card(0)]).starts_with("ranks 0 and 2 have the same GPU"));
}

#[test]
fn at_most_workers_per_gpu_ranks_share_a_gpu() {
    let card = |gpu: u8| Card { version: Version(23007), gpu: [gpu; 16], id: [0; 128] };
    let four = [card(0), card(1), card(0), card(1)];
    assert!(check(&four, 2).is_ok());
    let refused = check(&[&four[..], &[card(1)]].concat(), 2);
    assert!(matches!(refused, Err(NcclError::SharedGpu { first: 1, second: 4 })));
}

#[test]
fn a_refused_message_leaves_no_group_open() {
    on_ranks(1, LATE, |nccl| {
        nccl.begin().unwrap();
        let elements = Tensor::ones([5], (Kind::Float, Device::Cpu));
        let to = |peer| Message { peer, elements: elements.shallow_clone() };
        let error = nccl.exchange(&[to(1)], &mut []).unwrap_err().to_string();
        assert!(error.contains("sending a message failed: invalid argument"), "{error}");
        // SAFETY: begins and ends an empty group.
        let started = unsafe { (nccl.library.functions.group_start)() };
        assert_eq!(started, ncclResult_t::ncclSuccess);
        // SAFETY: as above.
        unsafe { (nccl.library.functions.group_end)() };
    });
}

#[test]
fn a_communicator_is_finalized_before_it_is_destroyed() {
    // Otherwise the stand-in's destruction waits for 30 s, and its folder remains meanwhile.
    let cards = cards(1);
    let folder = cards[0].id.iter().take_while(|byte| **byte != 0).copied().collect();
    let folder = std::path::PathBuf::from(String::from_utf8(folder).unwrap());
    let nccl = join(0, &cards, LATE).unwrap();
    assert!(folder.is_dir());
    drop(nccl);
    assert!(!folder.exists());
}
