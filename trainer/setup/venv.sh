#!/bin/sh
# A Python environment from pinned, hashed requirements; says nothing when it is there.
#
# usage: venv.sh FOLDER REQUIREMENTS
set -eu
folder=$1 requirements=$2

cmp -s "$requirements" "$folder/requirements.txt" && exit 0
echo "set-up: making $folder"
# A virtual environment holds its own path, so it is made in place; the copy of the requirements,
# written last, says that it is whole.
rm -rf "$folder"
python3 -m venv "$folder"
"$folder/bin/python" -m pip install -q --disable-pip-version-check --no-cache-dir \
    --require-hashes -r "$requirements"
cp "$requirements" "$folder/requirements.new"
mv "$folder/requirements.new" "$folder/requirements.txt"
