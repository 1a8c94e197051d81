#!/usr/bin/env bash
# Lays out a folder of a Lustre file system for checkpoints:  launch/stripe.sh FOLDER
# New files in it start on one storage target, take 4 from 4 MiB and 32 from 64 MiB on, in blocks of 4 MiB: the "good default
# settings" of docs/guides/storage.md in github.com/eth-cscs/cscs-docs (2026-08-20, commit 80abed1). Files that are there stay as
# they are. Where there is no Lustre nothing is done, and said.
set -euo pipefail
if (($# != 1)) || [[ $1 == -* ]]; then
  echo "usage: launch/stripe.sh FOLDER   (made if it is not there)" >&2
  exit 78
fi
folder=$1
if [[ -e $folder && ! -d $folder ]]; then
  echo "stripe.sh: $folder is not a folder" >&2
  exit 78
fi
if ! mkdir -p -- "$folder" 2>/dev/null; then
  echo "stripe.sh: cannot make $folder" >&2
  exit 70
fi
if ! command -v lfs >/dev/null; then
  echo "stripe.sh: nothing to do: there is no lfs here, so $folder is not on Lustre"
  exit 0
fi
if ! lfs getstripe -d "$folder" >/dev/null 2>&1; then
  echo "stripe.sh: nothing to do: $folder is not on Lustre"
  exit 0
fi
if ! lfs setstripe -E 4M -c 1 -E 64M -c 4 -E -1 -c 32 -S 4M "$folder"; then
  echo "stripe.sh: lfs setstripe refused $folder (see above); checkpoints work without it, slower" >&2
  exit 70
fi
echo "stripe.sh: new files in $folder use 1, 4, then 32 storage targets"
