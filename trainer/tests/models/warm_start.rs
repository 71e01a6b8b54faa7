//! Weights that begin where another run has ended.

use serde_json::json;
use tandem_cluster::run::store::Store;
use tandem_config::schema::training::Optimizer;
use tandem_trainer::optim::Adam;
use tandem_trainer::session::weights::{Misfit, warm_start};
use tandem_trainer::training::checkpoint::{Snapshot, TrainerState};

use crate::support::{SOURCE_WORDS, Tiny, fused, tiny, transformer};

const TARGET_WORDS: usize = 19;

fn plain(seed: u64) -> Tiny {
    let (source, target) =
        (transformer(SOURCE_WORDS, "learned"), transformer(TARGET_WORDS, "learned"));
    tiny(source, target, json!({ "autoregressive": {} }), 0, seed)
}

/// Publishes the model as the checkpoint of step 1.
fn publish(model: &Tiny, store: &Store, bases: &[(&str, &str)]) {
    let adam = Adam::new(&Optimizer::default(), &model.parameters.weights);
    let state = TrainerState { step: 1, ..TrainerState::new(1, 1) };
    let own = |&(side, hash): &(&str, &str)| (side.to_owned(), hash.to_owned());
    let bases = bases.iter().map(own).collect();
    Snapshot::take(&model.parameters, &adam, state).write(store, 1, bases).expect("a draft");
    store.publish(1, 1).expect("a checkpoint");
}

#[test]
fn a_fused_transformer_starts_from_a_plain_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::new(folder.path().join("checkpoints"));
    let vocabulary = ("source vocabulary", "a0");
    let bases = |hash: &str| vec![(vocabulary.0.to_owned(), hash.to_owned())];
    let trained = plain(1);
    publish(&trained, &store, &[vocabulary]);

    let model = || {
        let (source, target) = (fused(SOURCE_WORDS, "learned"), fused(TARGET_WORDS, "learned"));
        tiny(source, target, json!({ "masked": { "length_classes": 11 } }), 0, 2)
    };
    let (warm, cold) = (model(), model());
    warm_start(folder.path(), &warm.parameters, &bases("a0")).expect("a warm start");
    let mut taken = 0;
    for ((name, found), (_, before)) in warm
        .parameters
        .views(&warm.parameters.weights)
        .zip(cold.parameters.views(&cold.parameters.weights))
    {
        let other = trained.parameters.names.iter().position(|own| own == name);
        let expected =
            other.map_or(before, |place| trained.parameters.trained[place].shallow_clone());
        assert!(found.equal(&expected), "{name}");
        taken += usize::from(other.is_some());
    }
    assert_eq!(taken, trained.parameters.names.len());

    let refused = |model: &Tiny, hash: &str| {
        let error = warm_start(folder.path(), &model.parameters, &bases(hash)).unwrap_err();
        format!("{error:#}")
    };
    let message = refused(&warm, "b1");
    assert!(message.contains("was trained on another source vocabulary (SHA-256 a0)"), "{message}");
    let (source, target) =
        (transformer(SOURCE_WORDS + 1, "learned"), transformer(TARGET_WORDS, "learned"));
    let other = tiny(source, target, json!({ "autoregressive": {} }), 0, 1);
    let error = warm_start(folder.path(), &other.parameters, &bases("a0")).unwrap_err();
    assert!(error.is::<Misfit>() && error.to_string().contains("has shape ["), "{error:#}");
    publish(&warm, &store, &[vocabulary]);
    let message = refused(&plain(3), "a0");
    assert!(message.contains("this model has no trained `"), "{message}");
    let nowhere = warm_start(&folder.path().join("x"), &warm.parameters, &[]).unwrap_err();
    assert!(format!("{nowhere:#}").contains("no weights for model.init"), "{nowhere:#}");
}

/// A model that predicts no lengths starts from one that does; its blanks start anew.
#[test]
fn a_model_with_blanks_starts_from_one_with_masks() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::new(folder.path().join("checkpoints"));
    let of = |objective, seed| {
        let (source, target) =
            (transformer(SOURCE_WORDS, "learned"), transformer(TARGET_WORDS, "learned"));
        tiny(source, target, objective, 0, seed)
    };
    let trained = of(json!({ "masked": { "length_classes": 11 } }), 1);
    publish(&trained, &store, &[]);
    let (warm, cold) = (of(json!({ "ctc": {} }), 2), of(json!({ "ctc": {} }), 2));
    warm_start(folder.path(), &warm.parameters, &[]).expect("a warm start");
    let mut taken = 0;
    for (place, (name, found)) in warm.parameters.views(&warm.parameters.weights).enumerate() {
        let own = trained.parameters.names.iter().position(|own| own == name);
        let expected = match own {
            Some(own) => &trained.parameters.trained[own],
            None => &cold.parameters.trained[place],
        };
        assert!(found.equal(expected), "{name}");
        taken += usize::from(own.is_some());
    }
    assert_eq!(taken + 1, trained.parameters.names.len(), "all but the length prediction");
    assert_eq!(taken + 2, warm.parameters.names.len(), "all but the blank's weight and bias");

    // The other way round, blanks would be lost.
    let store = Store::new(folder.path().join("other/checkpoints"));
    publish(&warm, &store, &[]);
    let error = warm_start(&folder.path().join("other"), &trained.parameters, &[]).unwrap_err();
    assert!(error.to_string().contains("no trained `decoder.blank."), "{error}");
}
