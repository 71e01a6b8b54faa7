#!/bin/sh
# Builds a stand-in of libtorch's CUDA half, which does nothing but load NCCL: as the real one, by
# name and by a path of its own that comes before LD_LIBRARY_PATH.
#
# usage: libtorch_cuda.sh FOLDER NCCL_FOLDER [FUNCTION]     one that it needs of NCCL's
set -eu
function=${3:-ncclGetVersion}
printf 'int %s(); void* needed(void) { return (void*)%s; }' "$function" "$function" |
    cc -O1 -fPIC -shared -x c - -o "$1/libtorch_cuda.so" -Wl,--allow-shlib-undefined \
        -Wl,--unresolved-symbols=ignore-all -Wl,--disable-new-dtags -Wl,-rpath,"$2" \
        -Wl,--no-as-needed -L"$2" -l:libnccl.so.2
