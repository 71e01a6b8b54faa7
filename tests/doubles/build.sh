#!/bin/sh
# Builds the stand-ins of NCCL and of CUDA's driver into a folder, for LD_LIBRARY_PATH.
#
# usage: build.sh FOLDER
set -eu
cd "$(dirname "$0")"
cc -O1 -Wall -Wextra -fPIC -shared -Wl,-soname,libcuda.so cuda.c -o "$1/libcuda.so"
cc -O1 -Wall -Wextra -fPIC -shared -Wl,-soname,libnccl.so nccl.c -o "$1/libnccl.so" \
    -L"$1" -lcuda -Wl,-rpath,"\$ORIGIN"
