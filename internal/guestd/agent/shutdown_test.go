package agent

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/guestd/system"
	agentv1 "banger/proto/agent/v1"
)

// ending is a server of a machine that only counts how it is ended.
type ending struct {
	*Server
	asks, resets atomic.Int32
	asked        error // what an init answers
	noReboot     bool  // as in an image without a reboot command
}

func newEnding(t *testing.T) *ending {
	t.Helper()
	e := &ending{Server: New(Config{
		Record: system.Record{Init: system.InitNone}, Root: "/",
		Log: slog.New(slog.DiscardHandler),
	})}
	t.Cleanup(func() { e.Close() })
	e.reset = func() error { e.resets.Add(1); return errors.New("refused") }
	e.rebootRequest = func(string, string) (func() error, error) {
		if e.noReboot {
			return nil, errors.New("no reboot command")
		}
		return func() error { e.asks.Add(1); return e.asked }, nil
	}
	return e
}

// The first ask comes at once, and then one a second for two minutes.
func TestShutdown(t *testing.T) {
	tests := []struct {
		name         string
		calls        []*agentv1.ShutdownRequest
		asked        error
		asks, resets int32
	}{
		{"AsksThenResets", []*agentv1.ShutdownRequest{{}}, nil, 121, 1},
		{"AsksOneWhoFails", []*agentv1.ShutdownRequest{{}}, errors.New("not yet"), 121, 1},
		{"SecondChangesNothing", []*agentv1.ShutdownRequest{{}, {}}, nil, 121, 1},
		{"Force", []*agentv1.ShutdownRequest{{Force: true}}, nil, 0, 1},
		{"ForceLater", []*agentv1.ShutdownRequest{{}, {Force: true}}, nil, 121, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnding(t)
				e.asked = tt.asked
				for _, r := range tt.calls {
					if _, err := e.Shutdown(t.Context(), r); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if e.asks.Load() != 0 || e.resets.Load() != 0 {
					t.Error("the machine ends before the answer is out")
				}
				time.Sleep(askLimit + time.Minute) //nolint:forbidigo // on synctest's clock
				synctest.Wait()
				if diff := cmp.Diff([]int32{tt.asks, tt.resets}, []int32{e.asks.Load(), e.resets.Load()}); diff != "" {
					t.Errorf("asks and resets (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A call that had nobody to ask must fail, and so must the next one; it must not keep a later one
// from ending the machine either.
func TestShutdownAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnding(t)
		e.noReboot = true
		for range 2 {
			if _, err := e.Shutdown(t.Context(), &agentv1.ShutdownRequest{}); err == nil {
				t.Error("success without a reboot command")
			}
		}
		e.noReboot = false
		if _, err := e.Shutdown(t.Context(), &agentv1.ShutdownRequest{}); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * askEvery) //nolint:forbidigo // on synctest's clock
		synctest.Wait()
		if e.asks.Load() == 0 {
			t.Error("nobody was asked to reboot")
		}
		time.Sleep(askLimit) //nolint:forbidigo // on synctest's clock
	})
}

func TestRebootRequest(t *testing.T) {
	root := t.TempDir()
	if _, err := rebootRequest(system.InitOther, root); err == nil ||
		!strings.Contains(err.Error(), "stop the machine by force") {
		t.Errorf("without a reboot command: %v", err)
	}
	if err := errors.Join(os.MkdirAll(root+"/sbin", 0o755), os.WriteFile(root+"/sbin/reboot", nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{
		system.InitSystemd, system.InitOpenRC, system.InitSysvinit, system.InitBusybox, system.InitOther, system.InitNone,
	} {
		if ask, err := rebootRequest(kind, root); ask == nil || err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
