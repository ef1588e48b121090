// Package kernel makes and keeps kernel bundles: a kernel to boot, the modules its initrd needs,
// and all its modules as a read-only drive.
//
// A bundle is a folder that is made once, named by its content, and never written again:
//
//	vmlinux        ELF, booted directly (Firecracker's API takes nothing else on x86-64)
//	initrd.cpio    folders and /modules of the initrd, without /init; before them what a user's own initrd holds
//	modules.ext4   read-only drive, label banger-modules; its root is what /lib/modules holds. Without it the guest has
//	               the modules that its image has
//	manifest.json  Manifest
//
// The guest's init is not part of it: Initrd joins the two when a VM starts.
package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"banger/internal/disk"
)

// Names of a bundle's files.
const (
	vmlinuxName  = "vmlinux"
	initrdName   = "initrd.cpio"
	modulesName  = "modules.ext4"
	manifestName = "manifest.json"
)

const manifestVersion = 1

// Manifest describes a bundle. Its files are those that are hashed.
type Manifest struct {
	Version   int         `json:"version"` // of this format
	Name      string      `json:"name"`    // what was asked for, such as debian:trixie
	Release   string      `json:"release"` // as uname -r prints it
	Source    string      `json:"source"`  // package, version and mirror it came from
	Files     []disk.File `json:"files"`
	CreatedAt time.Time   `json:"created_at"`
}

// ID returns the bundle's id: the sha256 of its files' hashes, in hex.
func (m Manifest) ID() string {
	sum := sha256.New()
	for _, f := range m.Files {
		fmt.Fprintf(sum, "%s  %s\n", f.SHA256, f.Name)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// SizeBytes returns the length of all files.
func (m Manifest) SizeBytes() int64 {
	var sum int64
	for _, f := range m.Files {
		sum += f.SizeBytes
	}
	return sum
}

// Bundle is a bundle on disk.
type Bundle struct {
	Dir string
	Manifest
}

// Load reads the bundle in dir without hashing its files.
func Load(dir string) (Bundle, error) {
	b := Bundle{Dir: dir}
	if err := disk.ReadManifest(filepath.Join(dir, manifestName), &b.Manifest); err != nil {
		return Bundle{}, err
	}
	if err := b.check(); err != nil {
		return Bundle{}, fmt.Errorf("read manifest of kernel: %w: %w", disk.ErrDamaged, err)
	}
	return b, nil
}

// check refuses a manifest of another version or of other files than a bundle has.
func (m Manifest) check() error {
	if m.Version != manifestVersion || len(m.Files) > len(bundleFiles) || len(m.Files) < len(bundleFiles)-1 {
		return fmt.Errorf("version %d, %d files", m.Version, len(m.Files))
	}
	for i, f := range m.Files {
		if f.Name != bundleFiles[i] || f.SizeBytes <= 0 || f.SizeBytes > maxBundleFileBytes {
			return fmt.Errorf("file %.80q of %d bytes", f.Name, f.SizeBytes)
		}
	}
	return nil
}

// maxBundleFileBytes bounds each file; all modules of a distribution's kernel are half a GiB.
const maxBundleFileBytes = 4 << 30

// bundleFiles are the hashed files, in the manifest's order. The last one may be missing.
var bundleFiles = []string{vmlinuxName, initrdName, modulesName}

// seal hashes the files of a filled folder and writes its manifest.
func seal(ctx context.Context, dir string, m Manifest) (Manifest, error) {
	m.Version, m.Files = manifestVersion, nil
	if m.CreatedAt.IsZero() {
		m.CreatedAt = time.Now().UTC().Truncate(time.Second)
	}
	for _, name := range bundleFiles {
		file, err := disk.Describe(ctx, dir, name)
		if name == modulesName && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Manifest{}, err
		}
		m.Files = append(m.Files, file)
	}
	return m, disk.WriteManifest(filepath.Join(dir, manifestName), m)
}
