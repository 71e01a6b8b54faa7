"""What the coordinator of a run costs by the number of ranks: CPU, memory, threads, open files, and how
long it takes to start, to find a dead and a silent rank, and to stop.

The ranks train nothing (launcher/examples/many_ranks.rs). One process plays them all, in the place of
mpirun; with --processes each is a process under the real mpirun.

    cargo build --release --bin tandem && cargo build --release -p tandem-launcher --examples
    python3 launcher/bench/scale.py [--processes] [--repeat N] [--seconds S] RANKS...
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RELEASE = ROOT / "target" / "release"
PATIENCE = 120
CONFIG = """
run: {{ name: many, folder: {folder}/runs }}
data: {{ train: {{ tsv: {{ path: train.tsv, source: 1, target: 2 }} }} }}
model:
  encoder: {{ bert: {{ pretrained: bert, adapters: {{ dim: 2 }} }} }}
  decoder: {{ bert: {{ pretrained: bert, cross_attention: {{ heads: 1 }} }} }}
  objective: {{ masked: {{}} }}
training:
  steps: 1000000
  max_tokens: 100
  micro_batches: {ranks}
  log_every: 1
  schedule: {{ constant: {{ rate: 0.001 }} }}
evaluation: {{ every: 0 }}
cluster: {{ device: cpu, engine: mpirun, workers: {ranks}, threads: 1, max_restarts: 0 }}
"""


class Run:
    """A launcher with its ranks."""

    def __init__(self, folder, ranks, processes, fault):
        self.ranks, self.folder = ranks, folder
        shutil.copytree(ROOT / "tests/golden/tiny-a/source_bert", folder / "bert")
        (folder / "train.tsv").write_text("a\tb\n")
        (folder / "run.yaml").write_text(CONFIG.format(folder=folder, ranks=ranks))
        self.times = folder / "times"
        many = RELEASE / "examples" / "many_ranks"
        environment = dict(os.environ, TANDEM_WORKER=str(many), MANY_TIMES=str(self.times), MANY_FAULT=fault)
        if not processes:
            os.symlink(many, folder / "mpirun")
            environment["PATH"] = f"{folder}:{environment['PATH']}"
        self.log = open(folder / "log", "w+")
        self.started = time.time()
        command = [RELEASE / "tandem", "launch", folder / "run.yaml"]
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)

    def event(self, name):
        """When an event came first, in seconds since 1970."""
        path = self.folder / "runs/many/events.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            event = json.loads(line)
            if event["event"] == name:
                return event["time"]
        raise SystemExit(f"there was no {name}:\n{self.said()}")

    def noted(self, what):
        """When all ranks have noted something, or None."""
        lines = self.times.read_text().splitlines() if self.times.exists() else []
        notes = [json.loads(line) for line in lines]
        notes = [note for note in notes if note["what"] == what]
        wanted = 1 if what == "fault" else self.ranks
        if sum(note["ranks"] for note in notes) < wanted:
            return None
        return max(note["time"] for note in notes)

    def until_joined(self):
        deadline = time.time() + PATIENCE
        while self.noted("joined") is None:
            if self.process.poll() is not None or time.time() > deadline:
                raise SystemExit(f"{self.ranks} ranks did not start:\n{self.said()}")
            time.sleep(0.02)
        return self.noted("joined") - self.started

    def ends(self):
        self.process.wait(PATIENCE)
        return time.time()

    def said(self):
        self.log.seek(0)
        return self.log.read()[-3000:]

    def usage(self):
        """CPU seconds, resident and peak MiB, threads, open files of the launcher."""
        process = pathlib.Path(f"/proc/{self.process.pid}")
        times = (process / "stat").read_text().rsplit(")", 1)[1].split()
        cpu = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        mebibytes = lambda key: int(status[key].split()[0]) / 1024
        files = len(os.listdir(process / "fd"))
        return cpu, mebibytes("VmRSS"), mebibytes("VmHWM"), int(status["Threads"]), files


def measure(ranks, processes, seconds):
    def run(fault):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="tandem-scale-"))
        return Run(folder, ranks, processes, fault)

    found = {"ranks": ranks}
    steady = run("")
    found["start s"] = steady.until_joined()
    time.sleep(3)
    before, clock = steady.usage(), time.time()
    time.sleep(seconds)
    after = steady.usage()
    found["CPU s per min"] = 60 * (after[0] - before[0]) / (time.time() - clock)
    found["RSS MiB"], found["peak MiB"], found["threads"], found["files"] = after[1:]
    found["MiB grown"] = after[1] - before[1]
    asked = time.time()
    steady.process.send_signal(signal.SIGINT)
    found["stop s"] = steady.ends() - asked
    runs = [steady]
    for kind, label in [("die", "dead"), ("hang", "silent")]:
        faulty = run(f"{kind}:12")
        runs.append(faulty)
        end = faulty.ends()
        fault = faulty.noted("fault")
        if fault is None:
            raise SystemExit(f"no fault:\n{faulty.said()}")
        found[f"{label}: told s"] = faulty.event("failure") - fault
        found[f"{label}: down s"] = end - fault
    for finished in runs:
        shutil.rmtree(finished.folder)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("ranks", type=int, nargs="+")
    arguments = parser.parse_args()
    print(f"open files allowed: {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}; CPUs: {os.cpu_count()}")
    for ranks in arguments.ranks:
        for _ in range(arguments.repeat):
            found = measure(ranks, arguments.processes, arguments.seconds)
            print("  ".join(f"{name} {value:.2f}".replace(".00", "") for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
