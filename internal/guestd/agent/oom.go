package agent

import (
	"fmt"
	"os"
	"sync"
)

// oomScore is the agent's /proc/self/oom_score_adj, kept open. The zero value changes nothing.
type oomScore struct {
	mu   sync.Mutex // held while the score is lent
	file *os.File
}

// Protect keeps the kernel from ending the agent when memory runs out, for nobody would start it
// again. The processes of Exec are not protected. It is called before Serve.
func (s *Server) Protect() error {
	f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("protect agent: %w", err)
	}
	s.oom.file = f
	return s.oom.set("-1000")
}

// lend runs start with an ordinary score. Children inherit it at fork, so that to set it afterwards
// would miss their own children.
func (o *oomScore) lend(start func() error) error {
	if o.file == nil {
		return start()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.set("0"); err != nil {
		return err
	}
	err := start()
	if back := o.set("-1000"); err == nil && back != nil {
		return back
	}
	return err
}

func (o *oomScore) set(score string) error {
	if _, err := o.file.WriteAt([]byte(score), 0); err != nil {
		return fmt.Errorf("set OOM score: %w", err)
	}
	return nil
}
