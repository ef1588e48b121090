// Package image makes and keeps images: root filesystems that many VMs share, read-only.
//
// An image is a folder that is made once, named by its content, and never written again:
//
//	rootfs.ext4    read-only drive, label banger-image; of a registered image a symlink to the user's own file
//	manifest.json  Manifest
//
// Debian and Ubuntu images are built by the host's mmdebstrap, without root, and become a
// filesystem while they stream; others come from registries and archives (package oci).
package image

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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

// manifestVersion is the newest; older ones lack what later ones added.
const manifestVersion = 3

// Manifest describes an image.
type Manifest struct {
	Version      int       `json:"version"`      // of this format
	ID           string    `json:"id"`           // see identity
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
	Kernel       string             `json:"kernel,omitempty"`        // id of the kernel bundle that it names
	Defaults     api.ImageDefaults  `json:"defaults,omitzero"`       // for commands in its VMs
	// of the filesystem, 32 hex digits, when its label is another than banger-image
	UUID string `json:"uuid,omitempty"`
	// where its file is when it is only registered; rootfs.ext4 is a symlink to it
	InPlace string `json:"in_place,omitempty"`

	// Since version 3.
	RootfsSHA256 string `json:"rootfs_sha256,omitempty"` // hex; empty when it is the id
	Origin       string `json:"origin,omitempty"`        // of a pull: what it was made of, see convert
}

// rootfsSHA256 returns the hash of the root filesystem.
func (m Manifest) rootfsSHA256() string { return cmp.Or(m.RootfsSHA256, m.ID) }

// identity returns the id that an image has by its content: the hash of the root filesystem or,
// when it says anything of its VMs' kernel and commands, the hash of all that. Images that differ
// in their command alone are two images. Before version 3 every id was the hash of the root
// filesystem.
func (m Manifest) identity() (string, error) {
	defaults, err := json.Marshal(m.Defaults)
	if err != nil {
		return "", err
	}
	if m.Kernel == "" && string(defaults) == "{}" {
		return m.rootfsSHA256(), nil
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n", m.rootfsSHA256(), m.Kernel, defaults))
	return hex.EncodeToString(sum[:]), nil
}

// files returns the hashed files of the image.
func (m Manifest) files() []disk.File {
	return []disk.File{{Name: rootfsName, SizeBytes: m.SizeBytes, SHA256: m.rootfsSHA256()}}
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
