package api

import "time"

// Image is a read-only root filesystem that machines share.
type Image struct {
	ID           string         `json:"id"`              // sha256 of its content, hex
	Name         string         `json:"name"`            // the first of Names, or the id when it has none
	Names        []string       `json:"names,omitempty"` // all, the oldest first, such as debian:trixie
	Source       string         `json:"source"`
	Architecture string         `json:"architecture,omitempty"` // as Debian names it
	Preset       string         `json:"preset,omitempty"`       // that it was built with
	PresetSHA256 string         `json:"preset_sha256,omitempty"`
	InputsSHA256 string         `json:"inputs_sha256,omitempty"` // of what else it was built from
	Stale        bool           `json:"stale,omitempty"`         // its preset has changed since
	Packages     []string       `json:"packages,omitempty"`      // "name version", by name
	Services     []ImageService `json:"services,omitempty"`
	Defaults     ImageDefaults  `json:"defaults,omitzero"`
	// the kernel that it names; its machines boot it unless they name another
	KernelID  string `json:"kernel_id,omitempty"`
	SizeBytes int64  `json:"size_bytes"` // length of its filesystem, which may be sparse
	// OwnBytes and SharedBytes are what its filesystem takes on the host. Shared is what does not
	// come back when the image is removed, as far as the host's filesystem tells: all of a file
	// with more than one hard link, the extents that a reflink shares, and a registered image's
	// file.
	OwnBytes    int64     `json:"own_bytes"`
	SharedBytes int64     `json:"shared_bytes"`
	CreatedAt   time.Time `json:"created_at"`
	Dir         string    `json:"dir"`
	// of a registered image: its file, which banger neither writes nor removes
	InPlace string   `json:"in_place,omitempty"`
	UsedBy  []string `json:"used_by,omitempty"` // names of the machines that use it
	Error   string   `json:"error,omitempty"`   // why some of this is missing
}

// ImageService is something that an image's machines offer on a TCP port of theirs.
type ImageService struct {
	Name string `json:"name"`
	Port int    `json:"port"`
	Path string `json:"path,omitempty"` // of its URL, when it speaks HTTP
	// Health is a path that it answers as soon as it is ready for others.
	Health string `json:"health,omitempty"`
}

// ImageDefaults are what an image says of the commands run in its machines; empty fields say
// nothing.
type ImageDefaults struct {
	Env        []string `json:"env,omitempty"` // K=V
	WorkDir    string   `json:"workdir,omitempty"`
	User       string   `json:"user,omitempty"`       // name or id, and :group if it is given
	Entrypoint []string `json:"entrypoint,omitempty"` // stands before the command
	Cmd        []string `json:"cmd,omitempty"`        // the command when none is given
}

// PullImage asks for an image. One of a distribution is built anew, another one made unless it was
// pulled before; another image that has the name loses it.
type PullImage struct {
	// oci:REFERENCE, docker-archive:FILE, tar:FILE (absolute paths), debian:SUITE or ubuntu:SUITE
	Source string `json:"source"`
	Name   string `json:"name,omitempty"` // empty: the source, or a file's name without its suffixes
}

// ImageRef names an image.
type ImageRef struct {
	Image string `json:"-" path:"image"` // one of its names, or a unique prefix of its id
}

// TagImage gives an image one more name.
type TagImage struct {
	Image string `json:"-" path:"image"`
	Name  string `json:"name"`
}

// Kernel is a kernel bundle: vmlinux, what the initrd needs, and modules.
type Kernel struct {
	ID        string    `json:"id"`              // sha256 of its manifest, hex
	Name      string    `json:"name"`            // the first of Names, or the id when it has none
	Names     []string  `json:"names,omitempty"` // all, the oldest first
	Release   string    `json:"release"`         // as `uname -r` prints it
	Source    string    `json:"source"`
	SizeBytes int64     `json:"size_bytes"`
	CreatedAt time.Time `json:"created_at"`
	Dir       string    `json:"dir"`
	UsedBy    []string  `json:"used_by,omitempty"`
}

// PullKernel asks for a kernel bundle of the archive or of a URL. The same content keeps its
// bundle.
type PullKernel struct {
	Source string `json:"source"`           // debian:SUITE, or the URL of a .deb, a vmlinux or a bzImage
	SHA256 string `json:"sha256,omitempty"` // of the file behind the URL, hex
	Name   string `json:"name,omitempty"`   // default: the source, or the file's name in the URL
}

// ImportKernel asks for a kernel bundle of files of this host, by absolute path: Deb alone, or
// Vmlinux with an initrd and modules as one likes.
type ImportKernel struct {
	Name    string `json:"name,omitempty"`
	Deb     string `json:"deb,omitempty"`     // a linux-image package
	Vmlinux string `json:"vmlinux,omitempty"` // ELF or bzImage
	Initrd  string `json:"initrd,omitempty"`  // is unpacked before banger's own, whose /init wins
	// /lib/modules/RELEASE, or a folder that holds it; none means all built in
	Modules string `json:"modules,omitempty"`
}

// KernelRef names a kernel bundle.
type KernelRef struct {
	Kernel string `json:"-" path:"kernel"` // one of its names, or a unique prefix of its id
}

// RegisterImage asks for an image that stays where it is, by absolute paths.
type RegisterImage struct {
	Name   string        `json:"name"`
	Rootfs string        `json:"rootfs"`           // an ext4 filesystem
	Kernel *ImportKernel `json:"kernel,omitempty"` // that it names; without a name of its own
}

// LoadImage says what to call the image of an archive.
type LoadImage struct {
	Name string `json:"-" query:"name"` // empty: as the archive calls it
}

// Prune asks for what nobody can name or uses to be deleted.
type Prune struct {
	DryRun bool `json:"-" query:"dry_run"` // only say what would go
}

// Pruned is what a prune removed, or would remove.
type Pruned struct {
	Removed    []string `json:"removed"` // ids
	FreedBytes int64    `json:"freed_bytes"`
	DryRun     bool     `json:"dry_run,omitempty"`
}
