package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guestd/smallfile"
)

// laterMark stands in the load order between what the boot waits for and what it does not; package
// kernel writes it.
const laterMark = "# later"

// loadModules loads the initramfs's modules in their order, those behind the mark beside the steps
// that follow. A module that does not load is only told: it may be built in or loaded already, and
// what it was needed for says so by itself.
func (s *state) loadModules(context.Context) error {
	order, err := smallfile.Read(filepath.Join(initramfs, "order"), maxOrderBytes)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel with all of it built in
	}
	if err != nil {
		return err
	}
	now, later, _ := strings.Cut(string(order), laterMark)
	s.loadAll(now)
	s.loading.Go(func() { s.loadAll(later) })
	return nil
}

// maxOrderBytes is far above what a few dozen names take.
const maxOrderBytes = 64 << 10

// finishModules waits for the modules that load beside: the network needs some, and the initramfs
// that they come from is about to be freed.
func (s *state) finishModules(context.Context) error {
	s.loading.Wait()
	return nil
}

func (s *state) loadAll(names string) {
	for name := range strings.FieldsSeq(names) {
		if err := loadModule(filepath.Join(initramfs, filepath.Base(name))); err != nil {
			s.log.Warn("load module", "module", name, "err", err)
		}
	}
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// mountModules puts the modules drive over the root's lib/modules, which in a merged-usr image is
// below usr.
func (s *state) mountModules(context.Context) error {
	if s.disks.Modules == "" {
		s.log.Warn("no modules drive: modules can not be loaded later", "label", LabelModules)
		return nil
	}
	target, err := makeInRoot(newRoot, "/lib/modules", 0o755)
	if err != nil {
		return err
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := (mount{s.disks.Modules, target, "ext4", flags, ""}).do(); err != nil {
		return fmt.Errorf("modules drive: %w", err)
	}
	return nil
}
