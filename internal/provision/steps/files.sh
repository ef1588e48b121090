# shellcheck shell=sh
# Copies INPUTS/FILE to TARGET, as cp does: into a folder that is there or that TARGET's last slash says, else as TARGET.
set -eu

case $TARGET in
*/) mkdir -p "$TARGET" ;;
*) mkdir -p "$(dirname "$TARGET")" ;;
esac
cp -a "$INPUTS/$FILE" "$TARGET"
