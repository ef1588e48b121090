package netcfg

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// plugCard makes a folder as /sys/class/net has it.
func plugCard(t *testing.T, sysNet, name, driver string) {
	t.Helper()
	device := filepath.Join(sysNet, name, "device")
	if err := os.MkdirAll(device, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../bus/virtio/drivers/"+driver, filepath.Join(device, "driver")); err != nil {
		t.Fatal(err)
	}
}

func TestWaitCard(t *testing.T) {
	tests := []struct {
		name          string
		cards         map[string]string
		want, wantErr string
	}{
		{"One", map[string]string{"eth0": "virtio_net"}, "eth0", ""},
		{"First", map[string]string{"eth0": "virtio_net", "eth1": "virtio_net"}, "eth0", ""},
		{"OtherDriver", map[string]string{"eth0": "e1000", "eth1": "virtio_net"}, "eth1", ""},
		{"ErrNone", map[string]string{"eth0": "e1000"}, "", "no virtio-net card (there is: eth0, lo)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sysNet := t.TempDir()
			if err := os.Mkdir(filepath.Join(sysNet, "lo"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, driver := range tt.cards {
				plugCard(t, sysNet, name, driver)
			}
			got, err := waitCard(t.Context(), sysNet, time.Millisecond)
			checkErr(t, err, tt.wantErr)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A card that appears late is found, and the end of the context ends the wait.
func TestWaitCardLate(t *testing.T) {
	sysNet := t.TempDir()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := waitCard(cancelled, sysNet, time.Hour)
	checkErr(t, err, "no virtio-net card")
	done := make(chan string, 1)
	go func() {
		card, _ := waitCard(t.Context(), sysNet, time.Minute)
		done <- card
	}()
	plugCard(t, sysNet, "eth0", "virtio_net")
	if card := <-done; card != "eth0" {
		t.Errorf("got %q, want eth0", card)
	}
}
