package uplink

import (
	"strings"
	"testing"
)

func TestIsPasta(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		line := "/usr/bin/pasta\x00" + strings.Join(pastaArguments(17, ipv6), "\x00") + "\x00"
		if !isPasta(line, 17) || isPasta(line, 18) || isPasta(line+"x\x00", 17) {
			t.Errorf("wrong about %q", line)
		}
	}
}
