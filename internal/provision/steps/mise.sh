# shellcheck shell=sh
# Installs mise from INPUTS/bin/mise and activates it, once in each shell, whether that is a login shell or not.
set -eu

install -m 755 "$INPUTS/bin/mise" /usr/local/bin/mise
/usr/local/bin/mise --version
cat >/etc/profile.d/mise.sh <<'PROFILE'
# Written by banger: tools of mise. Login shells read this file, bash reads it from /etc/bash.bashrc, too.
case ":$PATH:" in
*":$HOME/.local/share/mise/shims:"*) ;;
*) PATH="$HOME/.local/share/mise/shims:$PATH" ;;
esac
case "${BASH_VERSION:+bash}$-" in
bash*i*)
	if [ -z "${_banger_mise-}" ]; then
		_banger_mise=1 # not exported: each shell needs its own functions
		eval "$(/usr/local/bin/mise activate bash)"
	fi
	;;
esac
PROFILE
touch /etc/bash.bashrc
sed -i '/^# >>> banger: mise$/,/^# <<< banger: mise$/d' /etc/bash.bashrc
cat >>/etc/bash.bashrc <<'BASHRC'
# >>> banger: mise
. /etc/profile.d/mise.sh
# <<< banger: mise
BASHRC
