package api

// Version is the number of this API; it stands in every path and in the Banger-API header of every
// answer.
const Version = 1

// VersionHeader carries Version in every answer.
const VersionHeader = "Banger-API"

// DaemonStatus is what the daemon says of itself.
type DaemonStatus struct {
	Version         string `json:"version"` // of the program, for people
	Build           string `json:"build"`   // identity of the binary: two builds differ
	API             int    `json:"api"`
	PID             int    `json:"pid"`
	Home            string `json:"home"`
	Socket          string `json:"socket"`
	UptimeMS        int64  `json:"uptime_ms"`
	Machines        int    `json:"machines"`
	RunningMachines int    `json:"running_machines"`
	RSSBytes        int64  `json:"rss_bytes"`
	// Settings are those that the daemon read when it started and works with until it ends.
	Settings []Setting `json:"settings"`
	// Draining says that the daemon is being replaced; then Left names the requests that it still
	// waits for.
	Draining bool     `json:"draining,omitempty"`
	Left     []string `json:"left,omitempty"`
}

// Setting is one setting's value and where it came from.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "default", the path of config.toml, or the variable's name
	// Pending is a value that counts as soon as the daemon that runs has been replaced, and
	// PendingOrigin where it came from. Both are empty when the value is as it should be.
	Pending       string `json:"pending,omitempty"`
	PendingOrigin string `json:"pending_origin,omitempty"`
}

// StopDaemon says how the daemon ends. Running machines are never touched.
type StopDaemon struct {
	// Drain lets what is under way go on. The daemon takes no new changes and ends when those under
	// way have; sessions that are open (exec, logs, run) go on in the old process until they end,
	// while a new daemon takes over everything else. Without it all of them are cut.
	Drain bool `json:"drain,omitempty"`
	// PurgeNetwork first takes down all that there is of the machines' network, and refuses while a
	// machine uses it.
	PurgeNetwork bool `json:"purge_network,omitempty"`
}

// Check is one thing the doctor looked at.
type Check struct {
	Name   string      `json:"name"`
	Status CheckStatus `json:"status"`
	Detail string      `json:"detail"`           // what is there
	Repair string      `json:"repair,omitempty"` // the exact command of the host that repairs it, or a sentence
	Remedy *Remedy     `json:"remedy,omitempty"` // the operation that does, in its place
}

// CheckStatus says how a check came out.
type CheckStatus string

// How a check can come out.
const (
	CheckOK      CheckStatus = "ok"
	CheckWarning CheckStatus = "warning" // banger works, something is slower or missing
	CheckFailed  CheckStatus = "failed"  // banger cannot run machines like this
)

// Event is one line of the stream with which long requests answer: progress and log, then exactly
// one Result or Error.
type Event[T any] struct {
	Progress *Progress `json:"progress,omitempty"`
	Log      string    `json:"log,omitempty"` // whole lines of what a guest says while it is worked in
	Result   *T        `json:"result,omitempty"`
	Error    *Error    `json:"error,omitempty"`
}
