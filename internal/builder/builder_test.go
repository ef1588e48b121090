package builder

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newBuilder has neither VMs nor images: for what happens before and beside them.
func newBuilder(t *testing.T) *Builder {
	t.Helper()
	home := t.TempDir()
	c, _, err := config.Load(func(name string) string {
		return map[string]string{"HOME": home, "BANGER_HOME": home}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(nil, nil, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is wrong is refused before anything is looked up or started.
func TestBuildRefuses(t *testing.T) {
	b := newBuilder(t)
	for want, asked := range map[string]api.BuildImage{
		"cannot be a name":   {Name: "../x"},
		"unknown preset":     {Name: "x", Preset: "fat"},
		"no name of a pack":  {Name: "x", Packages: []string{"-y"}},
		"must be absolute":   {Name: "x", Scripts: []string{"a.sh"}},
		"file for the image": {Name: "x", Files: []api.BuildFile{{Host: "/no/such", Guest: "/x"}}},
	} {
		if _, err := b.Build(t.Context(), asked, config.Config{}, io.Discard); api.CodeOf(err) != api.CodeInvalid ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", asked, err, want)
		}
	}
}

func TestOneBuildOfAName(t *testing.T) {
	b := newBuilder(t)
	end, err := b.begin("x")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Build(t.Context(), api.BuildImage{Name: "x"}, config.Config{}, io.Discard)
	if api.CodeOf(err) != api.CodeConflict {
		t.Errorf("a second build of the name: %v", err)
	}
	other, err := b.begin("y")
	if err != nil {
		t.Fatal(err)
	}
	other()
	end()
	if end, err = b.begin("x"); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
	end()
}

func TestLog(t *testing.T) {
	b := newBuilder(t)
	read := func(follow bool) (string, error) {
		var out strings.Builder
		err := b.Log(t.Context(), "a/b:c", follow, &out, func() error { return nil })
		return out.String(), err
	}
	if _, err := read(false); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("no log: %v", err)
	}
	end, err := b.begin("a/b:c")
	if err != nil {
		t.Fatal(err)
	}
	var watched strings.Builder
	log, err := b.openLog("a/b:c", &watched)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(log, "first\n")
	if got, err := read(false); got != "first\n" || err != nil {
		t.Errorf("while it goes on: %q, %v", got, err)
	}
	followed := make(chan string, 1)
	go func() {
		got, err := read(true)
		followed <- got + errors.Join(err, errors.New("end")).Error()
	}()
	io.WriteString(log, "last\n")
	end()
	if got := <-followed; got != "first\nlast\nend" {
		t.Errorf("followed %q", got)
	}
	if watched.String() != "first\nlast\n" {
		t.Errorf("watched %q", watched.String())
	}
	if err := log.file.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the user left")
	cancel(left)
	again, err := b.begin("a/b:c")
	if err != nil {
		t.Fatal(err)
	}
	defer again()
	if err := b.Log(ctx, "a/b:c", true, io.Discard, func() error { return nil }); !errors.Is(err, left) {
		t.Errorf("a follower that leaves: %v", err)
	}
}

// A guest that never stops talking does not fill the host.
func TestLogIsBounded(t *testing.T) {
	b := newBuilder(t)
	log, err := b.openLog("x", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	for range 2 * maxLogBytes / len(chunk) {
		if n, err := log.Write(chunk); n != len(chunk) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := log.file.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(b.logDir, "x.log"))
	if err != nil || info.Size() > maxLogBytes+2<<20 {
		t.Errorf("the log has %d bytes, %v", info.Size(), err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v", info.Mode())
	}
}
