package guestd

import (
	"bytes"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"Version", []string{"version"}, 0, "1.2.3\n"},
		{"ErrByHand", nil, 1, "banger-guest: this program boots a banger machine as its /init"},
		{"ErrAgentOutsideOfVM", []string{"agent"}, 1, "banger-guest: read boot record: open /run/banger/boot.json"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := Run(t.Context(), Process{Args: tt.args, PID: 2, Build: "1.2.3", Stderr: &stderr})
			if code != tt.code || !strings.HasPrefix(stderr.String(), tt.want) {
				t.Errorf("got %d, %q, want %d, %q", code, stderr.String(), tt.code, tt.want)
			}
		})
	}
}
