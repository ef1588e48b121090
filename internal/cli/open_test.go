package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger/api"
)

// TestOpenWaits: a service's first request is never answered, as opencode's is when it comes too
// early.
func TestOpenWaits(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	if err := awaitHealth(t.Context(), server.URL+"/health", 50*time.Millisecond); err != nil || asked.Load() < 2 {
		t.Errorf("after %d requests: %v", asked.Load(), err)
	}
}

func TestOpen(t *testing.T) {
	serve := func(handler http.HandlerFunc) api.Forward {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		u, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		at := netip.MustParseAddrPort(u.Host)
		return api.Forward{Protocol: api.TCP, Host: at.Addr(), HostPort: at.Port(), GuestPort: 4096}
	}
	ready := serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			t.Errorf("asked for %s", r.URL)
		}
	})
	hangs := serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	home := fakeDaemon(t, map[string]http.HandlerFunc{
		"GET /v1/machines/ready": says(api.Machine{ID: "1", Name: "ready", ImageID: "i", Forwards: []api.Forward{ready}}),
		"GET /v1/machines/hangs": says(api.Machine{ID: "2", Name: "hangs", ImageID: "i", Forwards: []api.Forward{hangs}}),
		"GET /v1/images/i":       says(api.Image{Services: []api.ImageService{{Name: "code", Port: 4096, Path: "/ui", Health: "/health"}}}),
		"GET /v1/images/bare":    says(api.Image{Name: "bare"}),
		"GET /v1/machines/bare":  says(api.Machine{ID: "3", Name: "bare", ImageID: "bare"}),
	})
	if got, want := banger(t, home, "open", "ready"), fmt.Sprintf("http://%s/ui\n", ready.Listen()); got.code != 0 || got.stdout != want {
		t.Errorf("open = %+v, want %q", got, want)
	}
	for args, want := range map[string]string{
		"open hangs code --timeout 300ms": "code in hangs has not answered within 300ms",
		"open hangs other":                "its image has code",
		"open bare":                       "has no services",
	} {
		if got := banger(t, home, strings.Fields(args)...); got.code == 0 || got.stdout != "" || !strings.Contains(got.stderr, want) {
			t.Errorf("banger %s = %+v, want %q", args, got, want)
		}
	}
}
