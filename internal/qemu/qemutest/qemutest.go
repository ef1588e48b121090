// Package qemutest gives tests a real kernel and a guest for it.
//
// The kernel comes from the environment: BANGER_TEST_VMLINUX is the ELF of Debian's
// linux-image-cloud-amd64, BANGER_TEST_MODULES its lib/modules/<version> folder. The guest is the
// program in qemutest/guest, started as /init: it loads the virtio modules and serves commands on
// vsock port [Port].
package qemutest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/therootcompany/xz"
)

// Port is where the guest serves.
const Port = 52

// BootArgs make the test guest boot fast and end at once on a panic.
const BootArgs = "console=ttyS0 reboot=k panic=-1 cryptomgr.notests"

// modules are what the guest needs, without what they depend on.
var modules = []string{"virtio_blk", "virtio_net", "virtio_balloon", "virtio-rng", "virtio_mmio"}

// Kernel returns the path of the vmlinux.
func Kernel(t testing.TB) string { return env(t, "BANGER_TEST_VMLINUX") }

func env(t testing.TB, name string) string {
	t.Helper()
	path := os.Getenv(name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s must name a file or folder of a Debian cloud kernel; make test sets it: %v", name, err)
	}
	return path
}

var initrd = sync.OnceValues(build)

// Initrd returns the guest's initrd. It is built once per test process, in a temporary folder that
// outlives the test.
func Initrd(t testing.TB) string {
	t.Helper()
	env(t, "BANGER_TEST_MODULES")
	image, err := initrd()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "initrd.cpio")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func build() ([]byte, error) {
	dir, err := os.MkdirTemp("", "qemutest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "init")
	compile := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, "banger/internal/qemu/qemutest/guest")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	if out, err := compile.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build guest: %w: %s", err, out)
	}
	var image bytes.Buffer
	w := cpio.NewWriter(&image)
	for _, folder := range []string{"dev", "proc", "sys", "modules"} {
		if err := w.WriteHeader(&cpio.Header{Name: folder, Mode: cpio.TypeDir | 0o755}); err != nil {
			return nil, err
		}
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	if err := add(w, "init", content); err != nil {
		return nil, err
	}
	if err := addModules(w, os.Getenv("BANGER_TEST_MODULES")); err != nil {
		return nil, err
	}
	return image.Bytes(), w.Close()
}

func add(w *cpio.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | 0o755, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// addModules adds the modules and what they depend on, numbered in the order of loading.
func addModules(w *cpio.Writer, folder string) error {
	paths := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(d.Name(), ".ko"); ok {
			paths[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	var order []string
	for _, name := range modules {
		if err := resolve(strings.ReplaceAll(name, "-", "_"), paths, &order); err != nil {
			return err
		}
	}
	for i, name := range order {
		content, err := readModule(paths[name])
		if err != nil {
			return err
		}
		if err := add(w, fmt.Sprintf("modules/%02d-%s.ko", i, name), content); err != nil {
			return err
		}
	}
	return nil
}

// resolve appends name to order, behind what the module says it depends on. A module that has no
// file is built into the kernel.
func resolve(name string, paths map[string]string, order *[]string) error {
	if paths[name] == "" || slices.Contains(*order, name) {
		return nil
	}
	content, err := readModule(paths[name])
	if err != nil {
		return err
	}
	if _, info, ok := bytes.Cut(content, []byte("\x00depends=")); ok {
		depends, _, _ := bytes.Cut(info, []byte{0})
		for dependency := range strings.SplitSeq(string(depends), ",") {
			if err := resolve(strings.ReplaceAll(dependency, "-", "_"), paths, order); err != nil {
				return err
			}
		}
	}
	*order = append(*order, name)
	return nil
}

func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !strings.HasSuffix(path, ".xz") {
		return io.ReadAll(f)
	}
	r, err := xz.NewReader(f, 0)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", path, err)
	}
	return io.ReadAll(r)
}
