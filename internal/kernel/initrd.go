package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cavaliergopher/cpio"

	"banger/internal/atomicfile"
	"banger/internal/disk"
)

// initrdAlignment is what an initrd's length is a multiple of. QEMU's microvm puts the initrd on
// the last pages of memory, over the ACPI tables its firmware keeps in the last KiB: a length that
// ends late in a page overwrites the DSDT, and the guest hangs at "ACPI: Core revision". For whole
// pages QEMU leaves the last page free.
const initrdAlignment = 4096

// Initrd returns the path of an initrd that runs the guest binary as /init, and makes it in
// cacheDir when it is not there. Its name tells its content (bundle and binary), so a new binary
// gives a new file and VMs that still use the old one keep it. It is not compressed: under
// emulation unpacking costs more than copying.
func (b Bundle) Initrd(ctx context.Context, guestBinary, cacheDir string) (string, error) {
	guest, _, err := disk.SHA256(ctx, guestBinary)
	if err != nil {
		return "", fmt.Errorf("make initrd: %w", err)
	}
	sum := sha256.Sum256([]byte(b.ID() + " " + guest))
	path := filepath.Join(cacheDir, "initrd-"+hex.EncodeToString(sum[:8])+".cpio")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return "", fmt.Errorf("make initrd: %w", err)
	}
	if err := b.writeInitrd(path, guestBinary); err != nil {
		return "", fmt.Errorf("make initrd: %w", err)
	}
	return path, nil
}

// writeInitrd joins two archives, which the kernel unpacks in turn: the bundle's part, and /init.
// The later one wins: a user's own initrd has an /init too.
func (b Bundle) writeInitrd(path, guestBinary string) error {
	init, err := os.ReadFile(guestBinary)
	if err != nil {
		return err
	}
	rest, err := os.Open(filepath.Join(b.Dir, initrdName))
	if err != nil {
		return err
	}
	defer rest.Close()
	var last bytes.Buffer
	if err := writeCPIO(&last, []cpioFile{{name: "init", mode: cpio.TypeReg | 0o755, data: init}}); err != nil {
		return err
	}
	return atomicfile.Fill(path, 0o644, atomicfile.Durable, func(out *os.File) error {
		n, err := io.Copy(out, io.MultiReader(rest, &last))
		if err != nil {
			return err
		}
		// What is behind is zeroes, which the kernel skips.
		return out.Truncate((n + initrdAlignment - 1) / initrdAlignment * initrdAlignment)
	})
}

// cpioFile is one entry of an initrd.
type cpioFile struct {
	name string
	mode cpio.FileMode
	data []byte
}

// bundleInitrd returns the bundle's part of the initrd: empty mount points, and the modules with
// their load order.
func bundleInitrd(releaseDir string, modules []module) ([]byte, error) {
	files := []cpioFile{}
	for _, dir := range []string{"dev", "proc", "sys", "run", "modules"} {
		files = append(files, cpioFile{name: dir, mode: cpio.TypeDir | 0o755})
	}
	var order bytes.Buffer
	for i, m := range modules {
		if m.later && (i == 0 || !modules[i-1].later) {
			fmt.Fprintln(&order, laterMark)
		}
		data, err := readModule(releaseDir, m)
		if err != nil {
			return nil, err
		}
		files = append(files, cpioFile{name: "modules/" + m.name + ".ko", mode: cpio.TypeReg | 0o644, data: data})
		fmt.Fprintln(&order, m.name+".ko")
	}
	files = append(files, cpioFile{name: "modules/order", mode: cpio.TypeReg | 0o644, data: order.Bytes()})
	var out bytes.Buffer
	if err := writeCPIO(&out, files); err != nil {
		return nil, fmt.Errorf("write initrd: %w", err)
	}
	return out.Bytes(), nil
}

// writeCPIO writes a newc archive that ends at a multiple of 512 bytes, owned by root and dated
// 1970, so that the same files give the same bytes.
func writeCPIO(out *bytes.Buffer, files []cpioFile) error {
	w := cpio.NewWriter(out)
	for i, f := range files {
		h := &cpio.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Inode: int64(i + 1), Links: 1, ModTime: time.Unix(0, 0)}
		if f.mode.IsDir() {
			h.Links = 2
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(f.data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	out.Write(make([]byte, (512-out.Len()%512)%512))
	return nil
}
