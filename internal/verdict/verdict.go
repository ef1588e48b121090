// Package verdict keeps what a trial found out about this host, such as whether a guest boots under
// KVM, in a file. It holds until the host boots anew or something changes that the trial depended
// on.
package verdict

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/atomicfile"
)

// maxBytes bounds the file; a verdict has a few hundred bytes.
const maxBytes = 64 << 10

// File is where the verdict of a trial is kept, and what it depends on. It is safe for concurrent
// use, also by several processes: of verdicts that are kept at once one stays.
type File[T any] struct {
	Path string
	Key  string // all that the trial depends on, besides this run of the host's kernel
}

// kept is the file's content.
type kept[T any] struct {
	BootID  string `json:"boot_id"`
	Key     string `json:"key"`
	Verdict T      `json:"verdict"`
}

// Load returns the kept verdict. A file that cannot be understood is taken for one that is not
// there.
func (f File[T]) Load() (T, bool) {
	var none T
	file, err := os.Open(f.Path)
	if err != nil {
		return none, false
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxBytes))
	if err != nil {
		return none, false
	}
	boot, err := bootID()
	if err != nil {
		return none, false
	}
	var k kept[T]
	if json.Unmarshal(text, &k) != nil || k.BootID != boot || k.Key != f.Key {
		return none, false
	}
	return k.Verdict, true
}

// Store keeps a verdict, and makes the file's folder when it is missing.
func (f File[T]) Store(v T) error {
	boot, err := bootID()
	if err != nil {
		return fmt.Errorf("keep verdict: %w", err)
	}
	text, err := json.Marshal(kept[T]{boot, f.Key, v})
	if err != nil {
		return fmt.Errorf("keep verdict: %w", err)
	}
	err = os.MkdirAll(filepath.Dir(f.Path), 0o700)
	if err == nil {
		err = atomicfile.Write(f.Path, text, 0o600, atomicfile.Volatile)
	}
	if err != nil {
		return fmt.Errorf("keep verdict: %w", err)
	}
	return nil
}

// bootID is the identity of this run of the host's kernel (proc_sys_kernel(5), random/boot_id); a
// variable for tests.
var bootID = func() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	if len(id) == 0 {
		return "", errors.New("read boot id: it is empty")
	}
	return strings.TrimSpace(string(id)), nil
}
