package vm

import (
	"testing"

	homefolder "banger/internal/home"
)

// What package home takes for the longest path of a socket is it.
func TestLongestSocket(t *testing.T) {
	const h homefolder.Dir = "/h"
	d := Dir(h.VM("0123456789ab"))
	longest := max(len(d.APISocket()), len(d.VsockSocket()))
	if got := len(h.LongestSocket()); got != longest {
		t.Errorf("the longest path of a socket has %d bytes, package home says %d", longest, got)
	}
}
