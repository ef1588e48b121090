package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/cavaliergopher/cpio"
)

const pageSize = 4096

// makeInitrd builds the program in bench/serialguest as /init of an initrd at path, with the
// modules of a kernel bundle. Its size is a multiple of a page, which QEMU's microvm needs (see
// package kernel).
func makeInitrd(ctx context.Context, bundle, path string) error {
	program := path + ".init"
	compile := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "banger/bench/serialguest")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest's program: %w: %s", err, bytes.TrimSpace(out))
	}
	init, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("make initrd: %w", err)
	}
	modules, err := os.ReadFile(filepath.Join(bundle, "initrd.cpio"))
	if err != nil {
		return fmt.Errorf("make initrd: %w", err)
	}
	image, err := joinInitrd(init, modules)
	if err != nil {
		return fmt.Errorf("make initrd: %w", err)
	}
	return os.WriteFile(path, image, 0o600)
}

// joinInitrd puts an archive with /init before another, which the kernel unpacks in turn.
func joinInitrd(init, rest []byte) ([]byte, error) {
	var image bytes.Buffer
	w := cpio.NewWriter(&image)
	if err := w.WriteHeader(&cpio.Header{Name: "init", Mode: cpio.TypeReg | 0o755, Size: int64(len(init)), Links: 1}); err != nil {
		return nil, err
	}
	if _, err := w.Write(init); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	pad(&image, 512)
	image.Write(rest)
	pad(&image, pageSize)
	return image.Bytes(), nil
}

func pad(b *bytes.Buffer, unit int) { b.Write(make([]byte, (unit-b.Len()%unit)%unit)) }
