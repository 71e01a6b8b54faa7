#!/bin/sh
# Builds the stand-ins of NCCL and of CUDA's driver into a folder, for LD_LIBRARY_PATH.
#
# usage: build.sh FOLDER
set -eu
cd "$(dirname "$0")"

# library NAME SOURCE [LINKED]
library() {
    cc -O1 -Wall -Wextra -fPIC -shared -x c "$2" -Wl,-soname,"$1" -o "$out/$1" -L"$out" \
        -Wl,-rpath,"\$ORIGIN" -Wl,--no-as-needed ${3:-}
}
out=$1
library libcuda_double.so cuda.c
# A name for it, so that NCCL's stand-in can be loaded without it, as NCCL can without the driver.
library libcuda.so /dev/null -lcuda_double
library libnccl.so nccl.c -lcuda_double
