//! The store, killed, filled up and damaged.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::TempDir;

use super::*;

const WEIGHTS: [f32; 3] = [1.0, -2.0, 0.5];

fn store() -> (TempDir, Store) {
    let folder = TempDir::new().unwrap();
    let store = Store::new(folder.path().join("checkpoints"));
    (folder, store)
}

fn bases() -> Vec<(String, String)> {
    vec![("encoder".into(), "e".into()), ("decoder".into(), "d".into())]
}

fn write_tensors(path: &Path, weights: &[f32]) {
    let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![weights.len()], &bytes).unwrap();
    safetensors::serialize_to_file([("w", view)], None, path).unwrap();
}

fn draft(store: &Store, step: u64, attempt: u64) -> Draft {
    let draft = store.draft(step, attempt).unwrap();
    write_tensors(&draft.path(ADAPTERS), &WEIGHTS.map(|weight| weight * step as f32));
    write_tensors(&draft.path(OPTIMIZER), &[0.0; 6]);
    fs::write(draft.path(TRAINER), format!("{{\"step\": {step}}}")).unwrap();
    draft
}

fn publish(store: &Store, step: u64) -> Checkpoint {
    draft(store, step, 1).seal(bases()).unwrap();
    let published = store.publish(step, 1).unwrap();
    store.mark_latest().unwrap();
    published
}

fn newest(store: &Store) -> (Option<u64>, Vec<String>) {
    let (good, damaged) = store.newest_good().unwrap();
    let words = damaged.iter().map(ToString::to_string).collect();
    (good.map(|checkpoint| checkpoint.step()), words)
}

#[test]
fn a_published_checkpoint_is_found_by_all_its_names() {
    let (_guard, store) = store();
    assert_eq!(newest(&store), (None, vec![]));
    publish(&store, 10);
    let checkpoint = publish(&store, 20);
    assert!(checkpoint.folder().ends_with("step-00000020"));
    assert_eq!(checkpoint.bases()[1], Base { side: "decoder".into(), sha256: "d".into() });
    assert_eq!(newest(&store), (Some(20), vec![]));
    store.mark_best(10).unwrap();
    for (name, step) in [("latest", 20), ("best", 10), ("10", 10), ("20", 20)] {
        assert_eq!(store.open(name).unwrap().step(), step);
    }
    let error = store.open("30").unwrap_err().to_string();
    assert!(error.contains("no checkpoint `30`"), "{error}");
    assert!(error.ends_with("there are: latest, best, 10, 20"), "{error}");
}

#[test]
fn every_kind_of_damage_is_named_and_passed_over() {
    type Harm = fn(&Path);
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    fn cut(path: &Path) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    }
    let cases: [(Harm, &str); 8] = [
        (|folder| cut(&folder.join(ADAPTERS)), "adapters.safetensors has "),
        (
            |folder| fs::remove_file(folder.join(OPTIMIZER)).unwrap(),
            "optimizer.safetensors is missing",
        ),
        (
            |folder| fs::write(folder.join(TRAINER), "").unwrap(),
            "trainer.json has 0 bytes instead of",
        ),
        (|folder| fs::remove_file(folder.join(MANIFEST)).unwrap(), "it has no manifest.json"),
        (|folder| cut(&folder.join(MANIFEST)), "manifest.json is not usable"),
        (|folder| fs::write(folder.join(MANIFEST), "").unwrap(), "manifest.json is not usable"),
        (
            |folder| {
                fs::remove_file(folder.join(ADAPTERS)).unwrap();
                fs::create_dir(folder.join(ADAPTERS)).unwrap();
            },
            "adapters.safetensors cannot be read",
        ),
        (|folder| fs::remove_dir_all(folder).unwrap(), ""),
    ];
    for (harm, wanted) in cases {
        let (_guard, store) = store();
        publish(&store, 1);
        harm(publish(&store, 2).folder());
        let (step, damaged) = newest(&store);
        assert_eq!(step, Some(1));
        assert_eq!(damaged.is_empty(), wanted.is_empty());
        assert!(damaged.iter().all(|words| words.contains(wanted)), "{damaged:?}");
        assert!(damaged.iter().all(|words| words.contains("step-00000002")), "{damaged:?}");
    }
    // A flipped bit in the header, in the data, and in each other file.
    for (file, at) in [
        (ADAPTERS, 0),
        (ADAPTERS, 9),
        (ADAPTERS, usize::MAX),
        (OPTIMIZER, usize::MAX),
        (TRAINER, 3),
        (MANIFEST, 30),
    ] {
        let (_guard, store) = store();
        publish(&store, 1);
        flip(&publish(&store, 2).path(file), at);
        let (step, damaged) = newest(&store);
        assert_eq!(step, Some(1), "{file} {at}");
        assert!(damaged.len() == 1 && damaged[0].contains(file), "{damaged:?}");
        assert!(matches!(store.open("latest"), Err(StoreError::Damaged(_))));
    }
}

