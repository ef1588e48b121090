// Package image makes and keeps images: root filesystems that many VMs share, read-only.
//
// An image is a folder that is made once, named by its content, and never written again:
//
//	rootfs.ext4    read-only drive, label banger-image
//	manifest.json  Manifest
//
// Debian images are built by the host's mmdebstrap, without root, and become a filesystem while they stream.
package image

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
	"banger/internal/debian"
	"banger/internal/disk"
)

// Names of an image's files.
const (
	rootfsName   = "rootfs.ext4"
	manifestName = "manifest.json"
)

const manifestVersion = 1

// Manifest describes an image.
type Manifest struct {
	Version      int       `json:"version"`      // of this format
	ID           string    `json:"id"`           // sha256 of the root filesystem, hex
	Name         string    `json:"name"`         // what was asked for, such as debian:trixie
	Source       string    `json:"source"`       // mirror and tool it was made with
	Architecture string    `json:"architecture"` // as Debian names it
	Packages     []string  `json:"packages"`     // "name version", by name
	SizeBytes    int64     `json:"size_bytes"`   // of the root filesystem
	CreatedAt    time.Time `json:"created_at"`
}

// file returns the hashed file of the image.
func (m Manifest) file() disk.File {
	return disk.File{Name: rootfsName, SizeBytes: m.SizeBytes, SHA256: m.ID}
}

func load(dir string) (Manifest, error) {
	var m Manifest
	if err := disk.ReadManifest(filepath.Join(dir, manifestName), &m); err != nil {
		return Manifest{}, err
	}
	if m.Version != manifestVersion {
		return Manifest{}, fmt.Errorf("read manifest of image: %w: version %d", disk.ErrDamaged, m.Version)
	}
	return m, nil
}

// sourcePrefix begins the only kind of source there is.
const sourcePrefix = "debian:"

// suiteOf returns the suite in a source "debian:SUITE".
func suiteOf(source string) (string, error) {
	suite, ok := strings.CutPrefix(source, sourcePrefix)
	if !ok {
		return "", api.Errorf(api.CodeUnsupported, "images of %q can not be built", source).WithHint("images are debian:SUITE, for example debian:trixie")
	}
	return suite, debian.CheckSuite(suite)
}
