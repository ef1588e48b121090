package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/oci"
	"banger/internal/progress"
	"banger/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBootstrap stands in for mmdebstrap, which takes half a minute and a mirror: it notes that it
// ran, does what "download" hooks do, runs $FAKE and writes the archive.
const fakeBootstrap = `#!/bin/sh
case $1 in --unshare-helper) shift; exec "$@";; esac
echo "$$ $SOURCE_DATE_EPOCH $TMPDIR" >>"$FAKE_RUNS"
for a; do
	case $a in "--customize-hook=download "*) f=${a#*\'}; f=${f%\'};; esac
done
echo 'I: starting things...' >&2
echo 'Setting up hello (1.0) ...' >&2
eval "$FAKE"
cp "$FAKE_STATUS" "$f"
cat "$FAKE_TAR"
`

const dpkgStatus = `Package: hello
Status: install ok installed
Version: 1.0

Package: dpkg
Status: install ok installed
Architecture: amd64
Version: 1.22

Package: gone
Status: deinstall ok config-files
Version: 3
`

// fakeHost puts fakeBootstrap on the path; behaviour is shell. It returns a catalog and the file of
// runs.
func fakeHost(t *testing.T, behaviour string) (*Catalog, string) {
	t.Helper()
	dir := t.TempDir()
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	for _, h := range []*tar.Header{{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}, {Typeflag: tar.TypeReg, Name: "./file", Mode: 0o644}} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"root.tar": root.String(), "status": dpkgStatus, "bin/mmdebstrap": fakeBootstrap} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	runs := filepath.Join(dir, "runs")
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	t.Setenv("FAKE_RUNS", runs)
	t.Setenv("FAKE_TAR", filepath.Join(dir, "root.tar"))
	t.Setenv("FAKE_STATUS", filepath.Join(dir, "status"))
	t.Setenv("FAKE", behaviour)
	s, err := store.Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c := &Catalog{Root: filepath.Join(dir, "images"), Store: s, Layers: &oci.Cache{Dir: filepath.Join(dir, "layers")}}
	t.Cleanup(func() { nothingLeft(t, c) })
	return c, runs
}

