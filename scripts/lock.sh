#!/usr/bin/env bash
# Write requirements/*.txt: every package of every set, pinned by version and hash.
# The files there now are the starting point; `make lock UPGRADE=--upgrade` is not.
# all.txt is resolved first, and the other sets take their versions from it.
set -euo pipefail
cd "$(dirname "$0")/.."
uv="${PRIVACY_VENV:-.venv}/bin/uv"

compile() { # NAME, then what goes in
  local name=$1
  shift
  echo "requirements/$name.txt"
  "$uv" pip compile "$@" \
    --output-file "requirements/$name.txt" \
    --universal --python-version 3.11.1 --generate-hashes --quiet \
    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
    ${UPGRADE:-}
}

narrow() { # NAME, then extras and groups: the same versions, no comments
  compile "$@" pyproject.toml requirements/build.in \
    --constraint requirements/all.txt --no-annotate
}

engines=(--extra fhe --extra zkml --extra tee --extra gateway)
compile all pyproject.toml requirements/build.in --all-extras --group dev
narrow client
# Concrete's own list of packages names torch, which its run time does not need.
needed="$(mktemp --suffix .in)"
trap 'rm -f "$needed"' EXIT
"$uv" pip compile pyproject.toml --constraint requirements/all.txt --universal \
  --python-version 3.11.1 --no-annotate --no-header --quiet --output-file "$needed"
echo concrete-python >> "$needed"
compile client-fhe "$needed" --no-deps --constraint requirements/all.txt --no-annotate
# What a container runs: no publishing, so neither torch nor Concrete-ML.
"$uv" pip compile pyproject.toml requirements/build.in --extra gateway --extra zkml \
  --extra tee --extra chain --extra ray --extra s3 --constraint requirements/all.txt \
  --universal --python-version 3.11.1 --no-annotate --no-header --quiet \
  --output-file "$needed"
printf '%s\n' concrete-python 'setuptools<81' >> "$needed"
compile server "$needed" --no-deps --constraint requirements/all.txt --no-annotate
narrow demo "${engines[@]}"
narrow dev "${engines[@]}" --extra chain --extra ray --extra s3 --group dev
compile uv requirements/uv.in --no-annotate
compile node requirements/node.in --no-annotate
