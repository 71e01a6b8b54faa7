#!/bin/sh
# Builds the stand-ins of NCCL and of CUDA's driver into a folder, for LD_LIBRARY_PATH.
#
# usage: build.sh FOLDER [VERSION [SONAME]]     NCCL's, e.g. 23007; libnccl.so.2
set -eu
cd "$(dirname "$0")"
out=$1 version=${2:-22907} soname=${3:-libnccl.so.2}

# library SONAME SOURCE [OPTION ...]
library() {
    name=$1 source=$2
    shift 2
    cc -O1 -Wall -Wextra -fPIC -shared -x c "$source" -Wl,-soname,"$name" -o "$out/$name" -L"$out" \
        -Wl,-rpath,"\$ORIGIN" -Wl,--no-as-needed "$@"
}
library libcuda_double.so cuda.c
# A name for it, so that NCCL's stand-in can be loaded without it, as NCCL can without the driver.
library libcuda.so /dev/null -lcuda_double
library "$soname" nccl.c -DVERSION="$version" -lcuda_double
