package fcqemu

// The bodies of Firecracker's API, as firecracker.yaml of its release 1.16.1 describes them.
// Pointers are optional fields; GET /vm/config shows them as null.

type bootSource struct {
	KernelImagePath string  `json:"kernel_image_path"`
	InitrdPath      *string `json:"initrd_path"`
	BootArgs        *string `json:"boot_args"`
}

type machineConfig struct {
	VCPUCount       uint8        `json:"vcpu_count"`
	MemSizeMiB      uint64       `json:"mem_size_mib"`
	SMT             bool         `json:"smt" default:"yes"`
	CPUTemplate     *cpuTemplate `json:"cpu_template,omitempty"`
	TrackDirtyPages bool         `json:"track_dirty_pages" default:"yes"`
	HugePages       hugePages    `json:"huge_pages" default:"yes"`
}

type machineConfigPatch struct {
	VCPUCount       *uint8       `json:"vcpu_count"`
	MemSizeMiB      *uint64      `json:"mem_size_mib"`
	SMT             *bool        `json:"smt"`
	CPUTemplate     *cpuTemplate `json:"cpu_template"`
	TrackDirtyPages *bool        `json:"track_dirty_pages"`
	HugePages       *hugePages   `json:"huge_pages"`
}

type cpuTemplate string

func (cpuTemplate) variants() []string {
	return []string{"C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"}
}

type hugePages string

func (hugePages) variants() []string { return []string{"None", "2M"} }

type drive struct {
	DriveID      string       `json:"drive_id"`
	PartUUID     *string      `json:"partuuid"`
	IsRootDevice bool         `json:"is_root_device"`
	CacheType    cacheType    `json:"cache_type" default:"yes"`
	IsReadOnly   *bool        `json:"is_read_only"`
	PathOnHost   *string      `json:"path_on_host"`
	RateLimiter  *rateLimiter `json:"rate_limiter"`
	IOEngine     *ioEngine    `json:"io_engine"`
	Socket       *string      `json:"socket"`
}

type drivePatch struct {
	DriveID     string       `json:"drive_id"`
	PathOnHost  *string      `json:"path_on_host"`
	RateLimiter *rateLimiter `json:"rate_limiter"`
}

type cacheType string

func (cacheType) variants() []string { return []string{"Unsafe", "Writeback"} }

type ioEngine string

func (ioEngine) variants() []string { return []string{"Sync", "Async"} }

type rateLimiter struct {
	Bandwidth *tokenBucket `json:"bandwidth"`
	Ops       *tokenBucket `json:"ops"`
}

type tokenBucket struct {
	Size         uint64  `json:"size"`
	OneTimeBurst *uint64 `json:"one_time_burst"`
	RefillTime   uint64  `json:"refill_time"`
}

type networkInterface struct {
	IfaceID       string       `json:"iface_id"`
	HostDevName   string       `json:"host_dev_name"`
	GuestMAC      *string      `json:"guest_mac"`
	MTU           *uint16      `json:"mtu"`
	RxRateLimiter *rateLimiter `json:"rx_rate_limiter"`
	TxRateLimiter *rateLimiter `json:"tx_rate_limiter"`
}

type vsock struct {
	GuestCID uint32  `json:"guest_cid"`
	UDSPath  string  `json:"uds_path"`
	VsockID  *string `json:"vsock_id,omitempty"`
}

type entropy struct {
	RateLimiter *rateLimiter `json:"rate_limiter"`
}

type balloon struct {
	AmountMiB             uint32 `json:"amount_mib"`
	DeflateOnOOM          bool   `json:"deflate_on_oom"`
	StatsPollingIntervalS uint16 `json:"stats_polling_interval_s" default:"yes"`
	FreePageHinting       bool   `json:"free_page_hinting" default:"yes"`
	FreePageReporting     bool   `json:"free_page_reporting" default:"yes"`
}

type balloonPatch struct {
	AmountMiB uint32 `json:"amount_mib"`
}

type balloonStatsPatch struct {
	StatsPollingIntervalS uint16 `json:"stats_polling_interval_s"`
}

type serial struct {
	SerialOutPath *string      `json:"serial_out_path"`
	RateLimiter   *tokenBucket `json:"rate_limiter"`
}

type loggerConfig struct {
	LogPath       *string `json:"log_path"`
	Level         *string `json:"level"`
	ShowLevel     *bool   `json:"show_level"`
	ShowLogOrigin *bool   `json:"show_log_origin"`
	Module        *string `json:"module"`
}

type metricsConfig struct {
	MetricsPath string `json:"metrics_path"`
}

type action struct {
	ActionType actionType `json:"action_type"`
}

type actionType string

func (actionType) variants() []string {
	return []string{"FlushMetrics", "InstanceStart", "SendCtrlAltDel"}
}

type vmState struct {
	State vmStateName `json:"state"`
}

type vmStateName string

func (vmStateName) variants() []string { return []string{"Paused", "Resumed"} }

type instanceInfo struct {
	ID         string `json:"id"`
	State      string `json:"state"`
	VMMVersion string `json:"vmm_version"`
	AppName    string `json:"app_name"`
}

// vmConfig is GET /vm/config, and the file of --config-file.
type vmConfig struct {
	Balloon           *balloon           `json:"balloon"`
	BootSource        *bootSource        `json:"boot-source"`
	CPUConfig         *any               `json:"cpu-config"`
	Drives            []drive            `json:"drives"`
	Entropy           *entropy           `json:"entropy"`
	Logger            *loggerConfig      `json:"logger"`
	MachineConfig     *machineConfig     `json:"machine-config"`
	MemoryHotplug     *any               `json:"memory-hotplug"`
	Metrics           *metricsConfig     `json:"metrics"`
	MMDSConfig        *any               `json:"mmds-config"`
	NetworkInterfaces []networkInterface `json:"network-interfaces" default:"yes"`
	PMem              []any              `json:"pmem" default:"yes"`
	Vsock             *vsock             `json:"vsock"`
}
