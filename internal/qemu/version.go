package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// DefaultBinary is looked up on the path.
const DefaultBinary = "qemu-system-x86_64"

// The oldest QEMU that works. 7.2 crashes or hangs Debian's kernels under TCG.
const (
	minMajor = 8
	minMinor = 2
)

const installHint = "install QEMU 8.2 or newer (Debian 13: apt install qemu-system-x86; " +
	"Debian 12: the same from bookworm-backports, apt install -t bookworm-backports qemu-system-x86)"

var versionPattern = regexp.MustCompile(`version (\d+)\.(\d+)(\.\d+)*`)

// CheckVersion runs binary --version and returns what it says, as in 10.0.2. A missing or too old
// QEMU is an error that says what to install.
func CheckVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	path, err := exec.LookPath(binary)
	if err != nil {
		return "", fmt.Errorf("find QEMU: %w: %s", err, installHint)
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w: %s", path, err, installHint)
	}
	return parseVersion(out)
}

func parseVersion(out []byte) (string, error) {
	found := versionPattern.FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("read QEMU's version: no version in %.100q: %s", out, installHint)
	}
	version := string(bytes.TrimPrefix(found[0], []byte("version ")))
	major, errMajor := strconv.Atoi(string(found[1]))
	minor, errMinor := strconv.Atoi(string(found[2]))
	if errMajor != nil || errMinor != nil || major < minMajor || major == minMajor && minor < minMinor {
		return "", fmt.Errorf("QEMU %s is too old: %s", version, installHint)
	}
	return version, nil
}
