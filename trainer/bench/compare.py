#!/usr/bin/env python3
"""`make bench`: this project's speed as a ratio to plain PyTorch's, both measured here and now.

usage: compare.py [--pairs N] [--threads N] [--repeats N] [--dtype f32|bf16] [--verb train|decode]
                  [--json FILE]

Both programs run the same batches on the same weights in the same precision, in turn, and what
counts is the median ratio of the pairs. Both get the same environment: glibc keeps big blocks
instead of giving them back after each step, which serves PyTorch well. The peer asks for the
faster route of f32 products by itself (peer.py, --matmul-precision).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import workload

ROOT = Path(__file__).resolve().parent.parent.parent
WORKER = ROOT / "target" / "release" / "tandem-worker"
PEER = Path(__file__).resolve().parent / "peer.py"
FOLDER = ROOT / "target" / "bench" / "mini"
RATE = {"train": "target_tokens_per_second", "decode": "sentences_per_second"}
UNIT = {"train": "tokens/s", "decode": "sentences/s"}
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


def prepare():
    """Writes the model and the batches unless they exist."""
    done = FOLDER / "done"
    if not done.exists():
        print(f"writing the mini model and its batches into {FOLDER}", flush=True)
        workload.write_model(FOLDER)
        workload.write_train(FOLDER / "train.tsv", max_tokens=2000, count=4)
        workload.write_decode(FOLDER / "decode.tsv", count=48)
        workload.write_train(FOLDER / "train-small.tsv", max_tokens=200, count=1)
        workload.write_decode(FOLDER / "decode-small.tsv", count=2)
        done.touch()


def multiplies_bf16():
    """Whether PyTorch has fast bf16 products on this CPU, which need AVX-512."""
    return " avx512bw " in Path("/proc/cpuinfo").read_text()


def measure(program, verb, dtype, args):
    small = "-small" if dtype == "bf16" and not multiplies_bf16() else ""
    command = [*program, verb, "--model", FOLDER, "--batches", FOLDER / f"{verb}{small}.tsv"]
    command += ["--dtype", dtype, "--threads", args.threads, "--repeats", args.repeats]
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, timeout=1800
    )
    if done.returncode != 0:
        sys.exit(f"bench: failed ({done.returncode}): {' '.join(map(str, command))}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def agreement(verb, ours, peers):
    """How far the results of the two programs agree."""
    if verb == "train":
        differences = [abs(a - b) / abs(b) for a, b in zip(ours["losses"], peers["losses"], strict=True)]
        return f"losses differ by at most {max(differences):.1e} (relative)"
    pairs = list(zip(ours["hypotheses"], peers["hypotheses"], strict=True))
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)} decoded alike"


def compare(verb, dtype, args):
    ours, peers = [], []
    for pair in range(args.pairs):
        turns = [(ours, [WORKER, "bench"]), (peers, [sys.executable, PEER])]
        for results, program in turns if pair % 2 == 0 else reversed(turns):
            results.append(measure(program, verb, dtype, args))
    ratios = [a[RATE[verb]] / b[RATE[verb]] for a, b in zip(ours, peers)]
    row = {"verb": verb, "dtype": dtype, "ratio": statistics.median(ratios), "ratios": ratios}
    print(f"\n{verb} {dtype}: {row['ratio']:.2f} times PyTorch ", end="")
    print(f"(pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    for name, results in (("tandem", ours), ("PyTorch", peers)):
        rate = statistics.median(result[RATE[verb]] for result in results)
        cpu = statistics.median(result["user_cpu_seconds"] for result in results)
        memory = max(result["peak_resident_bytes"] for result in results) / (1 << 20)
        row[name] = {"rate": rate, "user_cpu_seconds": cpu, "peak_resident_mib": memory}
        print(f"  {name:8} {rate:9.1f} {UNIT[verb]}, {cpu:6.1f} s user CPU, {memory:6.0f} MiB at most")
    row["agreement"] = agreement(verb, ours[0], peers[0])
    print(f"  {row['agreement']}", flush=True)
    if dtype == "bf16" and not multiplies_bf16():
        print("  this CPU has no AVX-512, without which PyTorch's bf16 is very slow: a small batch")
    return row


def main():
    parser = argparse.ArgumentParser(description="Compares the speed with plain PyTorch.")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", choices=["f32", "bf16"])
    parser.add_argument("--verb", choices=["train", "decode"])
    parser.add_argument("--json", type=Path, help="write the results there too")
    args = parser.parse_args()
    prepare()
    print(f"{args.threads} threads, {args.pairs} pairs of runs, {args.repeats} repeats each")
    verbs = [args.verb] if args.verb else ["train", "decode"]
    dtypes = [args.dtype] if args.dtype else ["f32", "bf16"]
    rows = [compare(verb, dtype, args) for verb in verbs for dtype in dtypes]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
