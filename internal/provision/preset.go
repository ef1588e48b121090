package provision

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"slices"
	"strings"

	"banger/api"
)

//go:embed presets/*.txt
var presetFiles embed.FS

// preset is what one file of presets holds.
type preset struct {
	packages []string
	steps    []string // those that not every build has
	sha256   string   // of the file, hex
}

// readPreset reads a preset: a package a line, or "step NAME".
func readPreset(name string) (preset, error) {
	var names []string
	for _, p := range api.Presets {
		names = append(names, string(p.Name))
	}
	if !slices.Contains(names, name) {
		return preset{}, api.Errorf(api.CodeInvalid, "unknown preset %q", name).WithHint("one of %s", strings.Join(names, ", "))
	}
	text, err := presetFiles.ReadFile("presets/" + name + ".txt")
	if err != nil {
		return preset{}, err
	}
	sum := sha256.Sum256(text)
	p := preset{sha256: hex.EncodeToString(sum[:])}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if step, ok := strings.CutPrefix(line, "step "); ok {
			p.steps = append(p.steps, step)
		} else if line != "" && !strings.HasPrefix(line, "#") {
			p.packages = append(p.packages, line)
		}
	}
	return p, nil
}

// Stale reports whether a preset has changed since the image was built whose manifest holds this
// hash of it. An image without a preset is never stale.
func Stale(name, sha256 string) bool {
	if name == "" {
		return false
	}
	p, err := readPreset(name)
	return err != nil || p.sha256 != sha256 // a preset that is gone has changed
}