#[test]
fn a_save_killed_between_any_two_operations_leaves_the_last_one() {
    // Every state that the folder goes through between a draft's first file and `latest`.
    let (_guard, store) = store();
    publish(&store, 1);
    let link = store.folder().join("latest");
    let alone = |store: &Store| {
        assert_eq!(newest(store), (Some(1), vec![]));
        assert_eq!(store.open("latest").unwrap().step(), 1);
        assert!(matches!(store.publish(2, 1), Err(StoreError::Damaged(_))));
    };
    alone(&store);
    let draft = store.draft(2, 1).unwrap();
    alone(&store);
    write_tensors(&draft.path(ADAPTERS), &WEIGHTS);
    fs::write(draft.path(OPTIMIZER), "half").unwrap();
    alone(&store);
    fs::write(draft.path(MANIFEST), "{\"manifest\": {").unwrap();
    alone(&store);

    super::tests::draft(&store, 2, 1).seal(bases()).unwrap();
    assert_eq!(newest(&store), (Some(1), vec![]), "sealed, not published");
    let folder = store.folder().join("step-00000002");
    fs::rename(store.folder().join("step-00000002.tmp-1"), &folder).unwrap();
    assert_eq!(newest(&store), (Some(2), vec![]), "renamed, `latest` not moved");
    assert_eq!(store.open("latest").unwrap().step(), 2);
    symlink("step-00000002", store.folder().join("latest.next")).unwrap();
    assert_eq!(newest(&store), (Some(2), vec![]), "the next link made, not moved");

    publish(&store, 3);
    assert_eq!(fs::read_link(link).unwrap(), Path::new("step-00000003"));
    store.retain(&Retention { last: 9, ..Retention::default() }, 2).unwrap();
    let mut names = store.entries().unwrap();
    names.sort();
    assert_eq!(names, ["latest", "step-00000001", "step-00000002", "step-00000003"]);
}

#[test]
fn an_earlier_attempt_publishes_nothing() {
    let (_guard, store) = store();
    publish(&store, 1);
    draft(&store, 2, 1).seal(bases()).unwrap();
    assert!(matches!(store.publish(2, 2), Err(StoreError::Damaged(_))), "no draft of attempt 2");
    // A draft under a foreign name is found out by its manifest.
    let stale = store.folder().join("step-00000002.tmp-1");
    fs::rename(&stale, store.folder().join("step-00000002.tmp-2")).unwrap();
    let error = store.publish(2, 2).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { attempt: 1, .. }), "{error}");
    assert_eq!(newest(&store), (Some(1), vec![]));
}

#[test]
fn a_step_written_again_replaces_the_old_one() {
    let (_guard, store) = store();
    let old = publish(&store, 1);
    fs::write(old.path(ADAPTERS), "damaged").unwrap();
    assert_eq!(newest(&store).0, None);
    draft(&store, 1, 2).seal(bases()).unwrap();
    assert_eq!(store.publish(1, 2).unwrap().manifest().attempt, 2);
    assert_eq!(newest(&store), (Some(1), vec![]));
    assert!(!store.folder().join("step-00000001.removed").exists());
}

#[test]
fn a_full_disk_is_an_error_and_takes_nothing_away() {
    let (_guard, store) = store();
    publish(&store, 1);
    let full = draft(&store, 2, 1);
    symlink("/dev/full", full.path(MANIFEST)).unwrap();
    let error = full.seal(bases()).unwrap_err();
    let StoreError::Io(IoError { action: "write", source, .. }) = &error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("manifest.json"), "{error}");
    assert_eq!(newest(&store), (Some(1), vec![]));
    // Space again: the same step is written as if nothing had been.
    draft(&store, 2, 1).seal(bases()).unwrap();
    assert_eq!(store.publish(2, 1).unwrap().step(), 2);
}

#[test]
fn retention_keeps_last_best_and_every() {
    let (_guard, store) = store();
    for step in 1..=10 {
        publish(&store, step);
    }
    store.mark_best(2).unwrap();
    draft(&store, 11, 1);
    draft(&store, 11, 2);
    let keep = Retention { last: 2, extra: vec![], best: vec![3], every: 4 };
    assert_eq!(store.retain(&keep, 2).unwrap(), [1, 5, 6, 7]);
    assert_eq!(store.steps().unwrap(), [2, 3, 4, 8, 9, 10]);
    assert!(!store.folder().join("step-00000011.tmp-1").exists(), "an earlier attempt's draft");
    assert!(store.folder().join("step-00000011.tmp-2").exists(), "this attempt's draft");
    let extra = Retention { last: 2, extra: vec![4, 9], ..Retention::default() };
    assert_eq!(store.retain(&extra, 2).unwrap(), [3, 4, 9], "extra ones do not count");
    let nothing = Retention::default();
    store.retain(&nothing, 2).unwrap();
    assert_eq!(store.steps().unwrap(), [2, 10], "best and latest always stay");
}

