package holder

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"banger/internal/network"
	"banger/internal/network/namespace"
	"banger/internal/network/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start serves keepers of a home, in no namespace of its own, and returns how that ends.
func start(t *testing.T) (d network.Dir, ended <-chan error, end context.CancelFunc) {
	t.Helper()
	d = network.Dir(t.TempDir())
	listener, err := net.Listen("unix", d.HolderSocket())
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listener, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() { cancel(); stop(); listener.Close() })
	return d, done, cancel
}

func open(t *testing.T, d network.Dir) *namespace.Namespace {
	t.Helper()
	n, err := namespace.Open(t.Context(), d, nil, true)
	check(t, err)
	return n
}

// Both ends of the wire, as they are: what the one asks for is what the other gives.
func TestKeeperAndHolder(t *testing.T) {
	d, ended, _ := start(t)
	n := open(t, d)
	if n.PID != os.Getpid() || n.Found != nil || n.Joined {
		t.Errorf("the holder greets as %+v, want one that was told nothing yet", n)
	}
	service, err := n.ServiceSocket(netip.MustParseAddrPort("127.0.0.1:0"))
	check(t, err)
	defer service.Close()
	conn, err := net.Dial("tcp4", service.Addr().String())
	check(t, err)
	conn.Close()
	if _, err := n.ServiceSocket(netip.MustParseAddrPort("192.0.2.1:80")); err == nil || !strings.Contains(err.Error(), "assign requested address") {
		t.Errorf("a socket at a foreign address: got %v, want the holder's error", err)
	}
	check(t, n.Stop())
	check(t, <-ended)
}

// The next keeper is served when the one before is gone, whatever that has said.
func TestKeeperTalksNonsense(t *testing.T) {
	d, ended, end := start(t)
	for _, said := range []string{"", "{", "\x00\x00", `{"state": 7}`, strings.Repeat(" ", network.MaxMessageBytes+1)} {
		conn, err := net.Dial("unix", d.HolderSocket())
		check(t, err)
		check(t, json.NewDecoder(conn).Decode(new(plan.Reply)))
		_, _ = io.WriteString(conn, said) // it may hang up before it has all
		conn.Close()
	}
	check(t, open(t, d).Stop())
	check(t, <-ended)
	end()
}

// A holder that is told to end from outside does, also while a keeper is connected.
func TestHolderEndsWithContext(t *testing.T) {
	d, ended, end := start(t)
	n := open(t, d)
	end()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's end", err)
	}
	check(t, n.Stop()) // has nothing to end
}

// What is shared stays open for the next keeper, whatever the last one did with its own.
func TestShare(t *testing.T) {
	var files sharedFiles
	opened := 0
	make := func() (sharedFiles, error) {
		opened++
		r, w, err := os.Pipe()
		return sharedFiles{r, w}, err
	}
	for range 2 {
		shared, err := files.share(make)
		check(t, err)
		_, err = shared[1].WriteString("x")
		check(t, err)
		got := []byte{0}
		if _, err := shared[0].Read(got); err != nil || string(got) != "x" {
			t.Errorf("got %q, %v", got, err)
		}
		shared.close()
	}
	if opened != 1 {
		t.Errorf("opened %d times, want once", opened)
	}
	files.close()
	files = nil
	failure := errors.New("failure")
	if shared, err := files.share(func() (sharedFiles, error) { return nil, failure }); shared != nil || !errors.Is(err, failure) {
		t.Errorf("got %v, %v, want the failure", shared, err)
	}
}
