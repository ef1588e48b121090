package firecracker

// The types are the parts of Firecracker's API that banger uses, by the names of its description
// (src/firecracker/swagger/firecracker.yaml, version 1.16).

// State is where a microVM is.
type State string

// All states.
const (
	StateNotStarted State = "Not started"
	StateRunning    State = "Running"
	StatePaused     State = "Paused"
)

// InstanceInfo is the answer to GET /.
type InstanceInfo struct {
	AppName    string `json:"app_name"`
	ID         string `json:"id"`
	State      State  `json:"state"`
	VMMVersion string `json:"vmm_version"`
}

// MachineConfig is CPUs and memory.
type MachineConfig struct {
	VCPUCount  int `json:"vcpu_count"` // 1 to 32
	MemSizeMiB int `json:"mem_size_mib"`
}

// BootSource is what is booted. An empty BootArgs would mean Firecracker's own, which hold
// nomodule.
type BootSource struct {
	KernelImagePath string `json:"kernel_image_path"` // ELF
	InitrdPath      string `json:"initrd_path,omitempty"`
	BootArgs        string `json:"boot_args"`
}

// CacheType says whether the guest's flushes reach the host's disk.
type CacheType string

// Both types.
const (
	CacheUnsafe    CacheType = "Unsafe"    // they are dropped; Firecracker's default
	CacheWriteback CacheType = "Writeback" // they do
)

// Drive is a block device backed by a file.
type Drive struct {
	DriveID      string    `json:"drive_id"` // letters, digits and underscores
	PathOnHost   string    `json:"path_on_host"`
	IsRootDevice bool      `json:"is_root_device"`
	IsReadOnly   bool      `json:"is_read_only"`
	CacheType    CacheType `json:"cache_type,omitempty"`
}

// NetworkInterface is a network card on a tap, which the VMM opens by name.
type NetworkInterface struct {
	IfaceID     string `json:"iface_id"`
	HostDevName string `json:"host_dev_name"`
	GuestMAC    string `json:"guest_mac"`
}

// Vsock is the guest's vsock device; the host end is a unix socket.
type Vsock struct {
	GuestCID int    `json:"guest_cid"` // from 3 on
	UDSPath  string `json:"uds_path"`
}

// TokenBucket limits a rate: Size tokens are there at first and refill within RefillTimeMS.
type TokenBucket struct {
	Size         int64 `json:"size"`
	RefillTimeMS int64 `json:"refill_time"`
}

// Serial is where the console goes, and how much of it in what time; the rest is dropped. Since
// Firecracker 1.14, the limit since 1.16.
type Serial struct {
	SerialOutPath string       `json:"serial_out_path"`
	RateLimiter   *TokenBucket `json:"rate_limiter,omitempty"`
}

// Balloon is the memory balloon. AmountMiB is taken from the guest.
type Balloon struct {
	AmountMiB         int  `json:"amount_mib"`
	DeflateOnOOM      bool `json:"deflate_on_oom"`
	FreePageReporting bool `json:"free_page_reporting,omitempty"` // since Firecracker 1.14
}

// Entropy is the random device.
type Entropy struct{}

// action is the body of PUT /actions.
type action struct {
	ActionType string `json:"action_type"`
}
