package api

import "time"

// Image is a read-only root filesystem that VMs share.
type Image struct {
	ID        string    `json:"id"`   // sha256 of its filesystem, hex
	Name      string    `json:"name"` // such as debian:trixie
	Source    string    `json:"source"`
	SizeBytes int64     `json:"size_bytes"`
	CreatedAt time.Time `json:"created_at"`
	Dir       string    `json:"dir"`
	UsedBy    []string  `json:"used_by,omitempty"` // names of the VMs that use it
}

// Kernel is a kernel bundle: vmlinux, what the initrd needs, and modules.
type Kernel struct {
	ID        string    `json:"id"` // sha256 of its manifest, hex
	Name      string    `json:"name"`
	Release   string    `json:"release"` // as `uname -r` prints it
	Source    string    `json:"source"`
	SizeBytes int64     `json:"size_bytes"`
	CreatedAt time.Time `json:"created_at"`
	Dir       string    `json:"dir"`
	UsedBy    []string  `json:"used_by,omitempty"`
}

// PullKernel asks for a kernel bundle; an existing one of the same content is kept.
type PullKernel struct {
	Source string `json:"source"` // debian:SUITE
}
