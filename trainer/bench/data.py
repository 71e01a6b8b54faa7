"""What preparing training texts costs by their size: tokens a second and core, memory, the time to the first
step from the cache.

The pairs are synthetic: words of the demo's texts, drawn anew by their frequency, 25 a side on average;
from 250,000 on they repeat, which no part of the preparation notices. The model is the demo's, on one
worker with one thread.

    cargo build --release
    python3 trainer/bench/data.py [--folder FOLDER] [--copies COPIES] PAIRS...

With --copies, the starts from the cache are timed with one that holds each pair so many times: it is written
straight away, which takes a fraction of the time and space of preparing such a text.
"""

import argparse
import array
import hashlib
import itertools
import json
import lzma
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import time
import zlib

DISTINCT = 250_000
ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs/demo"


def write_pairs(path, count):
    with lzma.open(DEMO / "data/train.tsv.xz", "rt") as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    rng = random.Random(1)
    sides = [list(itertools.chain.from_iterable(line[side].split() for line in lines)) for side in (0, 1)]
    distinct = []
    for _ in range(min(count, DISTINCT)):
        length = min(60, max(3, int(rng.gauss(25, 10))))
        texts = [" ".join(rng.choices(words, k=max(3, length + rng.randint(-3, 3)))) for words in sides]
        distinct.append("\t".join(texts) + "\n")
    with open(path, "w") as file:
        for start in range(0, count, DISTINCT):
            file.writelines(distinct[: count - start])


class Blocks:
    """A file, with the checksums of its blocks."""

    SIZE = 1 << 14

    def __init__(self, file):
        self.file, self.sums, self.rest = file, bytearray(), b""

    def write(self, data, is_end=False):
        self.file.write(data)
        data = self.rest + data
        end = len(data) if is_end else len(data) // self.SIZE * self.SIZE
        for start in range(0, end, self.SIZE):
            self.sums += struct.pack("<I", zlib.crc32(data[start : min(start + self.SIZE, end)]))
        self.rest = data[end:]


def multiply(folder, copies):
    """Writes the training data in a cache folder anew, with so many copies of its samples. The layout is that
    of trainer/src/data/cache.rs."""
    path = max(folder.glob("*.tokens"), key=lambda path: path.stat().st_size)
    start = 8 + 32 + 9 * 8
    data = path.read_bytes()
    sizes = struct.unpack("<9Q", data[start - 72 : start])
    ends = list(itertools.accumulate(sizes, initial=start))
    sections = [data[ends[i] : ends[i + 1]] for i in range(9)]
    header = data[: start - 72] + struct.pack("<9Q", *(size * copies for size in sizes[:8]), sizes[8])
    draft = path.with_suffix(".draft")
    with open(draft, "wb") as file:
        blocks = Blocks(file)
        blocks.write(header)
        for number, section in enumerate(sections[:8]):
            if number < 2:
                values = array.array("Q", section)
                for copy in range(copies):
                    before = copy * values[-1]
                    blocks.write(array.array("Q", [before + value for value in values]).tobytes())
            else:
                for _ in range(copies):
                    blocks.write(section)
        blocks.write(sections[8], is_end=True)
        file.write(blocks.sums + hashlib.sha256(header + blocks.sums).digest())
    draft.rename(path)


def launch(folder, count, steps=4):
    """By event, when it was seen, in seconds, with the worker's CPU seconds, peak MiB and peak MiB without
    files until then; the number of tokens; the peak of all in MiB."""
    command = [ROOT / "target/release/tandem", "launch", ROOT / "configs/demo.yaml", "--restart"]
    settings = {
        "run.folder": folder / "runs",
        "data.train.tsv.path": folder / f"{count}.tsv",
        "data.valid": "null",
        "data.test": "null",
        "data.cache": folder / "cache",
        "cluster.engine": "solo",
        "cluster.workers": 1,
        "cluster.threads": 1,
        "training.steps": steps,
        "training.schedule.linear.warmup": 1,
        "training.log_every": 1,
        "evaluation.every": 0,
    }
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    started = time.time()
    log = open(folder / "log", "w+")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    events = folder / "runs/demo/events.jsonl"
    worker, seen, anonymous = None, {}, 0.0
    while process.poll() is None:
        time.sleep(0.02)
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            for pid in children.read_text().split():
                if (pathlib.Path(f"/proc/{pid}/comm")).read_text().startswith("tandem-worker"):
                    worker = pathlib.Path("/proc") / pid
            if worker is None:
                continue
            stat = (worker / "stat").read_text().rsplit(")", 1)[1].split()
            cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
            status = (worker / "status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines())
            anonymous = max(anonymous, int(fields["RssAnon"].split()[0]) / 1024)
            usage = (cpu, int(fields["VmHWM"].split()[0]) / 1024, anonymous)
        except (OSError, IndexError, KeyError):
            continue
        for line in events.read_text().splitlines() if events.exists() else []:
            event = json.loads(line)
            seen.setdefault(event["event"], (event["time"] - started, usage))
        state = folder / "runs/demo/state.json"
        if "step" not in seen and state.exists() and json.loads(state.read_text())["step"] >= 1:
            seen["step"] = (time.time() - started, usage)
    log.seek(0)
    if process.returncode:
        raise SystemExit(log.read()[-3000:])
    data = json.loads((folder / "runs/demo/state.json").read_text())["data"]
    tokens = sum(split["source_tokens"] + split["target_tokens"] for split in data if split["split"] == "train")
    return seen, tokens, usage[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("pairs", type=int, nargs="+")
    arguments = parser.parse_args()
    folder = arguments.folder or pathlib.Path(tempfile.mkdtemp(prefix="tandem-data-"))
    for count in arguments.pairs:
        text = folder / f"{count}.tsv"
        if not text.exists():
            write_pairs(text, count)
            # The hash of a text that has just changed is not remembered.
            time.sleep(12)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for name in ["cold", "warm", "warm"]:
            seen, tokens, peak = launch(folder, count)
            tokens *= arguments.copies if name == "warm" else 1
            (_, before), (_, after) = seen["plan"], seen["data"]
            cpu = after[0] - before[0]
            print(
                f"{count} pairs, {text.stat().st_size / 2**20:.0f} MiB, {tokens} tokens, {name}: "
                f"prepared in {cpu:.1f} CPU s ({tokens / cpu / 1e6:.1f} M tokens/s), "
                f"{after[1] - before[1]:.0f} MiB more at most, {after[2] - before[2]:.0f} without files; "
                f"first step after {seen['step'][0]:.1f} s and {seen['step'][1][0]:.1f} CPU s; peak {peak:.0f} MiB in all",
                flush=True,
            )
            if name == "cold" and arguments.copies > 1:
                multiply(folder / "cache", arguments.copies)
                print(f"the same with {arguments.copies} copies, {count * arguments.copies} pairs:", flush=True)
        cache = sum(f.stat().st_size for f in (folder / "cache").rglob("*") if f.is_file())
        print(f"{count} pairs: cache {cache / 2**20:.0f} MiB", flush=True)
    if not arguments.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
