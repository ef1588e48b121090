package control

import (
	"testing"

	"golang.org/x/sys/unix"

	"banger/api"
)

func TestParseSignal(t *testing.T) {
	good := map[string]unix.Signal{
		"": unix.SIGKILL, "KILL": unix.SIGKILL, "SIGKILL": unix.SIGKILL, "kill": unix.SIGKILL, "sigterm": unix.SIGTERM, "9": unix.SIGKILL, "1": 1, "64": 64,
	}
	for text, want := range good {
		if got, err := parseSignal(text); got != want || err != nil {
			t.Errorf("parseSignal(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "65", "-9", "NONE", "SIG", "9 ", "9x"} {
		if got, err := parseSignal(text); api.CodeOf(err) != api.CodeInvalid || err == nil {
			t.Errorf("parseSignal(%q) = %v, %v; want invalid", text, got, err)
		}
	}
}
