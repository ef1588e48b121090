# shellcheck shell=sh
# Installs opencode from INPUTS/bin/opencode as a service on PORT, which only the machine itself reaches: banger open
# and banger forward go through the agent.
set -eu

install -m 755 "$INPUTS/bin/opencode" /usr/local/bin/opencode
cat >/etc/systemd/system/opencode.service <<UNIT
[Unit]
Description=opencode, a coding agent
After=network.target

[Service]
Environment=HOME=/root
WorkingDirectory=/root
ExecStart=/usr/local/bin/opencode serve --hostname 127.0.0.1 --port $PORT
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
UNIT
systemctl enable opencode.service
