package vm

import (
	"net/netip"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/config"
	"banger/internal/store"
)

// A machine made in another subnet does not start where nobody would reach it.
func TestCheckAddress(t *testing.T) {
	m := &Manager{config: config.Config{Subnet: netip.MustParsePrefix("10.2.0.0/16")}}
	for address, refused := range map[string]bool{"10.2.0.5": false, "10.3.0.5": true} {
		rec := &store.VM{Name: "web", Network: api.NetworkUser, Address: netip.MustParseAddr(address)}
		err := m.checkAddress(rec)
		if (err != nil) != refused || refused && (api.CodeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), address)) {
			t.Errorf("%s: %v", address, err)
		}
		rec.Network = api.NetworkNone
		if err := m.checkAddress(rec); err != nil {
			t.Errorf("%s without a network: %v", address, err)
		}
	}
}

// A record that says running, because its end could not be written, is not believed against the
// lock.
func TestRuns(t *testing.T) {
	m := &Manager{vmms: &runningVMMs{byID: map[string]*runningVMM{}}}
	x := &machine{rec: &store.VM{ID: "a", State: api.StateRunning}, dir: Dir(t.TempDir())}
	if runs, err := m.runs(x); runs || err != nil {
		t.Errorf("with a free lock: %t, %v", runs, err)
	}
	held, err := tryLock(x.dir.Lock())
	if err != nil {
		t.Fatal(err)
	}
	if runs, err := m.runs(x); !runs || err != nil {
		t.Errorf("with a lock that is held: %t, %v", runs, err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	x.rec.State = api.StateStopped
	if runs, err := m.runs(x); runs || err != nil {
		t.Errorf("stopped: %t, %v", runs, err)
	}
}