// nothingLeft checks that no half-made or work folder outlives a build.
func nothingLeft(t *testing.T, c *Catalog) {
	t.Helper()
	half, _ := filepath.Glob(filepath.Join(c.Root, ".new-*"))
	work, _ := filepath.Glob(filepath.Join(workRoot, c.workPrefix()+"*"))
	if left := append(half, work...); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestEnsure(t *testing.T) {
	c, runs := fakeHost(t, "")
	var mu sync.Mutex
	var details []string
	ctx := progress.With(t.Context(), func(p api.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.State == api.ProgressDone {
			details = append(details, p.Stage)
		}
	})
	var wait sync.WaitGroup
	records := make([]store.Image, 3)
	for i := range records { // at once: one builds, the others find its result
		wait.Go(func() {
			var err error
			if records[i], err = c.Ensure(ctx, "debian:trixie"); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	ran, err := os.ReadFile(runs)
	if err != nil || strings.Count(string(ran), "\n") != 1 {
		t.Errorf("mmdebstrap ran: %q, %v; want once", ran, err)
	}
	if !strings.Contains(string(ran), fmt.Sprintf(" %d %s/", buildEpoch, workRoot)) {
		t.Errorf("mmdebstrap was given %q", ran)
	}
	if diff := cmp.Diff([]string{"build image", "hash image"}, details); diff != "" {
		t.Error(diff)
	}
	id := records[0].ID
	if label, err := disk.Label(c.Rootfs(id)); label != disk.LabelImage || err != nil {
		t.Errorf("label %q, %v", label, err)
	}
	m, err := load(c.Dir(id))
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{
		Version: manifestVersion, ID: id, Name: "debian:trixie", Source: "mmdebstrap from http://deb.debian.org/debian",
		Architecture: "amd64", Packages: []string{"dpkg 1.22", "hello 1.0"}, SizeBytes: records[0].SizeBytes, CreatedAt: m.CreatedAt,
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Dir != c.Dir(id) {
		t.Errorf("list %+v, %v", list, err)
	}
	if err := c.Remove(t.Context(), id[:12]); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir(id)); !os.IsNotExist(err) {
		t.Errorf("folder of the removed image: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	c, _ := fakeHost(t, "")
	record, err := c.Ensure(t.Context(), "debian:trixie")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(c.Rootfs(record.ID), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt([]byte{0xff}, 5000)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // told each time, not only the first
		if _, err := c.Ensure(t.Context(), "debian:trixie"); api.CodeOf(err) != api.CodeUnavailable || !errors.Is(err, disk.ErrDamaged) {
			t.Errorf("error %v, want %v", err, disk.ErrDamaged)
		}
	}
	if err := c.Remove(t.Context(), "debian:trixie"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ensure(t.Context(), "debian:trixie"); err != nil {
		t.Errorf("after the repair that the hint names: %v", err)
	}
}

func TestBuildFails(t *testing.T) {
	for _, test := range []struct{ name, behaviour, want string }{
		{"ErrExit", "echo 'E: no such mirror' >&2; exit 3", "exit status 3:\nI: starting things...\nSetting up hello (1.0) ...\nE: no such mirror"},
		{"ErrHalfATar", `head -c 700 "$FAKE_TAR"; exit 1`, "exit status 1"},
		{"ErrNoise", `head -c 2000000 /dev/zero | tr '\0' x >&2; exit 4`, "exit status 4"},
		{"ErrNotATar", `head -c 2000 /dev/zero | tr '\0' x`, "convert tar to ext4"},
		{"ErrNoPackageList", `FAKE_STATUS=/nowhere`, "read package list"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _ := fakeHost(t, test.behaviour)
			_, err := c.Ensure(t.Context(), "debian:trixie")
			if err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 20_000 {
				t.Errorf("error %.2000v, want %q", err, test.want)
			}
			if list, err := c.List(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("recorded all the same: %+v, %v", list, err)
			}
		})
	}
}

// TestCancel checks that the whole process group goes, at each point where a build can wait.
func TestCancel(t *testing.T) {
	const forEver = `; sleep 1000 & while :; do echo 'I: waiting...' >&2; sleep 0.02; done`
	for name, behaviour := range map[string]string{
		"BeforeTheTar": `:` + forEver,
		"InTheTar":     `head -c 700 "$FAKE_TAR"` + forEver,
		"FullPipe":     `(while :; do cat "$FAKE_TAR" /dev/zero; done) &` + strings.TrimPrefix(forEver, ";"),
	} {
		t.Run(name, func(t *testing.T) {
			c, runs := fakeHost(t, `mkdir "$TMPDIR/root"; `+behaviour)
			ctx, cancel := context.WithCancelCause(t.Context())
			gone := errors.New("user went away")
			ctx = progress.With(ctx, func(p api.Progress) {
				if p.State == api.ProgressRunning && p.Detail != "" {
					cancel(gone)
				}
			})
			if _, err := c.Ensure(ctx, "debian:trixie"); !errors.Is(err, gone) {
				t.Errorf("error %v, want %v", err, gone)
			}
			text, err := os.ReadFile(runs)
			if err != nil {
				t.Fatal(err)
			}
			var group int
			if _, err := fmt.Sscan(string(text), &group); err != nil {
				t.Fatal(err)
			}
			waitGone(t, group)
		})
	}
}

// waitGone waits until no process of the group lives; those that were killed may take a moment to
// die.
func waitGone(t *testing.T, group int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for alive(t, group) {
		select {
		case <-ctx.Done():
			t.Fatal("processes of the build still run")
		case <-tick.C:
		}
	}
}

// alive reports whether a process of the group runs; zombies, which only wait for somebody to ask,
// do not count.
func alive(t *testing.T, group int) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // state, parent, group
		if fields[2] == strconv.Itoa(group) && fields[0] != "Z" && fields[0] != "X" {
			return true
		}
	}
	return false
}

func TestSweep(t *testing.T) {
	c, _ := fakeHost(t, "")
	record, err := c.Ensure(t.Context(), "debian:trixie")
	if err != nil {
		t.Fatal(err)
	}
	if _, release, err := disk.NewFolder(c.Root); err == nil {
		release()
	} else { // as a crash leaves them
		t.Fatal(err)
	}
	if _, err := os.MkdirTemp(workRoot, c.workPrefix()); err != nil {
		t.Fatal(err)
	}
	if err := c.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, c)
	if err := c.Verify(t.Context(), record.ID); err != nil {
		t.Errorf("the image itself: %v", err)
	}
}

func TestEnsureErrors(t *testing.T) {
	c, _ := fakeHost(t, "exit 1")
	for ref, want := range map[string]api.Code{
		"nothing": api.CodeNotFound, "fedora:42": api.CodeUnsupported, "debian:buzz": api.CodeUnsupported, "debian:": api.CodeUnsupported,
		"ubuntu:24.04": api.CodeInvalid, "oci:UPPER": api.CodeInvalid, "tar:/a": api.CodeUnsupported, "docker-archive:a": api.CodeInvalid,
	} {
		if _, err := c.Ensure(t.Context(), ref); api.CodeOf(err) != want {
			t.Errorf("ensure %q: %v, want code %s", ref, err, want)
		}
	}
}
