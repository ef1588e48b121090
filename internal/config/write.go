package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// imageLine is a line that sets the image, above the first table.
var imageLine = regexp.MustCompile(`^\s*("image"|'image'|image)\s*=`)

// SetImage writes the setting "image" into the file and returns the file's path. All else in it stays as it is, comments
// too. A file that is a symlink stays one.
func SetImage(getenv func(string) string, name string) (string, error) {
	path := filePath(getenv)
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		target, err = path, os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("write settings: %w", err)
	}
	if _, err := readFile(target); err != nil { // what cannot be read is not made worse
		return "", err
	}
	text, err := os.ReadFile(target)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("write settings: %w", err)
	}
	return path, replaceFile(target, withImage(string(text), name))
}

// withImage returns the file's text with that image.
func withImage(text, name string) string {
	setting := "image = " + strconv.Quote(name)
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if imageLine.MatchString(line) {
			end := line[len(strings.TrimRight(line, "\r\n")):]
			lines[i] = setting + end
			return strings.Join(lines, "")
		}
		if strings.HasPrefix(strings.TrimSpace(line), "[") {
			break
		}
	}
	return setting + "\n" + text
}

// replaceFile writes beside the file and renames, so that a crash leaves the old one or the new one.
func replaceFile(path, text string) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".config-")
	if err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	_, err = file.WriteString(text)
	err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write settings: %w", err), os.Remove(file.Name()))
	}
	return nil
}
