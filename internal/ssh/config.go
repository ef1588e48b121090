package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"banger/api"
	"banger/internal/atomicfile"
	"banger/internal/home"
)

// maxConfigBytes bounds a user's ~/.ssh/config.
const maxConfigBytes = 8 << 20

// plainPath matches what ssh's configuration, its tokens and globs, and a shell in quotes take for
// itself.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9 ._/@+,:=~-]*$`)

// Options are the settings for a connection to a VM: who proxies it, and which keys count. The
// first one that ssh gets to know of each counts.
func (d Dir) Options(h home.Dir, program, vm string) ([][2]string, error) {
	for _, path := range []string{string(h), program} {
		if !plainPath.MatchString(path) {
			return nil, api.Errorf(api.CodeUnsupported, "ssh's configuration cannot hold the path %q", path).
				WithHint("use a folder whose name has letters, digits, spaces and . _ / @ + , : = ~ - alone")
		}
	}
	return [][2]string{
		{"ProxyCommand", fmt.Sprintf("env BANGER_HOME='%s' '%s' ssh-proxy %s", h, program, vm)},
		{"User", "root"},
		{"IdentityFile", `"` + d.Key() + `"`},
		{"IdentitiesOnly", "yes"},
		{"UserKnownHostsFile", `"` + d.KnownHosts() + `"`},
		{"StrictHostKeyChecking", "yes"},
		{"HostKeyAlgorithms", "ssh-ed25519"},
		{"UpdateHostKeys", "no"}, // the file is not ssh's to write
		{"CheckHostIP", "no"},
	}, nil
}

// ConfigText is the configuration for all VMs of a home, to be included from ~/.ssh/config.
func (d Dir) ConfigText(h home.Dir, program string) (string, error) {
	options, err := d.Options(h, program, "'%h'")
	if err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString("# Written by: banger ssh-config\nHost *.vm\n")
	for _, o := range options {
		fmt.Fprintf(&text, "\t%s %s\n", o[0], o[1])
	}
	return text.String(), nil
}

// Install makes the user's configuration, usually ~/.ssh/config, include this home's, whose text it
// writes. It reports whether the user's file was changed: one that includes it already is left
// alone.
func (d Dir) Install(userConfig, text string) (changed bool, err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return false, fmt.Errorf("make folder: %w", err)
	}
	if err := atomicfile.Write(d.Config(), []byte(text), 0o600, atomicfile.Durable); err != nil {
		return false, fmt.Errorf("write ssh's configuration: %w", err)
	}
	path, made, err := d.openUserConfig(userConfig)
	if err != nil {
		return false, err
	}
	old, mode, err := readConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		made += madeFile
	} else if err != nil {
		return false, err
	}
	if begin, _ := d.find(old); begin >= 0 {
		return false, nil
	}
	return true, replaceConfig(path, append([]byte(d.include(made)), old...), mode)
}

// Uninstall takes back, to the byte, what Install did, and reports whether there was anything.
func (d Dir) Uninstall(userConfig string) (changed bool, err error) {
	if err := os.Remove(d.Config()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove ssh's configuration: %w", err)
	}
	path, err := filepath.EvalSymlinks(userConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find ssh's configuration: %w", err)
	}
	old, mode, err := readConfig(path)
	if err != nil {
		return false, err
	}
	begin, end := d.find(old)
	if begin < 0 {
		return false, nil
	}
	mark, rest := string(old[begin:end]), append(bytes.Clone(old[:begin]), old[end:]...)
	if len(rest) > 0 || !strings.Contains(mark, madeFile) {
		return true, replaceConfig(path, rest, mode)
	}
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("remove ssh's configuration: %w", err)
	}
	if strings.Contains(mark, madeFolder) {
		_ = os.Remove(filepath.Dir(path)) // somebody else may use it by now
	}
	return true, nil
}

// What Install made itself, noted in its mark, is removed by Uninstall when it is empty.
const (
	madeFolder = " (made this folder)"
	madeFile   = " (made this file)"
)

func (d Dir) marks() (begin, end string) {
	return "# banger: ssh NAME.vm; gone with: banger ssh-config --uninstall", fmt.Sprintf("\nInclude \"%s\"\n\n", d.Config())
}

// include is what Install puts at the top of the file: further down an Include would belong to the
// Host above it.
func (d Dir) include(made string) string {
	begin, end := d.marks()
	return begin + made + end
}

// find returns where the include of this home stands in a configuration, or -1.
func (d Dir) find(config []byte) (begin, end int) {
	mark, include := d.marks()
	for _, made := range []string{"", madeFolder + madeFile, madeFile} {
		text := []byte(mark + made + include)
		if at := bytes.Index(config, text); at >= 0 {
			return at, at + len(text)
		}
	}
	return -1, -1
}

// openUserConfig follows a symlink to the file itself and makes a missing folder.
func (d Dir) openUserConfig(path string) (real, made string, err error) {
	real, err = filepath.EvalSymlinks(path)
	if err == nil {
		return real, "", nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("find ssh's configuration: %w", err)
	}
	if _, err := os.Lstat(path); err == nil {
		return "", "", api.Errorf(api.CodeConflict, "%s is a link to a file that is not there", path).
			WithHint("make that file, or remove the link")
	}
	switch err := os.Mkdir(filepath.Dir(path), 0o700); {
	case err == nil:
		return path, madeFolder, nil
	case !errors.Is(err, fs.ErrExist):
		return "", "", fmt.Errorf("make folder: %w", err)
	}
	return path, "", nil
}

// readConfig returns a file and its mode; of one that is not there the mode is that of a new one.
func readConfig(path string) ([]byte, fs.FileMode, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0o600, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfigBytes {
		return nil, 0, api.Errorf(api.CodeUnsupported, "%s is no file of at most %d bytes", path, maxConfigBytes)
	}
	text, err := os.ReadFile(path)
	return text, info.Mode().Perm(), err
}

// replaceConfig replaces the user's file whole and keeps its mode and owner.
func replaceConfig(path string, text []byte, mode fs.FileMode) error {
	err := atomicfile.Fill(path, mode, atomicfile.Durable, func(file *os.File) error {
		if _, err := file.Write(text); err != nil {
			return err
		}
		if info, err := os.Stat(path); err == nil {
			if owner, ok := info.Sys().(*syscall.Stat_t); ok {
				return file.Chown(int(owner.Uid), int(owner.Gid))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write ssh's configuration: %w", err)
	}
	return nil
}
