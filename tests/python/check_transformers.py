#!/usr/bin/env python3
"""Checks folders that `tandem export --format transformers` has written, with transformers itself.

usage: check_transformers.py GOLDENS FOLDER...      (GOLDENS is tests/golden)

Each FOLDER has beside it FOLDER.source and FOLDER.translated: lines, and what `tandem translate` made of
them. `translate` in Python must write the same. Then the Python alone is held against the goldens that
Tandem's own model is tested with: logits, lengths, and the translations of the released code.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, logging
from transformers.dynamic_module_utils import get_class_from_dynamic_module

TOLERANCE = 1e-5  # of the largest value
CLS = 2  # in the goldens

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
failures = []


def check(what, is_right, why=""):
    print(f"{'ok' if is_right else 'WRONG'}: {what} {'' if is_right else why}", flush=True)
    if not is_right:
        failures.append(what)


def close(what, found, expected, real=None):
    keep = expected.isfinite() if real is None else expected.isfinite() & real[..., None]
    error = (found - expected)[keep].abs().max().item()
    largest = expected[keep].abs().max().item()
    check(what, error <= TOLERANCE * largest + 2e-6, f"is off by {error} of {largest}")


def check_folder(folder):
    name = folder.name
    model, report = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    wrong = {kind: names for kind, names in report.items() if names}
    check(f"{name}: all weights are there, and no others", not wrong, f"{wrong}")

    lines = lambda suffix: Path(f"{folder}.{suffix}").read_text().split("\n")[:-1]  # noqa: E731
    sources, expected = lines("source"), lines("translated")
    # One line in, one line out, whatever the model says.
    translate = lambda texts: [text.replace("\n", " ").replace("\r", " ") for text in model.translate(texts)]  # noqa: E731
    found = translate(sources)
    differing = [pair for pair in zip(sources, expected, found) if pair[1] != pair[2]]
    check(f"{name}: {len(expected)} translations", found == expected, f"differ: {differing[:3]}")
    # Each on its own: other sentences of a batch have no part in it.
    alone = [translate([source])[0] for source in sources[:3]]
    check(f"{name}: one by one", alone == expected[:3], f"{alone}")
    various = len(set(expected))
    check(f"{name}: {various} various translations", various > 1)

    for side in ("source", "target"):
        text = model.text(side)
        tokenizer = AutoTokenizer.from_pretrained(folder / side)
        end = [text.tokens["sep"]]
        differing = [
            line
            for line in map(str.strip, sources)
            if tokenizer(line)["input_ids"] != text.encode(line) + end and "<s>" not in line
        ]
        check(f"{name}: the {side} tokenizer", not differing, f"{differing}")


def shape_of(weights, side, heads=2, eps=1e-12, first_position=0):
    """The shape of one side by its weights' names and shapes."""
    own = {name[len(side) + 1 :]: tensor for name, tensor in weights.items() if name.startswith(f"{side}.")}
    count = lambda stem: len({n[len(stem) :].split(".")[0] for n in own if n.startswith(stem)})  # noqa: E731
    shape = {"num_heads": heads, "layer_norm_eps": eps}
    cross = {
        "heads": heads,
        "feed_forward": 0,
        "layers": sorted(
            {
                int(name.split(".")[1])
                for name in own
                if name.startswith("layer.") and ".cross_attention." in name
            }
        ),
    }
    if "layer.0.feed_forward.up.weight" in own:
        cross["feed_forward"] = len(own["layer.0.feed_forward.up.weight"])
    if "bert.embeddings.word_embeddings.weight" in own:
        word, position = (own[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position"))
        down = [name for name in own if name.endswith("adapter.down.weight")]
        adapters = (
            {"dim": len(own[down[0]]), "layers": sorted(int(name.split(".")[1]) for name in down)}
            if down
            else None
        )
        shape.update(
            kind="bert",
            num_layers=count("bert.encoder.layer."),
            num_positions=len(position) - first_position,
            first_position=first_position,
            adapters=adapters,
            cross_attention=cross,
            intermediate_size=len(own["bert.encoder.layer.0.intermediate.dense.weight"]),
            type_vocab_size=len(own["bert.embeddings.token_type_embeddings.weight"]),
        )
    elif "transformer.wte.weight" in own:
        word = own["transformer.wte.weight"]
        shape.update(
            kind="gpt2",
            layer_norm_eps=1e-5,
            num_layers=count("transformer.h."),
            num_positions=len(own["transformer.wpe.weight"]),
            cross_attention=cross,
            intermediate_size=own["transformer.h.0.mlp.c_fc.weight"].shape[1],
        )
    else:
        word = own["embeddings.word.weight"]
        shape.update(
            kind="transformer",
            num_layers=count("layer."),
            num_positions=32,
            learned_positions="embeddings.position.weight" in own,
            intermediate_size=len(own["layer.0.feed_forward.up.weight"]),
            is_fused="layer.0.bert_attention.query.weight" in own,
            has_switch="switch.own.weight" in own,
        )
    return {**shape, "vocab_size": word.shape[0], "hidden_size": word.shape[1]}


def build(Model, weights, decoding, keeps_cls=True, **options):
    lengths = weights.get("encoder.length_embedding.weight")
    beside = any(name.startswith("fused.") for name in weights)
    special = {"pad": 0, "unk": 1, "cls": CLS, "sep": 3, "mask": 4}
    config = Model.config_class(
        source=shape_of(weights, "encoder", **options),
        target=shape_of(weights, "decoder", **options),
        beside={**shape_of(weights, "fused"), "keeps_cls": keeps_cls} if beside else None,
        length_classes=None if lengths is None else len(lengths),
        decoding=decoding,
        source_tokens=special,
        target_tokens=special,
    )
    model = Model(config)
    model.load_state_dict(weights)
    return model.eval()


@torch.inference_mode()
def check_golden(Model, goldens, name, **options):
    golden = load_file(goldens / name / "golden.safetensors")
    weights = {key[7:]: value for key, value in golden.items() if key.startswith("weight.")}
    if name == "gpt2":
        own = load_file(goldens / "gpt2/folder/model.safetensors")
        add = {
            key if key.startswith("transformer.") else f"transformer.{key}": value
            for key, value in own.items()
        }
        weights.update(
            {f"decoder.{key}": value for key, value in add.items() if not key.startswith("lm_head")}
        )
    source, target = golden["source"], golden["target"]
    for way, decoding in [("masked", "mask_predict"), ("autoregressive", "beam_search")]:
        if f"{way}.logits" not in golden:
            continue
        of_way = {key: value for key, value in weights.items() if not key.startswith("decoder.blank.")}
        if way == "autoregressive":
            of_way.pop("encoder.length_embedding.weight", None)
        model = build(Model, of_way, {decoding: {}}, **options)
        found = model(source, golden[f"{way}.input"], source.ne(0), target.ne(0))
        close(f"golden {name}: {way} logits", found.logits, golden[f"{way}.logits"], target.ne(0))
        close(
            f"golden {name}: {way} memory",
            found.encoder_last_hidden_state,
            golden[f"{way}.memory"],
            source.ne(0),
        )
        if way == "masked":
            close(f"golden {name}: lengths", found.length_log_probs, golden["masked.length_log_probs"])


@torch.inference_mode()
def check_released(Model, goldens):
    """Two BERTs whose adapters, lengths and translations are the released code's."""
    folder = goldens / "tiny-a"
    case, tensors = json.loads((folder / "case.json").read_text()), load_file(folder / "case.safetensors")
    weights = load_file(folder / "adapters.safetensors")
    for side, bert in [("encoder", "source_bert"), ("decoder", "target_bert")]:
        for name, value in load_file(folder / bert / "model.safetensors").items():
            has_head = side == "decoder" and not name.startswith("cls.predictions.decoder")
            if (
                name.startswith(("bert.embeddings", "bert.encoder"))
                or name.startswith("cls.predictions")
                and has_head
            ):
                weights[f"{side}.{name}"] = value
    settings = SimpleNamespace(
        iterations=10,
        length_candidates=4,
        stop="released",
        threshold=None,
        prune_after=None,
        correct=False,
        score="length_penalty",
        length_penalty=1.1,
        max_tokens=4000,
    )
    model = build(Model, weights, {"mask_predict": vars(settings)}, heads=4)
    # The released code's adapters have heads of their own number.
    heads = case["model"]["decoder_cross_attention_heads"]
    for adapter in model.decoder.layer.values():
        adapter.cross_attention.heads = heads
    source, target = tensors["input.source_ids"], tensors["input.decoder_input_ids"]
    real = tensors["input.target_ids"].ne(0)
    found = model(source, target, source.ne(0), real)
    close("golden tiny-a: logits", found.logits, tensors["expected.logits"], real)
    close("golden tiny-a: lengths", found.length_log_probs, tensors["expected.length_log_probs"])
    source = tensors["decode.source_ids"]
    mask_predict = sys.modules[Model.__module__].mask_predict
    ids = mask_predict(model, model.encode(source, source.ne(0)), source.ne(0).sum(1), settings)
    alike = sum(a == b for a, b in zip(ids, case["decode"]["expected_ids"]))
    check(
        f"golden tiny-a: {alike} of {len(ids)} sentences decoded as by the released code", alike == len(ids)
    )


def main():
    goldens, folders = Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]]
    for folder in folders:
        check_folder(folder)
    Model = get_class_from_dynamic_module("modeling_tandem.TandemModel", str(folders[0]))
    for name in (
        "compositions/ab_net",
        "compositions/ab_net_enc",
        "compositions/bert_decoder",
        "transformer",
        "bert_fused",
        "gpt2",
    ):
        check_golden(Model, goldens, name)
    check_golden(Model, goldens, "ct_nmt", keeps_cls=False)
    check_golden(Model, goldens, "roberta", eps=1e-5, first_position=2)
    check_released(Model, goldens)
    detokenize = sys.modules[Model.__module__].detokenize
    cases = json.loads((goldens / "detokenize/golden.json").read_text())
    wrong = [case for case in cases if detokenize(case[0]) != case[1]]
    check(f"golden detokenize: {len(cases)} texts", not wrong, f"{wrong[:3]}")
    if failures:
        sys.exit(f"{len(failures)} checks failed: " + "; ".join(failures))


if __name__ == "__main__":
    main()
