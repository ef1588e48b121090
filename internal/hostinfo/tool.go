// Package hostinfo is what banger must know of the host it runs on, judged once: where programs
// are, whether a user may have a user namespace with ids of its own, and what processes use. What
// the doctor says of the host and what a build finds in it come from here.
package hostinfo

import (
	"os/exec"
	"path/filepath"
	"strings"

	"banger/api"
)

// sbins are searched besides PATH, because an ordinary user's PATH lacks them on Debian.
var sbins = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// LookPath finds a program on PATH or in the system folders.
func LookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.ContainsRune(name, '/') {
		return path, err
	}
	for _, dir := range sbins {
		if found, sbinErr := exec.LookPath(filepath.Join(dir, name)); sbinErr == nil {
			return found, nil
		}
	}
	return "", err
}

// FindTool is LookPath for a program that banger cannot do without. pkg is the Debian package that
// has it; other distributions call most of them the same.
func FindTool(name, pkg string) (string, error) {
	path, err := LookPath(name)
	if err != nil {
		return "", api.Errorf(api.CodeUnavailable, "%s is not installed", name).WithHint("%s %s", InstallCommand(), pkg)
	}
	return path, nil
}

// InstallCommand is how packages are installed on this distribution; their names follow.
func InstallCommand() string {
	for _, manager := range []struct{ program, command string }{
		{"apt-get", "sudo apt-get install"},
		{"dnf", "sudo dnf install"},
		{"pacman", "sudo pacman -S"},
		{"apk", "sudo apk add"},
		{"zypper", "sudo zypper install"},
	} {
		if _, err := LookPath(manager.program); err == nil {
			return manager.command
		}
	}
	return "install the package"
}
