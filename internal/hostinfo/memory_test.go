package hostinfo

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

func TestMemoryOfProcesses(t *testing.T) {
	mine, err := ProcessRSSBytes(os.Getpid())
	if err != nil || mine < 1<<20 {
		t.Fatalf("ProcessRSSBytes = %d, %v", mine, err)
	}
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	own, err := ProcessRSSBytes(child.Process.Pid)
	if err != nil || own <= 0 {
		t.Errorf("ProcessRSSBytes of the child = %d, %v", own, err)
	}
	if tree, err := TreeRSSBytes(os.Getpid()); err != nil || tree < own {
		t.Errorf("TreeRSSBytes = %d, %v; want the child's %d and more", tree, err, own)
	}
	const noProcess = 1 << 30
	if gone, err := TreeRSSBytes(noProcess); gone != 0 || err != nil {
		t.Errorf("TreeRSSBytes of nobody = %d, %v", gone, err)
	}
	if _, err := ProcessRSSBytes(noProcess); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ProcessRSSBytes of nobody = %v", err)
	}
}
