package network

import (
	"strings"
	"testing"
)

func TestCheckHostServices(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ports []int
		words string // of the error; empty: fine
	}{
		{"None", nil, ""},
		{"OK", []int{1, 80, 65535}, ""},
		{"ErrZero", []int{0}, "no TCP port"},
		{"ErrNegative", []int{-1}, "no TCP port"},
		{"ErrLarge", []int{65536}, "no TCP port"},
		{"ErrDNS", []int{53}, "name server"},
		{"ErrTwice", []int{80, 81, 80}, "80 is named twice"},
		{"ErrMany", make([]int, maxHostServices+1), "at most 64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckHostServices(tt.ports)
			if (err == nil) != (tt.words == "") || err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("CheckHostServices(%v) = %v, want %q", tt.ports, err, tt.words)
			}
		})
	}
}
