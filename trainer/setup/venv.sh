#!/bin/sh
# Creates a Python environment from pinned, hashed requirements; prints nothing if it exists.
#
# usage: venv.sh FOLDER REQUIREMENTS
set -eu
folder=$1 requirements=$2

cmp -s "$requirements" "$folder/requirements.txt" && exit 0
echo "set-up: creating $folder"
# A virtual environment contains its own path, so it is created in place; the copy of the requirements is written
# last and marks it as complete.
rm -rf "$folder"
python3 -m venv "$folder"
"$folder/bin/python" -m pip install -q --disable-pip-version-check --no-cache-dir \
    --require-hashes -r "$requirements"
cp "$requirements" "$folder/requirements.new"
mv "$folder/requirements.new" "$folder/requirements.txt"
