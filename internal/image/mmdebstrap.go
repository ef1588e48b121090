package image

import (
	_ "embed"
	"fmt"
	"strings"
)

// setupScript runs on the host's side (under mmdebstrap's namespaces) with the new root's path as
// $1.
//
//go:embed setup.sh
var setupScript string

// packages are what an image has beyond Debian's required ones.
var packages = []string{
	// boots, and boots without stalling: systemd waits 90 s for what udev and dbus would have
	// brought
	"systemd", "systemd-sysv", "udev", "dbus", "libpam-systemd", "kmod",
	// reached and reaching
	"openssh-server", "iproute2", "iputils-ping", "netbase", "ca-certificates", "curl", "rsync",
	// a shell one can work in
	"sudo", "git", "less", "nano", "vim-tiny", "procps", "xz-utils", "e2fsprogs",
}

// buildEpoch dates every file that is newer, and what packages write while they are set up, so that
// the same packages give the same image: the day of Debian 13, in seconds since 1970.
const buildEpoch = 1754697600

// plan is what one run of mmdebstrap is given.
type plan struct {
	suite, mirror string
	components    string
	keyring       string // file with the archive's keys
	statusFile    string // where dpkg's status file of the new root is written to
}

// args is mmdebstrap's command line; it writes the root as a tar to its standard output.
//
// Mode unshare is used by root too: mmdebstrap then keeps its users but works in a mount namespace
// of its own, so that even a killed build leaves no mount behind.
func (p plan) args() []string {
	args := []string{
		"--mode=unshare", "--variant=minbase", "--format=tar", "--verbose",
		"--keyring=" + p.keyring,
		"--include=" + strings.Join(packages, ","),
		`--aptopt=Acquire::Languages "none"`, // stays in the image: translations are half of what apt-get update gets
		// Translations and changelogs nobody reads in a C.UTF-8 machine are a quarter of all bytes;
		// so it stays, too.
		"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-include=/usr/share/locale/locale.alias",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--customize-hook=" + setupScript,
		"--customize-hook=download /var/lib/dpkg/status " + shellQuote(p.statusFile),
		p.suite, "-",
	}
	return append(args, p.sources()...)
}

// sources are the apt lines to install from. Debian's security updates are taken from beside the
// mirror, when it is called "debian" as all of Debian's own are; Ubuntu's are on the mirror.
func (p plan) sources() []string {
	lines := []string{
		fmt.Sprintf("deb %s %s %s", p.mirror, p.suite, p.components),
		fmt.Sprintf("deb %s %s-updates %s", p.mirror, p.suite, p.components),
	}
	if site, ok := strings.CutSuffix(p.mirror, "/debian"); ok {
		lines = append(lines, fmt.Sprintf("deb %s/debian-security %s-security %s", site, p.suite, p.components))
	} else if strings.HasSuffix(p.mirror, "/ubuntu") {
		lines = append(lines, fmt.Sprintf("deb %s %s-security %s", p.mirror, p.suite, p.components))
	}
	return lines
}

// shellQuote quotes for mmdebstrap's special hooks, which split their line as a shell does.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
