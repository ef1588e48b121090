package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/provision"
	"banger/internal/store"
	"banger/internal/vm"
)

// home is one with an image "source", in which no machine can start: a build that comes so far
// fails.
type home struct {
	*Builder
	t      *testing.T
	config config.Config
	source store.Image
}

// noMachine asks for a machine that the manager refuses at once.
const noMachine = 99

func newHome(t *testing.T) *home {
	t.Helper()
	dir := t.TempDir()
	db, err := store.Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &home{t: t}
	h.config, _, err = config.Load(func(name string) string {
		return map[string]string{"HOME": dir, "BANGER_HOME": dir}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	h.config.Image = "source"
	images := &image.Catalog{Root: filepath.Join(dir, "images"), Store: db}
	vms := vm.New(vm.Options{
		Store: db, Images: images, Kernels: &kernel.Catalog{Root: filepath.Join(dir, "kernels"), Store: db}, Config: h.config,
		Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		if err := vms.Close(); err != nil {
			t.Error(err)
		}
	})
	if h.Builder, err = New(vms, images, h.config); err != nil {
		t.Fatal(err)
	}
	h.source = h.make("source", image.Manifest{Source: "test"})
	return h
}

// make puts an image into the catalog.
func (h *home) make(name string, m image.Manifest) store.Image {
	h.t.Helper()
	made, err := h.images.Make(h.t.Context(), name, func(ctx context.Context, dir string) (image.Manifest, error) {
		return m, disk.CreateExt4(ctx, image.RootfsPath(dir), disk.MinExt4Bytes, name)
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return made
}

// inputs is the hash of a build from source.
func (h *home) inputs(want api.BuildImage) string {
	h.t.Helper()
	plan, err := provision.NewPlan(want, h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	sum, err := plan.InputsSHA256(h.t.Context(), h.source.ID)
	if err != nil {
		h.t.Fatal(err)
	}
	return sum
}

// An image that was made of the same is the answer, unless somebody wants it anew; made of anything
// else it is not.
func TestBuildTakesWhatIsThere(t *testing.T) {
	h := newHome(t)
	asked := api.BuildImage{Name: "made", Packages: []string{"hello"}, CPUs: noMachine}
	made := h.make("made", image.Manifest{Source: "built", InputsSHA256: h.inputs(asked)})
	other := h.make("other", image.Manifest{Source: "built of something else", InputsSHA256: strings.Repeat("0", 64)})
	tests := []struct {
		name   string
		change func(*api.BuildImage)
		want   string // the image's id; empty when a machine is needed
	}{
		{"Same", func(*api.BuildImage) {}, made.ID},
		{"SameByName", func(b *api.BuildImage) { b.From = "source" }, made.ID},
		{"SameByID", func(b *api.BuildImage) { b.From = h.source.ID[:12] }, made.ID},
		{"OtherSize", func(b *api.BuildImage) { b.SizeMiB = 20_000 }, made.ID},
		{"Forced", func(b *api.BuildImage) { b.Force = true }, ""},
		{"OtherPackages", func(b *api.BuildImage) { b.Packages = []string{"bye"} }, ""},
		{"OtherSource", func(b *api.BuildImage) { b.From = other.ID }, ""},
		{"OtherName", func(b *api.BuildImage) { b.Name = "new" }, ""},
		{"NameOfAnother", func(b *api.BuildImage) { b.Name = "other" }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := asked
			tt.change(&want)
			got, err := h.Build(t.Context(), want, h.config, io.Discard)
			if tt.want == "" {
				if api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "99 CPUs") {
					t.Errorf("got %+v, %v, want a build", got, err)
				}
				return
			}
			if err != nil || got.ID != tt.want {
				t.Errorf("got %s, %v, want %s", got.ID, err, tt.want)
			}
		})
	}
}

// One that is there by name, but not whole, is no answer.
func TestBuildVerifiesWhatIsThere(t *testing.T) {
	h := newHome(t)
	asked := api.BuildImage{Name: "made"}
	made := h.make("made", image.Manifest{Source: "built", InputsSHA256: h.inputs(asked)})
	if err := os.Remove(h.images.Rootfs(made.ID)); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Build(t.Context(), asked, h.config, io.Discard); err == nil {
		t.Errorf("got %+v, whose file is gone", got)
	}
	asked.From = "none"
	if _, err := h.Build(t.Context(), asked, h.config, io.Discard); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("from an image that is not there: %v", err)
	}
}

// A build that fails says so where it was watched and in its log, and the next one may begin.
func TestBuildFails(t *testing.T) {
	h := newHome(t)
	const says = "== failed: 99 CPUs"
	for range 2 {
		var followed strings.Builder
		_, err := h.Build(t.Context(), api.BuildImage{Name: "web/app:1", CPUs: noMachine}, h.config, &followed)
		if api.CodeOf(err) != api.CodeInvalid || !strings.HasPrefix(followed.String(), says) {
			t.Errorf("got %v, and said %q", err, followed.String())
		}
	}
	var log strings.Builder
	if err := h.Log(t.Context(), "web/app:1", true, &log, func() error { return nil }); err != nil ||
		!strings.HasPrefix(log.String(), says) {
		t.Errorf("the log is %q, %v", log.String(), err)
	}
	if strings.Count(log.String(), says) != 1 {
		t.Errorf("the log has the last build's before it: %q", log.String())
	}
}

// What the source says of itself goes on, and what the build brings counts before it.
func TestManifest(t *testing.T) {
	h := newHome(t)
	defaults := api.ImageDefaults{User: "app", WorkDir: "/srv"}
	source := h.make("rich", image.Manifest{
		Source: "test", Defaults: defaults,
		Services: []api.ImageService{{Name: "web", Port: 80}, {Name: "opencode", Port: 1}},
	})
	j := job{
		want: api.BuildImage{Name: "made"}, source: source, inputs: "abc",
		plan: provision.Plan{
			Preset: "agent", PresetSHA256: "def",
			Services: []api.ImageService{{Name: "opencode", Port: 4096, Path: "/"}},
		},
	}
	got, err := h.manifest(t.Context(), j, []string{"hello 1.0"}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	want := image.Manifest{
		Name: "made", Source: fmt.Sprintf("built from rich (%.12s)", source.ID), Architecture: "amd64",
		Packages: []string{"hello 1.0"},
		Preset:   "agent", PresetSHA256: "def", InputsSHA256: "abc", Defaults: defaults,
		Services: []api.ImageService{{Name: "opencode", Port: 4096, Path: "/"}, {Name: "web", Port: 80}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	j.source.ID = strings.Repeat("0", 64)
	if _, err := h.manifest(t.Context(), j, nil, ""); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a source that was removed meanwhile: %v", err)
	}
}

// A log that can not be begun ends the build before its machine; one that can not be written ends
// what writes.
func TestLogErrors(t *testing.T) {
	h := newHome(t)
	if err := os.WriteFile(h.logDir, nil, 0o600); err != nil { // a file for a folder
		t.Fatal(err)
	}
	if _, err := h.Build(t.Context(), api.BuildImage{Name: "x"}, h.config, io.Discard); err == nil ||
		!strings.Contains(err.Error(), "make folder of build logs: ") {
		t.Errorf("no folder: %v", err)
	}
	if err := errors.Join(os.Remove(h.logDir), os.MkdirAll(h.logPath("x")+"/y", 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.openLog("x", io.Discard); err == nil || !strings.Contains(err.Error(), "remove old build log: ") {
		t.Errorf("a folder for a log: %v", err)
	}
	log, err := h.openLog("z", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	log.file.Close()
	if n, err := log.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("a log that is closed: wrote %d, %v", n, err)
	}
	gone := errors.New("the client has gone")
	if err := h.Log(t.Context(), "z", true, io.Discard, func() error { return gone }); !errors.Is(err, gone) {
		t.Errorf("a follower who has gone: %v", err)
	}
}

// A watcher who has gone does not end the build, and what he is shown is bounded as the log is.
func TestLogOutlastsItsWatcher(t *testing.T) {
	h := newHome(t)
	r, w := io.Pipe()
	r.Close()
	log, err := h.openLog("x", w)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.WriteString(log, "on and on\n"); n != 10 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if err := log.file.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(h.logPath("x")); string(got) != "on and on\n" {
		t.Errorf("the log is %q, %v", got, err)
	}
}
