package system

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"banger/internal/guestd/smallfile"
)

// maxRecordBytes is far above what the dozen stages of a boot take.
const maxRecordBytes = 64 << 10

// Record is what a boot leaves behind for the agent, in RecordPath.
type Record struct {
	Init   string  `json:"init"`   // kind of the init: InitSystemd and its like
	Stages []Stage `json:"stages"` // in the order in which they ran
}

// Stage is one step of the boot order.
type Stage struct {
	Name     string        `json:"name"`
	Start    time.Duration `json:"start"` // since the kernel started
	Duration time.Duration `json:"duration"`
}

// Add appends a stage that has ended.
func (r *Record) Add(name string, began, ended time.Duration) {
	r.Stages = append(r.Stages, Stage{Name: name, Start: began, Duration: ended - began})
}

// Write leaves the record at path.
func (r *Record) Write(path string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode boot record: %w", err)
	}
	return os.WriteFile(path, b, 0o644)
}

// ReadRecord reads the record of this boot.
func ReadRecord(path string) (Record, error) {
	var r Record
	b, err := smallfile.Read(path, maxRecordBytes)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("decode %s: %w", path, err)
	}
	return r, nil
}
