// Package build says which build of banger this is.
package build

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
)

// Version returns the release, for people: the module's version, or the commit of a development
// build.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

// ID returns the identity of this binary: two builds of different code or with different flags
// differ. It is the linker's build id (cmd/internal/buildid), read from the ELF note of the running
// program.
var ID = sync.OnceValues(func() (string, error) {
	file, err := elf.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("read build id: %w", err)
	}
	defer file.Close()
	note := file.Section(".note.go.buildid")
	if note == nil {
		return "", fmt.Errorf("read build id: %s has none", os.Args[0])
	}
	data, err := note.Data()
	if err != nil {
		return "", fmt.Errorf("read build id: %w", err)
	}
	// An ELF note: name size, descriptor size, type (4 bytes each), name "Go\x00\x00", descriptor.
	const header = 16
	if len(data) < header || !bytes.HasPrefix(data[12:], []byte("Go\x00\x00")) {
		return "", fmt.Errorf("read build id: unexpected note of %d bytes", len(data))
	}
	return string(bytes.TrimRight(data[header:], "\x00")), nil
})
