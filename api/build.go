package api

// BuildImage asks for an image that is made inside a throw-away machine. Zero values mean the
// daemon's settings.
type BuildImage struct {
	Name     string   `json:"name"`
	From     string   `json:"from,omitempty"`     // the source image; the configured default image
	Preset   Preset   `json:"preset,omitempty"`   // base is the default
	Packages []string `json:"packages,omitempty"` // besides the preset's
	Docker   bool     `json:"docker,omitempty"`   //
	// of the root while it is built, 8 GiB; not less than the source. The image takes what it needs
	SizeMiB int `json:"size_mib,omitempty"`
	// absolute paths on the host, run in the machine as root, in this order
	Scripts       []string    `json:"scripts,omitempty"`
	Files         []BuildFile `json:"files,omitempty"`      // copied before the scripts run
	CPUs          int         `json:"cpus,omitempty"`       // of the machine; the configured ones
	MemoryMiB     int         `json:"memory_mib,omitempty"` //
	KeepOnFailure bool        `json:"keep_on_failure,omitempty"`
	// build also when the image of that name was made from the same inputs
	Force bool `json:"force,omitempty"`

	// Sources is where downloads come from, by the names of the settings sources.*; the rest is as
	// the daemon has it.
	Sources map[string]string `json:"sources,omitempty"`
	// of the machine, when the source image names none
	KernelDefault string `json:"kernel_default,omitempty"`
	// The machine's timeouts, as StartMachine and StopMachine have them.
	BootTimeoutMS int64 `json:"boot_timeout_ms,omitempty"`
	StopTimeoutMS int64 `json:"stop_timeout_ms,omitempty"`
}

// Preset is what a build installs before what it is asked for.
type Preset string

// All presets.
const (
	PresetBase  Preset = "base"
	PresetDev   Preset = "dev"
	PresetAgent Preset = "agent"
)

// Presets are all of them, the smallest first, each with what it adds to the one before. The first
// is that of a build that names none.
var Presets = []struct {
	Name Preset
	Adds string
}{
	{PresetBase, "what one logs in to"},
	{PresetDev, "compilers, tmux and mise"},
	{PresetAgent, "the coding agent opencode, as a service on port 4096"},
}

// BuildFile is a file or folder that goes into an image.
type BuildFile struct {
	Host  string `json:"host"`  // absolute path
	Guest string `json:"guest"` // absolute path; with a slash at its end, the folder it goes into
}

// BuildLog asks for what was said in the last build of an image.
type BuildLog struct {
	Image  string `json:"-" path:"image"`
	Follow bool   `json:"-" query:"follow"` // go on until that build ends
}