#[test]
fn a_damaged_checkpoint_does_not_count_as_kept() {
    let (_guard, store) = store();
    for step in 1..=3 {
        publish(&store, step);
    }
    fs::remove_file(store.folder().join("step-00000003").join(MANIFEST)).unwrap();
    let keep = Retention { last: 2, ..Retention::default() };
    assert!(store.retain(&keep, 1).unwrap().is_empty());
    publish(&store, 4);
    publish(&store, 5);
    assert_eq!(store.retain(&keep, 1).unwrap(), [1, 2, 3]);
}

#[test]
fn the_average_is_the_mean_of_the_newest() {
    let (_guard, store) = store();
    for step in [1, 2, 4] {
        publish(&store, step);
    }
    let average = store.average(2, &[], 1).unwrap();
    assert_eq!(average.manifest().average_of, [2, 4]);
    assert_eq!(average.step(), 4);
    let bytes = fs::read(average.path(ADAPTERS)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let weights: Vec<f32> = tensors
        .tensor("w")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(weights, [3.0, -6.0, 1.5]); // (2 + 4) / 2 times 1, -2, 0.5
    assert_eq!(store.open("average").unwrap(), average);
    let average_of = |count, extra: &[u64]| {
        store.average(count, extra, 1).unwrap().manifest().average_of.clone()
    };
    assert_eq!(average_of(9, &[]), [1, 2, 4], "and again");
    assert_eq!(average_of(2, &[2]), [1, 4]);
    assert_eq!(average_of(2, &[1, 2, 4]), [4], "rather an extra one than none");
}

#[test]
fn checkpoints_of_different_models_are_not_averaged() {
    let (_guard, store) = store();
    assert!(matches!(store.average(2, &[], 1), Err(StoreError::Absent { .. })));
    publish(&store, 1);
    let other = store.draft(2, 1).unwrap();
    write_tensors(&other.path(ADAPTERS), &[1.0]);
    other.seal(bases()).unwrap();
    store.publish(2, 1).unwrap();
    let error = store.average(2, &[], 1).unwrap_err().to_string();
    assert!(error.contains("w is [3] and elsewhere [1]"), "{error}");
    let other = draft(&store, 3, 1);
    other.seal(vec![("encoder".into(), "x".into())]).unwrap();
    store.publish(3, 1).unwrap();
    let error = store.average(2, &[], 1).unwrap_err().to_string();
    assert!(error.contains("stands on other BERTs than step 3"), "{error}");
}

#[test]
fn a_manifest_lists_what_was_written() {
    let (_guard, store) = store();
    let files: BTreeMap<_, _> = publish(&store, 1).manifest().files.clone();
    assert_eq!(files.keys().collect::<Vec<_>>(), [ADAPTERS, OPTIMIZER, TRAINER]);
    assert_eq!(files[TRAINER].size, "{\"step\": 1}".len() as u64);
}

#[test]
fn the_average_is_as_open_as_any_file_and_what_safetensors_writes() {
    let (_guard, store) = store();
    publish(&store, 1);
    let average = store.average(1, &[], 1).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&average.path(ADAPTERS)), mode(&average.path(MANIFEST)));
    let other = store.folder().join("other");
    write_tensors(&other, &WEIGHTS);
    assert_eq!(fs::read(average.path(ADAPTERS)).unwrap(), fs::read(&other).unwrap());
}

#[test]
fn what_may_not_be_read_is_not_damaged() {
    let (guard, store) = store();
    publish(&store, 1);
    let path = publish(&store, 2).path(ADAPTERS);
    fs::set_permissions(guard.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    let wanted = format!("permission denied to read {}; ", path.display());
    let errors = std::thread::spawn(move || {
        // Root may read everything; this thread is not root any more. Others stay as they are.
        // SAFETY: this only changes with whose rights the thread opens files.
        unsafe { libc::setfsuid(65534) };
        let error = |found: Option<StoreError>| found.unwrap().to_string();
        [
            error(store.newest_good().err()),
            error(store.newest_good_before(3).err()),
            error(store.open("latest").err()),
            error(store.average(2, &[], 1).err()),
        ]
    });
    for error in errors.join().unwrap() {
        assert!(error.starts_with(&wanted) && error.contains("chmod -R g+rwX"), "{error}");
    }
}
