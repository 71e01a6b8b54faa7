#!/usr/bin/env python3
"""Installs libtorch in .deps/ from PyPI's wheels; prints nothing if it is present.

usage: libtorch.py [cpu|cuda]      (by default the installed variant, or else cpu)

The versions and hashes are in libtorch-cpu.txt and libtorch-cuda.txt next to this file. PyPI's
torch is a CUDA build; its libtorch_cpu needs only two small CUDA libraries, so the CPU variant
unpacks only those. Layout (libtorch's own rpath is $ORIGIN/../../nvidia/*/lib):

  .deps/libtorch/{lib,include,build-version}   what LIBTORCH names
  .deps/nvidia/*/lib                           what libtorch loads

A wheel is downloaded to a temporary folder and moved into place when its hash is right, and so are
the two folders: an interrupted set-up leaves nothing incomplete, and the next one resumes after the
last complete wheel.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEPS = HERE.parent.parent / ".deps"
LAYOUT = 1  # incremented when the same wheels must be unpacked differently
# The platform of the wheels, whatever Python runs this: libtorch does not depend on it.
PLATFORM = ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "none"]
for tag in ("_2_28", "_2_27", "_2_25", "_2_18", "_2_17", "2014", "2010", "1"):
    PLATFORM += ["--platform", f"manylinux{tag}_x86_64"]

# From torch/lib: what a C++ program links or loads, without PyTorch's Python bindings.
CPU_LIBRARIES = {"libc10.so", "libtorch_cpu.so", "libgomp.so.1"}
NOT_WANTED = {"libtorch.so", "libtorch_python.so", "libshm.so", "libtorch_global_deps.so"}
CPU_NVIDIA = {"libcudart.so.13", "libcupti.so.13"}


def requirements(variant):
    """The pinned requirements with their hashes, one per string."""
    text = (HERE / f"libtorch-{variant}.txt").read_text()
    lines = re.sub(r"#.*", "", text).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def download(python, requirement, wheels):
    """The wheel of `requirement`, downloaded now or by an earlier attempt."""
    name, version = re.match(r"([\w-]+)==([\w.]+)", requirement).groups()
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    found = next(wheels.glob(pattern), None)
    if found is None:
        print(f"set-up: fetching {name} {version}", flush=True)
        aside = wheels / f"{name}.part"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        (aside / "pin.txt").write_text(requirement + "\n")
        command = [python, "-m", "pip", "download", "-q", "--no-cache-dir", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--require-hashes"]
        command += PLATFORM + ["-d", str(aside), "-r", str(aside / "pin.txt")]
        subprocess.run(command, check=True)
        fetched = next(aside.glob(pattern))
        found = wheels / fetched.name
        fetched.rename(found)
        shutil.rmtree(aside)
    return found


def place(name, variant):
    """Where the file `name` of a wheel goes, or None if it is not needed."""
    base = name.rsplit("/", 1)[-1]
    if name.startswith("torch/include/") and base:
        return name.replace("torch/", "libtorch/", 1)
    if name.startswith("torch/lib/") and ".so" in base:
        wanted = base in CPU_LIBRARIES if variant == "cpu" else base not in NOT_WANTED
        return f"libtorch/lib/{base}" if wanted else None
    if name.startswith("nvidia/") and "/lib/" in name and ".so" in base:
        return name if variant == "cuda" or base in CPU_NVIDIA else None
    return None


def unpack(wheel, variant, destination):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            where = place(name, variant)
            if where is not None:
                path = destination / where
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as packed, open(path, "wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)


def finish(new, version):
    """Adds what the wheels lack for a C++ build, and checks that the libraries load."""
    lib = new / "libtorch" / "lib"
    # The wheel's libtorch.so only ties the others together, libtorch_cuda included. An empty one
    # lets the same program be linked with and without CUDA, which it loads when it starts.
    stub = ["cc", "-shared", "-x", "c", "/dev/null", "-o", str(lib / "libtorch.so")]
    subprocess.run(stub + ["-Wl,-soname,libtorch.so"], check=True)
    (new / "libtorch" / "build-version").write_text(version + "\n")
    for library in [lib / "libtorch_cpu.so", *lib.glob("libtorch_cuda.so")]:
        needs = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True)
        missing = [line.strip() for line in needs.stdout.splitlines() if "not found" in line]
        if missing:
            sys.exit(f"set-up: {library.name} would not load: " + "; ".join(missing))


def main():
    if sys.argv[1:] not in ([], ["cpu"], ["cuda"]):
        sys.exit("usage: libtorch.py [cpu|cuda]")
    stamp = DEPS / "libtorch.stamp"
    present = stamp.read_text() if stamp.is_file() else "cpu"
    variant = (sys.argv[1:] or present.split())[0]
    pins = requirements(variant)
    digest = hashlib.sha256("\n".join(pins).encode()).hexdigest()
    wanted = f"{variant} {LAYOUT} {digest}\n"
    if present == wanted:
        return

    wheels, new, venv = DEPS / "wheels", DEPS / "new", DEPS / "pip"
    for leftover in (new, venv):
        shutil.rmtree(leftover, ignore_errors=True)
    wheels.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    fetched = [download(str(venv / "bin" / "python"), pin, wheels) for pin in pins]
    print(f"set-up: unpacking libtorch ({variant})", flush=True)
    for wheel in fetched:
        unpack(wheel, variant, new)
    finish(new, re.match(r"torch==([\w.]+)", pins[0]).group(1))

    stamp.unlink(missing_ok=True)
    for folder in ("nvidia", "libtorch"):
        shutil.rmtree(DEPS / folder, ignore_errors=True)
        (new / folder).rename(DEPS / folder)
    aside = stamp.with_suffix(".new")
    aside.write_text(wanted)
    os.replace(aside, stamp)
    for folder in (new, venv, wheels):
        shutil.rmtree(folder)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"set-up: failed ({error.returncode}): {' '.join(map(str, error.cmd))}")
