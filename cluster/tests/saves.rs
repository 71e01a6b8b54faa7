//! Saving a checkpoint, killed or refused at every one of its file operations; and every bit of a
//! checkpoint flipped.

use std::fs;

use tandem_cluster::run::io_error::IoError;
use tandem_cluster::run::store::{
    ADAPTERS, MANIFEST, OPTIMIZER, Retention, Store, StoreError, TRAINER,
};
use tandem_tests::trace::{self, Strike};
use tempfile::TempDir;

/// What a worker and the coordinator do for a checkpoint, from its first file to the removal of
/// those that need not stay.
fn save(store: &Store, step: u64, attempt: u64) -> Result<(), StoreError> {
    let refused = |source| IoError::new("write", "draft", source);
    let draft = store.draft(step, attempt).map_err(refused)?;
    fs::write(draft.path(ADAPTERS), tensors(100, step as f32)).map_err(refused)?;
    fs::write(draft.path(OPTIMIZER), tensors(60, 0.5)).map_err(refused)?;
    fs::write(draft.path(TRAINER), format!("{{\"step\":{step}}}")).map_err(refused)?;
    draft.seal(vec![("encoder".into(), "e".into())])?;
    store.publish(step, attempt)?;
    store.mark_latest()?;
    store.mark_best(step)?;
    let keep = Retention { last: 2, ..Retention::default() };
    store.retain(&keep, attempt).map(drop)
}

/// A safetensors file with one tensor, in which all values are the same.
fn tensors(count: usize, value: f32) -> Vec<u8> {
    let end = 4 * count;
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{count}],"data_offsets":[0,{end}]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(value.to_le_bytes().repeat(count));
    bytes
}

/// The newest good checkpoint, and the one to which `latest` points.
fn steps(store: &Store) -> [Option<u64>; 2] {
    let (newest, damaged) = store.newest_good().unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    [newest.map(|found| found.step()), store.open("latest").ok().map(|found| found.step())]
}

/// Checkpoints of steps 1 and 2.
fn two() -> (TempDir, Store) {
    let folder = TempDir::new().unwrap();
    let store = Store::new(folder.path().join("checkpoints"));
    save(&store, 1, 1).unwrap();
    save(&store, 2, 1).unwrap();
    (folder, store)
}

/// A save of step 3 meets `strike` at each of its operations. Whatever that leaves is resumed from,
/// and the next attempt makes the same of it.
fn survives(strike: Strike) {
    let (_guard, store) = two();
    let whole = trace::run(usize::MAX, strike, || save(&store, 3, 1).is_ok());
    assert_eq!(whole.code, Some(0));
    assert!(whole.operations > 20, "a save has {} operations", whole.operations);
    let mut published = false;
    for at in 0..whole.operations {
        let here = format!("{strike:?} at operation {at} of {}", whole.operations);
        let (_guard, store) = two();
        let struck = trace::run(at, strike, || save(&store, 3, 1).is_ok());
        match strike {
            Strike::Kill | Strike::Tear => assert_eq!(struck.code, None, "{here}"),
            Strike::Full(_) | Strike::ReadOnly => {
                assert!(struck.code < Some(2), "{here}: it panicked")
            }
        }
        let [newest, latest] = steps(&store);
        assert!(newest == Some(2) || newest == Some(3), "{here}: {newest:?}");
        assert!(latest == Some(2) || latest == newest, "{here}: {latest:?}");
        assert!(newest == Some(3) || !published, "{here}: it was published before");
        published = newest == Some(3);

        save(&store, 3, 2).unwrap();
        let entries = fs::read_dir(store.folder()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["best", "latest", "step-00000002", "step-00000003"], "{here}");
        assert_eq!(steps(&store), [Some(3), Some(3)], "{here}");
    }
    assert!(published, "the last operation comes after publishing");
}

#[test]
fn a_save_killed_at_any_operation_leaves_a_whole_checkpoint() {
    survives(Strike::Kill);
}

#[test]
fn a_save_killed_in_the_middle_of_any_write_leaves_a_whole_checkpoint() {
    survives(Strike::Tear);
}

#[test]
fn a_disk_that_is_full_at_any_operation_takes_no_checkpoint() {
    survives(Strike::Full(usize::MAX));
    survives(Strike::Full(3));
}

#[test]
fn a_folder_that_is_read_only_from_any_operation_on_loses_no_checkpoint() {
    survives(Strike::ReadOnly);
}

#[test]
fn an_average_killed_at_any_operation_is_made_again() {
    let (_guard, store) = two();
    let average = || store.average(2, &[], 1).is_ok();
    let whole = trace::run(usize::MAX, Strike::Kill, average);
    assert_eq!(whole.code, Some(0));
    for at in 0..whole.operations {
        let (_guard, store) = two();
        store.average(1, &[], 1).unwrap();
        trace::run(at, Strike::Kill, || store.average(2, &[], 1).is_ok());
        assert_eq!(steps(&store), [Some(2), Some(2)], "operation {at}");
        if let Ok(found) = store.open("average") {
            assert!([&[2][..], &[1, 2]].contains(&&found.manifest().average_of[..]));
        }
        store.average(2, &[], 2).unwrap();
        assert_eq!(store.open("average").unwrap().manifest().average_of, [1, 2]);
    }
}

/// Every bit of a checkpoint is flipped, one by one: each time the checkpoint is named, and the one
/// before is used.
#[test]
fn each_of_ten_thousand_flipped_bits_is_found() {
    let (_guard, store) = two();
    let newest = store.open("2").unwrap().folder().to_owned();
    let mut flipped = 0;
    for file in [ADAPTERS, OPTIMIZER, TRAINER, MANIFEST] {
        let path = newest.join(file);
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bad).unwrap();
            let (found, damaged) = store.newest_good().unwrap();
            assert_eq!(found.map(|found| found.step()), Some(1), "bit {bit} of {file}");
            let [damaged] = &damaged[..] else { panic!("{damaged:?}") };
            let words = damaged.to_string();
            assert!(words.contains("step-00000002") && words.contains(file), "{words}");
            flipped += 1;
        }
        fs::write(&path, good).unwrap();
    }
    assert!(flipped >= 10_000, "{flipped}");
    assert_eq!(steps(&store), [Some(2), Some(2)], "all bits are back");
}
