package api

// ProgressState says where a stage of long work stands.
type ProgressState string

// All states of a stage.
const (
	ProgressRunning ProgressState = "running" // started, or advanced
	ProgressDone    ProgressState = "done"    // ended well
	ProgressFailed  ProgressState = "failed"  // ended with an error; the request's own error follows
)

// Progress is one event of long work: a stage began, advanced or ended.
// Stages of one request may overlap; Stage names are unique within it.
type Progress struct {
	Stage      string        `json:"stage"`                 // what is done, as a user reads it: "download kernel"
	State      ProgressState `json:"state"`                 //
	DoneBytes  int64         `json:"done_bytes,omitempty"`  // so far
	TotalBytes int64         `json:"total_bytes,omitempty"` // 0 when unknown
	// a few words shown beside the stage, such as a package's name
	Detail    string `json:"detail,omitempty"`
	ElapsedMS int64  `json:"elapsed_ms"` // since the stage began
}
