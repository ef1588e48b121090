// Package image makes and keeps images: root filesystems that many VMs share, read-only.
//
// An image is a folder that is made once, named by its content, and never written again:
//
//	rootfs.ext4    read-only drive, label banger-image; of a registered image a symlink to the user's own file
//	manifest.json  Manifest
//
// Debian and Ubuntu images are built by the host's mmdebstrap, without root, and become a filesystem while they stream;
// others come from registries and archives (package oci).
package image

import (
	"fmt"
	"path/filepath"
	"time"

	"banger/api"
	"banger/internal/disk"
)

// Names of an image's files.
const (
	rootfsName   = "rootfs.ext4"
	manifestName = "manifest.json"
)

// manifestVersion is the newest; version 1 lacks what version 2 added.
const manifestVersion = 2

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

	// Since version 2.
	Preset       string             `json:"preset,omitempty"`        // of `image build`
	PresetSHA256 string             `json:"preset_sha256,omitempty"` // of its list at that time, hex
	InputsSHA256 string             `json:"inputs_sha256,omitempty"` // of what else it was built from, hex
	Services     []api.ImageService `json:"services,omitempty"`      // that its VMs offer
	Origin       string             `json:"origin,omitempty"`        // of a pull: what it was made of, see convert
	Kernel       string             `json:"kernel,omitempty"`        // id of the kernel bundle that it names
	Defaults     api.ImageDefaults  `json:"defaults,omitzero"`       // for commands in its VMs
	UUID         string             `json:"uuid,omitempty"`          // of the filesystem, 32 hex digits, when its label is another than banger-image
	InPlace      string             `json:"in_place,omitempty"`      // where its file is when it is only registered; rootfs.ext4 is a symlink to it
}

// files returns the hashed files of the image.
func (m Manifest) files() []disk.File {
	return []disk.File{{Name: rootfsName, SizeBytes: m.SizeBytes, SHA256: m.ID}}
}

// load reads the manifest in an image's folder.
func load(dir string) (Manifest, error) {
	var m Manifest
	if err := disk.ReadManifest(filepath.Join(dir, manifestName), &m); err != nil {
		return Manifest{}, err
	}
	if m.Version < 1 || m.Version > manifestVersion {
		return Manifest{}, fmt.Errorf("read manifest of image: %w: version %d", disk.ErrDamaged, m.Version)
	}
	return m, nil
}
