package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"banger/internal/atomicfile"
)

// imageLine is a line that sets the image, above the first table.
var imageLine = regexp.MustCompile(`^\s*("image"|'image'|image)\s*=`)

// SetImage writes the setting "image" into the file and returns the file's path. All else in it
// stays as it is, comments too. A file that is a symlink stays one.
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
	if err := atomicfile.Write(target, []byte(withImage(string(text), name)), 0o644, atomicfile.Durable); err != nil {
		return "", fmt.Errorf("write settings: %w", err)
	}
	return path, nil
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
