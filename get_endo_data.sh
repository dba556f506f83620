#!/usr/bin/env bash
# Usage: bash get_endo_data.sh [--zip FILE] [--sha256 HEX] [flags of tools.prepare_endo_data]
#
# Download the labelled images of Hyper-Kvasir (about 4 GB), check and resize them, and write five folds. Run the script again to
# resume an interrupted download.
#
#   --zip FILE     use a local copy instead of downloading
#   --sha256 HEX   expected digest of the zip (none is published; the script prints the digest of the file)
#   ...            other flags go to tools.prepare_endo_data: --splits, --select_fraction, --out, ... (see its --help)
#
# Example:
#
#   bash get_endo_data.sh --select_fraction 0.1
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # sh may be another shell, or bash in its POSIX mode
set +o posix
set -euo pipefail
cd "$(dirname "$0")" && . tools/setup_environment.sh
zip=data/hyper-kvasir-labeled-images.zip
url=${ENDO_URL:-https://datasets.simula.no/downloads/hyper-kvasir/hyper-kvasir-labeled-images.zip}
check=() pass=() own=
while [ $# -gt 0 ]; do
    case $1 in
        -h|--help) show_help get_endo_data.sh ;;
        --zip) zip=${2:?--zip needs a file}; own=1; shift 2
               case $zip in /*) ;; *) zip=$called_from/$zip ;; esac ;;
        --sha256) check=(--sha256 "${2:?--sha256 needs a digest}"); shift 2 ;;
        *) pass+=("$1"); shift ;;
    esac
done
setup_environment requirements.txt
[ -z "$own" ] || [ -f "$zip" ] || { echo "error: --zip $zip: no such file" >&2; exit 1; }
# Check the flags before the download of 4 GB, not after it.
"$PYTHON" -c 'import sys; from tools.prepare_endo_data import get_parser; get_parser().parse_args(sys.argv[1:])' \
    --zip "$zip" ${pass[@]+"${pass[@]}"}
"$PYTHON" -m tools.download_file "$url" --out "$zip" ${check[@]+"${check[@]}"}
"$PYTHON" -m tools.prepare_endo_data --zip "$zip" ${pass[@]+"${pass[@]}"}
[ -n "$own" ] || rm "$zip"
