#!/usr/bin/env bash
# Upload the W&B runs that were written offline below a folder, oldest first; those uploaded before are skipped.
#
#   scripts/wandb_sync.sh [--dry-run] [FOLDER]        FOLDER is "outputs" if none is given
#
# Exit code: 0 all of them are uploaded (or there are none), 1 some could not be, 2 bad input.
set -euo pipefail

refuse() {
    echo "error: $1" >&2
    exit 2
}

dry_run=false
folder=
for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=true ;;
        -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 0 ;;
        -*) refuse "'$argument' is not an option; the only one is --dry-run" ;;
        *) [[ -z $folder ]] && folder=$argument || refuse "expected one folder, got '$folder' and '$argument'" ;;
    esac
done
folder=${folder:-outputs}
[[ -d $folder ]] || refuse "'$folder' is not a folder; name the one that holds the runs (paths.outputs)"
$dry_run || command -v wandb >/dev/null || refuse "there is no command 'wandb'; pip install wandb, then wandb login"

# wandb leaves this mark when it has uploaded a run, and only then: without an account it uploads nothing and exits with 0.
is_uploaded() { [[ -n $(find "$1" -maxdepth 1 -name '*.wandb.synced' -print -quit) ]]; }

uploaded=0 skipped=0 failed=0
while IFS= read -r -d '' path; do
    run=${path#*/} # the time in front, by which paths are sorted
    if is_uploaded "$run"; then
        skipped=$((skipped + 1))
    elif $dry_run; then
        echo "would upload $run"
        uploaded=$((uploaded + 1))
    elif wandb sync "$run" </dev/null && is_uploaded "$run"; then
        uploaded=$((uploaded + 1))
    else
        echo "could not upload $run" >&2
        failed=$((failed + 1))
    fi
done < <(find "$folder" -type d -path '*/wandb/offline-run-*' -prune -printf '%f/%p\0' | sort -z)

$dry_run && verb="would be uploaded" || verb="uploaded"
echo "$uploaded $verb, $skipped uploaded before, $failed failed"
exit $((failed > 0))
