#!/usr/bin/env bash
# Hyper-Kvasir's labelled images (about 4 GB): download, check, resize, five folds. Arguments:
#   --zip FILE     use a local copy instead of downloading
#   --sha256 HEX   refuse a zip with another digest (none is published; ours is printed)
#   anything else is passed on to tools/prepare_endo_data.py (--splits, --select_fraction, --out, ...)
set -euo pipefail
cd "$(dirname "$0")"
zip=data/hyper-kvasir-labeled-images.zip
url=${ENDO_URL:-https://datasets.simula.no/downloads/hyper-kvasir/hyper-kvasir-labeled-images.zip}
check=() pass=() own=
while [ $# -gt 0 ]; do
    case $1 in
        -h|--help) sed -n '2,5s/^# //p' "$0"; exit ;;
        --zip) zip=${2:?--zip needs a file}; own=1; shift 2 ;;
        --sha256) check=(--sha256 "${2:?--sha256 needs a digest}"); shift 2 ;;
        *) pass+=("$1"); shift ;;
    esac
done
. tools/setup_environment.sh
setup_environment requirements.txt
if [ -n "$own" ] && [ ! -f "$zip" ]; then
    echo "error: --zip $zip: no such file" >&2
    exit 1
fi
"$PYTHON" -m tools.download_file "$url" --out "$zip" ${check[@]+"${check[@]}"}
"$PYTHON" -m tools.prepare_endo_data --zip "$zip" ${pass[@]+"${pass[@]}"}
[ -n "$own" ] || rm "$zip"
