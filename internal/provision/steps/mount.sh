# shellcheck shell=sh
# Makes what the host has sent along readable at INPUTS: a drive of its own, found by its label.
set -eu

mkdir -p "$INPUTS"
mountpoint -q "$INPUTS" || mount -t ext4 -o ro LABEL=banger-inputs "$INPUTS"
