package boot

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Record is what a boot leaves behind for the agent, in RecordPath.
type Record struct {
	Init   string  `json:"init"`   // kind of the init, as Init.Kind
	Stages []Stage `json:"stages"` // in the order in which they ran
}

// Stage is one step of the boot order.
type Stage struct {
	Name     string        `json:"name"`
	Start    time.Duration `json:"start"` // since the kernel started
	Duration time.Duration `json:"duration"`
}

func (r *Record) add(name string, began, ended time.Duration) {
	r.Stages = append(r.Stages, Stage{Name: name, Start: began, Duration: ended - began})
}

func (r *Record) write(path string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode boot record: %w", err)
	}
	return os.WriteFile(path, b, 0o644)
}

// ReadRecord reads the record of this boot.
func ReadRecord(path string) (Record, error) {
	var r Record
	b, err := readBounded(path, 64<<10)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("decode %s: %w", path, err)
	}
	return r, nil
}
