package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
)

// fakeQEMU answers each line with what answer returns.
func fakeQEMU(t *testing.T, onEvent func(Event), answer func(n int, line string) string) *Monitor {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		lines := bufio.NewScanner(theirs)
		for n := 1; lines.Scan(); n++ {
			if _, err := fmt.Fprintln(theirs, answer(n, lines.Text())); err != nil {
				return
			}
		}
	}()
	m := newMonitor(ours, onEvent)
	t.Cleanup(func() { ours.Close(); <-m.done })
	return m
}

func TestExecute(t *testing.T) {
	events := make(chan Event, 1)
	m := fakeQEMU(t, func(e Event) { events <- e }, func(n int, line string) string {
		return fmt.Sprintf(`{"QMP":{}}
{"event":"STOP","data":{"a":1},"timestamp":{"seconds":1,"microseconds":2}}
{"id":99,"return":{}}
{"id":%d,"return":{"value":%d}}`, n, n*10)
	})
	var got struct{ Value int }
	if err := m.Execute(testContext(t), "x", nil, &got); err != nil || got.Value != 10 {
		t.Errorf("got %+v, %v", got, err)
	}
	if e := <-events; e.Name != "STOP" || string(e.Data) != `{"a":1}` {
		t.Errorf("event is %+v", e)
	}
}

func TestExecuteErrors(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		m := fakeQEMU(t, nil, func(n int, _ string) string {
			return fmt.Sprintf(`{"id":%d,"error":{"class":"GenericError","desc":"no"}}`, n)
		})
		var refused *CommandError
		if err := m.Execute(testContext(t), "x", nil, nil); !errors.As(err, &refused) || refused.Error() != "qemu x: no" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no JSON", func(t *testing.T) {
		m := fakeQEMU(t, nil, func(int, string) string { return "x" })
		if err := m.Execute(testContext(t), "x", nil, nil); !errors.Is(err, ErrMonitorClosed) {
			t.Errorf("got %v, want ErrMonitorClosed", err)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		m := fakeQEMU(t, nil, func(int, string) string { return "{}" })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Execute(ctx, "x", nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	})
	t.Run("result of another kind", func(t *testing.T) {
		m := fakeQEMU(t, nil, func(n int, _ string) string { return fmt.Sprintf(`{"id":%d,"return":[]}`, n) })
		if err := m.Execute(testContext(t), "x", nil, &struct{}{}); err == nil {
			t.Error("want an error")
		}
	})
}

func TestExecuteConcurrently(t *testing.T) {
	m := fakeQEMU(t, nil, func(n int, _ string) string { return fmt.Sprintf(`{"id":%d,"return":{}}`, n) })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := m.Execute(testContext(t), "x", nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
