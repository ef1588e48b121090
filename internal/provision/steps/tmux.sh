# shellcheck shell=sh
# tmux with the plugins that keep sessions over a restart. PLUGINS holds a line for each: name, URL, ref (or -), and the
# folder below INPUTS that holds a copy of a local repository (or -).
set -eu
export GIT_TERMINAL_PROMPT=0

folder=/root/.tmux/plugins
mkdir -p "$folder"
printf '%s\n' "$PLUGINS" | while read -r name url ref copy; do
	[ -n "$name" ] || continue
	from=$url
	[ "$copy" = - ] || from=$INPUTS/$copy
	rm -rf "${folder:?}/$name"
	git -c safe.directory='*' clone --quiet "$from" "$folder/$name" </dev/null
	[ "$ref" = - ] || git -C "$folder/$name" checkout --quiet "$ref" </dev/null
	git -C "$folder/$name" remote set-url origin "$url"
	echo "$name $(git -C "$folder/$name" rev-parse HEAD)"
done

conf=/root/.tmux.conf
touch "$conf"
block=$(mktemp)
cat >"$block" <<'TMUX'
# >>> banger: tmux (this block is replaced by each build; write your own lines outside of it)
set -g mouse on
set -g history-limit 50000
set -g @plugin 'tmux-plugins/tpm'
set -g @plugin 'tmux-plugins/tmux-resurrect'
set -g @plugin 'tmux-plugins/tmux-continuum'
set -g @continuum-restore 'on'
run '~/.tmux/plugins/tpm/tpm'
# <<< banger: tmux
TMUX
# In place, where the block stood; at the end in a file that has none.
awk -v block="$block" '
	function put(  line) { while ((getline line < block) > 0) print line; done = 1 }
	/^# >>> banger: tmux/ { inside = 1; if (!done) put(); next }
	/^# <<< banger: tmux/ { inside = 0; next }
	!inside { print }
	END { if (!done) put() }' "$conf" >"$conf.banger"
rm "$block"
cat "$conf.banger" >"$conf" # keeps its mode and owner
rm "$conf.banger"
