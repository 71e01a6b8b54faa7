#!/usr/bin/env python3
"""This project's speed on a GPU compared with plain PyTorch's, both measured now.

usage: gpu.py [--out FOLDER] [--worker PROGRAM] [--quick] [--only WORD...] [--seconds N]
              [--deadline N] [--threads N] [--device cuda|cpu]

Needs the worker (`make setup TORCH=cuda && cargo build --release`), and a Python with PyTorch for
CUDA, transformers, safetensors and numpy: `make bench-venv` installs one as .deps/bench-venv.

Each setting is run by Tandem and by PyTorch (peer.py), eager and compiled, in turn, on the same
batches and weights in the same precision; the model is the paper's, two BERTs of 12 layers and
768, with random weights. The most important settings come first. A line is printed as soon as
something has been measured, a table at the end; both and all numbers are kept in the folder.

What counts is target tokens per second of training, padding left out, and sentences per second of
decoding, each with four candidate lengths. The share of the peak is that of the operations which
training needs (`training_flops`), as a fraction of what a large matrix product reaches here.
"""

import argparse
import json
import queue
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import workload

ROOT = Path(__file__).resolve().parent.parent.parent
PEER = Path(__file__).resolve().parent / "peer.py"
RATE = {"train": "target_tokens_per_second", "decode": "sentences_per_second", "peak": "tflops"}
UNIT = {"train": "target tokens/s", "decode": "sentences/s", "peak": "TFLOP/s"}
PROGRAMS = {"tandem": "Tandem", "eager": "PyTorch", "compiled": "PyTorch, compiled"}


@dataclass(frozen=True)
class Setting:
    """A workload, which is the same for every program."""

    verb: str
    dtype: str
    size: int  # padded tokens of a training batch, sentences of a decoding batch, side of a matrix
    count: int  # training batches, sentences to decode, products
    repeats: int = 3

    @property
    def name(self):
        return f"{self.verb}-{self.dtype}-{self.size}"

    @property
    def file(self):
        return f"{self.verb}-{self.size}.tsv"

    @property
    def title(self):
        if self.verb == "train":
            return f"training, {self.dtype}, {self.size:,} padded tokens a batch, {UNIT['train']}"
        return f"decoding, {self.dtype}, {self.size} at a time, {UNIT['decode']}"


@dataclass(frozen=True)
class Step:
    """A setting for one program."""

    setting: Setting
    program: str
    expected: int  # seconds on an H100, starting the program included; the deadline goes by it

    @property
    def name(self):
        return f"{self.setting.name}/{self.program}"


class StepError(Exception):
    """Why a step has no result."""


class TimeLimitError(StepError):
    """It took too long."""


