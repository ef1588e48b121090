package cli

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
)

func TestAbsoluteSource(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	here, err := filepath.EvalSymlinks(here)
	if err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		"": "", "debian:trixie": "debian:trixie", "oci:a/b:1": "oci:a/b:1", "oci:tar:x": "oci:tar:x",
		"tar:root.tar": "tar:" + here + "/root.tar", "tar:/x/../y": "tar:/y", "docker-archive:../a b": "docker-archive:" + filepath.Dir(here) + "/a b",
	} {
		if got, err := absoluteSource(source); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", source, got, err, want)
		}
	}
	if _, err := absoluteSource("tar:"); err == nil {
		t.Error("tar: without a file passes")
	}
}

func TestRemoveImages(t *testing.T) {
	home := fakeDaemon(t, map[string]http.HandlerFunc{
		"DELETE /v1/images/a": says(struct{}{}), "DELETE /v1/images/b": says(struct{}{}),
		"DELETE /v1/images/bad": refuses(api.Errorf(api.CodeConflict, "image is in use by web")),
	})
	if r := banger(t, home, "image", "rm", "a", "bad", "b"); r.code != 1 || r.stdout != "a\nb\n" || r.stderr != "banger: image is in use by web\n" {
		t.Errorf("%+v", r)
	}
	if r := banger(t, home, "image", "rm", "--json", "bad", "b", "bad"); r.code != 1 || r.stdout != "[\n  \"b\"\n]\n" || strings.Count(r.stderr, "in use by web") != 2 {
		t.Errorf("%+v", r)
	}
}

// Whoever pulls what is there sees why that took no time; a script that asks for JSON or for
// silence sees nothing besides.
func TestPullAgain(t *testing.T) {
	image := api.Image{ID: strings.Repeat("a", 64), Name: "oci:x", Names: []string{"oci:x", "again"}, SizeBytes: 1 << 20, CreatedAt: time.Now().Add(-time.Hour)}
	home := fakeDaemon(t, map[string]http.HandlerFunc{"POST /v1/images/pull": says(api.Event[api.Image]{Result: &image})})
	if r := banger(t, home, "image", "pull", "oci:x"); r.code != 0 || r.stdout != "oci:x, again   1MiB   aaaaaaaaaaaa\n" || !strings.HasPrefix(r.stderr, "already there, made ") {
		t.Errorf("%+v", r)
	}
	if r := banger(t, home, "image", "pull", "-q", "oci:x"); r.code != 0 || r.stderr != "" {
		t.Errorf("%+v", r)
	}
}