def plan(quick):
    """All steps, the most important first."""
    big = Setting("train", "bf16", 16000, 2 if quick else 6)
    small = Setting("train", "bf16", 2000, 4 if quick else 16)
    decoding = [
        Setting("decode", "bf16", 1, 4 if quick else 16, 2),
        Setting("decode", "bf16", 32, 64 if quick else 128, 2),
        Setting("decode", "bf16", 256, 256 if quick else 512, 2),
    ]
    in_f32 = [Setting("train", "f32", setting.size, setting.count) for setting in (small, big)]
    side, products = (1024, 5) if quick else (8192, 20)
    steps = [Step(Setting("peak", "bf16", side, products, 5), "eager", 30)]
    for setting in (big, small, *decoding):
        slow = setting.verb == "decode"  # eager PyTorch may take a third of a second for a sentence
        steps += [Step(setting, "tandem", 15), Step(setting, "eager", 25 if slow else 12)]
    steps.append(Step(Setting("peak", "f32", side, products // 4, 5), "eager", 3))
    for setting in in_f32:
        steps += [Step(setting, "tandem", 15), Step(setting, "eager", 12)]
    steps += [Step(big, "compiled", 100), Step(small, "compiled", 15)]
    steps += [Step(setting, "compiled", 30) for setting in decoding]
    return steps


def prepare(folder, sizes, settings):
    """Writes the batches, and the model unless it exists."""
    done = folder / "done"
    if not done.exists() or done.read_text() != repr(sizes):
        print(f"writing a model of random weights into {folder}", flush=True)
        workload.write_model(folder, sizes)
        done.write_text(repr(sizes))
    for setting in settings:
        if setting.verb == "train":
            workload.write_train(folder / setting.file, setting.size, setting.count)
        elif setting.verb == "decode":
            workload.write_decode(folder / setting.file, setting.count)


def rows(path):
    """The fields of each line of a batch file."""
    with open(path, encoding="ascii") as file:
        return [line.rstrip("\n").split("\t") for line in file if not line.startswith("#")]


def training_flops(path, sizes):
    """The floating-point operations of one step for each batch of the file.

    A sentence has s source and t target tokens, of which c are predicted. Weights: D wide, F inner,
    A of an encoder adapter, H of a decoder's feed-forward block, V words, N lengths. The encoder
    has one token more, [LENGTH]: e = s + 1. Forward, in products of two numbers that are summed:

        encoder layer      e (4 D² + 2 D F) frozen, 2 e² D attention, e 2 D A trained
        decoder layer      t (4 D² + 2 D F) frozen, 2 t² D attention,
                           (2 t + 2 s) D² + t 2 D H trained, 2 t s D attention
        words              c (D² + D V) frozen
        length             D N trained

    Backward takes as much again where weights are frozen, for the gradients of inputs alone, and
    twice as much for trained weights and in attention, where both factors have gradients. It ends
    above the decoder's first BERT layer, under which nothing is trained; queries of the first
    cross-attention pass nothing down either. In the encoder it goes down to [LENGTH]'s embedding.
    Each product counts as two operations. Padding, words that need no prediction, what is computed
    twice, and all that is no matrix product do not count.
    """
    width, layers = sizes.width, sizes.layers
    bert = 4 * width**2 + 2 * width * sizes.inner
    total = 0
    for _, source, target, _, chosen in rows(path):
        s, t, c = len(source.split()), len(target.split()), chosen.count("1")
        e = s + 1
        frozen = 2 * layers * e * bert + 2 * c * (width**2 + width * workload.VOCABULARY)
        frozen += (2 * layers - 1) * t * bert
        trained = layers * (2 * e * width * sizes.adapter + 2 * (t + s) * width**2)
        trained += layers * 2 * t * width * sizes.feed_forward + width * workload.LENGTHS
        attention = layers * 2 * (e**2 + t**2 + t * s) * width
        # The first decoder layer's self-attention and queries need only part of backward.
        total += frozen + 3 * (trained + attention) - 2 * 2 * t**2 * width - t * width**2
    return 2 * total


def decode_tokens(path, size):
    """The padded source tokens of a batch at which Tandem makes as many batches as PyTorch.

    Tandem fills batches of like length up to so many tokens, PyTorch up to so many sentences.
    """
    lengths = sorted(len(source.split()) for source, _ in rows(path))
    wanted = -(-len(lengths) // size)

    def batches(tokens):
        number, sentences = 1, 0
        for length in lengths:
            if sentences and length * (sentences + 1) > tokens:
                number, sentences = number + 1, 0
            sentences += 1
        return number

    tokens = 1
    while batches(tokens) > wanted:
        tokens += 1
    return tokens


class Peer:
    """peer.py as a process that measures one job after another."""

    def __init__(self, command, log):
        self.log = open(log, "w", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.answers, self.start = queue.Queue(), 0
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def ask(self, job, seconds):
        self.start = Path(self.log.name).stat().st_size  # what was said of earlier jobs is past
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            answer = self.answers.get(timeout=seconds)
        except queue.Empty:
            raise TimeLimitError(f"took more than {seconds:.0f} s\n{self.tail()}") from None
        except OSError:
            answer = None
        if answer is None:
            raise StepError(f"ended with {self.process.wait()}\n{self.tail()}")
        return json.loads(answer)

    def tail(self):
        return tail(self.log.name, self.start)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Bench:
    """The programs and their paths."""

    def __init__(self, args, model):
        self.args, self.model = args, model
        self.peer, self.mode = None, None

    def run(self, step, seconds):
        """The line of JSON of a step, as a dictionary."""
        if step.program == "tandem":
            return self.run_worker(step.setting, seconds)
        return self.ask_peer(step, seconds)

    def run_worker(self, setting, seconds):
        args, batches = self.args, self.model / setting.file
        command = [args.worker, "bench", setting.verb, "--device", args.device]
        command += ["--dtype", setting.dtype, "--model", self.model, "--batches", batches]
        command += ["--threads", args.threads, "--repeats", setting.repeats]
        if setting.verb == "decode":
            command += ["--decode-tokens", decode_tokens(batches, setting.size)]
        log = args.out / f"tandem-{setting.name}.log"
        with open(log, "w", encoding="utf-8") as errors:
            try:
                done = subprocess.run(
                    list(map(str, command)),
                    check=False,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    timeout=seconds,
                )
            except subprocess.TimeoutExpired:
                raise TimeLimitError(f"took more than {seconds:.0f} s\n{tail(log)}") from None
        lines = done.stdout.strip().splitlines()
        if done.returncode != 0 or not lines:
            raise StepError(f"ended with {done.returncode}\n{tail(log)}")
        return json.loads(lines[-1])

    def ask_peer(self, step, seconds):
        setting = step.setting
        if self.mode != step.program:
            self.close()
            args = self.args
            command = [sys.executable, PEER, "many", "--model", self.model]
            command += ["--device", args.device, "--threads", args.threads]
            if step.program == "compiled":
                command.append("--compile")
            log = args.out / f"peer-{step.program}.log"
            self.peer, self.mode = Peer(list(map(str, command)), log), step.program
        job = {"verb": setting.verb, "dtype": setting.dtype, "repeats": setting.repeats}
        if setting.verb == "peak":
            job |= {"size": setting.size, "products": setting.count}
        else:
            job |= {"batches": str(self.model / setting.file), "batch_size": setting.size}
        try:
            answer = self.peer.ask(job, seconds)
        except StepError:
            self.close()  # the next step starts another
            raise
        if "error" in answer:
            raise StepError(f"{answer['error']}\n{self.peer.tail()}")
        return answer

    def close(self):
        if self.peer is not None:
            self.peer.close()
        self.peer, self.mode = None, None


def tail(log, start=0, lines=15):
    text = Path(log).read_bytes()[start:].decode("utf-8", "replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def agreement(verb, ours, theirs):
    """How far the results of two programs agree."""
    if verb == "train":
        pairs = zip(ours["losses"], theirs["losses"], strict=True)
        return f"losses differ by {max(abs(a - b) / abs(b) for a, b in pairs):.0e}"
    pairs = list(zip(ours["hypotheses"], theirs["hypotheses"], strict=True))
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)} decoded alike"


class Report:
    """The results so far, written to two files after each one."""

    def __init__(self, out, model, sizes):
        self.out, self.model, self.sizes = out, model, sizes
        self.results, self.machine = {}, {}
        self.skipped, self.failed = [], {}

    def add(self, step, measured):
        """Adds a result and prints it on one line."""
        setting, rate = step.setting, measured[RATE[step.setting.verb]]
        parts = [f"{number(rate)} {UNIT[setting.verb]}"]
        if setting.verb == "decode" and setting.size == 1:
            parts.append(f"{1000 / rate:.1f} ms for a sentence")
        if setting.verb == "train" and self.peak(setting.dtype):
            flops = training_flops(self.model / setting.file, self.sizes)
            reached = flops / statistics.median(measured["seconds"]) / 1e12
            measured["share_of_peak"] = reached / self.peak(setting.dtype)
            parts.append(f"{measured['share_of_peak']:.1%} of the peak")
        if "peak_device_bytes" in measured:
            parts.append(f"{measured['peak_device_bytes'] / (1 << 30):.1f} GiB")
        ours = self.results.get((setting, "tandem"))
        if ours and step.program != "tandem":
            measured["agreement"] = agreement(setting.verb, ours, measured)
            parts.append(measured["agreement"])
        if step.program != "tandem":
            self.machine = {key: measured[key] for key in ("device", "torch") if key in measured}
        self.results[setting, step.program] = measured
        print(f"{step.name:28} {', '.join(parts)}", flush=True)
        self.save()

    def peak(self, dtype):
        """The peak rate in TFLOP/s, if it has been measured."""
        for (setting, _), measured in self.results.items():
            if (setting.verb, setting.dtype) == ("peak", dtype):
                return measured["tflops"]
        return None

    def save(self):
        results = [
            {"setting": asdict(setting), "program": program, **measured}
            for (setting, program), measured in self.results.items()
        ]
        for result in results:
            result.pop("hypotheses", None)
        ended = {"skipped": self.skipped, "failed": self.failed}
        whole = {**self.machine, "model": asdict(self.sizes), "results": results, **ended}
        (self.out / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n")
        (self.out / "gpu.md").write_text(self.table())

    def table(self):
        """All results in Markdown."""
        lines = [", ".join(self.machine.values()), ""] if self.machine else []
        peaks = [f"{kind} {number(self.peak(kind))}" for kind in ("bf16", "f32") if self.peak(kind)]
        if peaks:
            lines += [f"A large matrix product, TFLOP/s: {', '.join(peaks)}.", ""]
        lines.append(f"| | {' | '.join(PROGRAMS.values())} | Tandem to PyTorch | to compiled | |")
        lines.append("|--|" + "--:|" * (len(PROGRAMS) + 2) + "--|")
        for setting in dict.fromkeys(setting for setting, _ in self.results):
            if setting.verb == "peak":
                continue
            found = {name: self.results.get((setting, name)) for name in PROGRAMS}
            cells = [setting.title, *(self.cell(setting, measured) for measured in found.values())]
            rates = {name: x[RATE[setting.verb]] for name, x in found.items() if x}
            for other in ("eager", "compiled"):
                both = "tandem" in rates and other in rates
                cells.append(f"{rates['tandem'] / rates[other]:.2f}" if both else "")
            cells.append((found["eager"] or {}).get("agreement", ""))
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def cell(self, setting, measured):
        if not measured:
            return ""
        share = measured.get("share_of_peak")
        return number(measured[RATE[setting.verb]]) + (f" ({share:.0%})" if share else "")


def number(rate):
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def arguments():
    parser = argparse.ArgumentParser(description="Compares the speed on a GPU with plain PyTorch.")
    usual = ROOT / "target" / "bench" / "gpu"
    parser.add_argument("--out", type=Path, default=usual, help="for results and logs")
    worker = ROOT / "target" / "release" / "tandem-worker"
    parser.add_argument("--worker", type=Path, default=worker, help="the program tandem-worker")
    parser.add_argument("--quick", action="store_true", help="use a small model, to check that everything runs")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="only steps whose names contain one of these, such as compiled"
    )
    parser.add_argument("--seconds", type=int, default=240, help="the limit of one step, in seconds")
    parser.add_argument("--deadline", type=int, help="the limit of all steps in seconds; steps that do not fit are skipped")
    parser.add_argument("--threads", type=int, default=4, help="CPU threads of each program")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    return parser.parse_args()


def main():
    args, started = arguments(), time.monotonic()
    steps = plan(args.quick)
    if args.only:
        steps = [step for step in steps if any(word in step.name for word in args.only)]
        if not steps:
            names = "\n  ".join(step.name for step in plan(args.quick))
            sys.exit(f"gpu.py: no step is called {' or '.join(args.only)}; there are\n  {names}")
    if any(step.program == "tandem" for step in steps) and not args.worker.exists():
        sys.exit(f"gpu.py: there is no {args.worker}: build it, or name another with --worker")
    sizes = workload.MINI if args.quick else workload.BASE
    model = ROOT / "target" / "bench" / ("gpu-mini" if args.quick else "gpu-base")
    model.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    prepare(model, sizes, {step.setting for step in steps})
    report, bench = Report(args.out, model, sizes), Bench(args, model)
    try:
        for step in steps:
            limit = args.seconds
            if args.deadline:
                limit = min(limit, max(0, args.deadline - (time.monotonic() - started)))
            try:
                if limit < min(step.expected, args.seconds):
                    raise TimeLimitError(f"takes about {step.expected} s, {limit:.0f} are left")
                report.add(step, bench.run(step, limit))
            except (StepError, KeyError, ValueError) as error:
                # Not for want of time in all, which the deadline is there to decide.
                failed = limit == args.seconds or not isinstance(error, TimeLimitError)
                if failed:
                    report.failed[step.name] = f"{type(error).__name__}: {error}"
                else:
                    report.skipped.append(step.name)
                print(f"{step.name:28} {'failed' if failed else 'skipped'}: {error}", flush=True)
    finally:
        bench.close()
        report.save()
    print(f"\n{report.table()}")
    for name, steps in (("skipped", report.skipped), ("failed", report.failed)):
        if steps:
            print(f"{name}: {', '.join(steps)}")
    print(f"{time.monotonic() - started:.0f} s; all numbers are in {args.out / 'gpu.json'}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
