package firecracker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeAPI serves one handler as a VMM's API and returns a client of it.
func fakeAPI(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return NewClient(socket)
}

// Each call is what Firecracker's API description wants, to the letter: it refuses unknown fields.
func TestCalls(t *testing.T) {
	tests := []struct {
		do   func(context.Context, *Client) error
		want string
	}{
		{func(ctx context.Context, c *Client) error { _, err := c.Info(ctx); return err }, `GET / `},
		{func(ctx context.Context, c *Client) error { return c.PutMachineConfig(ctx, MachineConfig{2, 512}) }, `PUT /machine-config {"vcpu_count":2,"mem_size_mib":512}`},
		{func(ctx context.Context, c *Client) error {
			return c.PutBootSource(ctx, BootSource{"/k", "/i", "quiet"})
		}, `PUT /boot-source {"kernel_image_path":"/k","initrd_path":"/i","boot_args":"quiet"}`},
		{func(ctx context.Context, c *Client) error {
			return c.PutBootSource(ctx, BootSource{KernelImagePath: "/k"})
		}, `PUT /boot-source {"kernel_image_path":"/k","boot_args":""}`},
		{func(ctx context.Context, c *Client) error {
			return c.PutDrive(ctx, Drive{DriveID: "disk", PathOnHost: "/d", CacheType: CacheWriteback})
		}, `PUT /drives/disk {"drive_id":"disk","path_on_host":"/d","is_root_device":false,"is_read_only":false,"cache_type":"Writeback"}`},
		{func(ctx context.Context, c *Client) error { return c.PutVsock(ctx, Vsock{3, "/v"}) }, `PUT /vsock {"guest_cid":3,"uds_path":"/v"}`},
		{func(ctx context.Context, c *Client) error {
			return c.PutSerial(ctx, Serial{"/s", &TokenBucket{Size: 10, RefillTimeMS: 20}})
		}, `PUT /serial {"serial_out_path":"/s","rate_limiter":{"size":10,"refill_time":20}}`},
		{func(ctx context.Context, c *Client) error { return c.PutBalloon(ctx, Balloon{DeflateOnOOM: true}) }, `PUT /balloon {"amount_mib":0,"deflate_on_oom":true}`},
		{func(ctx context.Context, c *Client) error { return c.PutEntropy(ctx, Entropy{}) }, `PUT /entropy {}`},
		{func(ctx context.Context, c *Client) error { return c.InstanceStart(ctx) }, `PUT /actions {"action_type":"InstanceStart"}`},
	}
	for _, tt := range tests {
		var got string
		client := fakeAPI(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got = r.Method + " " + r.RequestURI + " " + string(body)
			if r.Method == http.MethodGet {
				io.WriteString(w, `{"id":"x","state":"Running","vmm_version":"1.16.0","app_name":"Firecracker","later":1}`)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
		if err := tt.do(t.Context(), client); err != nil {
			t.Errorf("%s: %v", tt.want, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("call (-want +got):\n%s", diff)
		}
	}
}

func TestCallErrors(t *testing.T) {
	say := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	tests := []struct {
		name       string
		vmm        http.HandlerFunc
		want       string
		wantStatus int // of the Fault; 0 when it is none
	}{
		{"Fault", say(400, `{"fault_message":"no such file"}`), "GET /: no such file", 400},
		{"FaultWithoutMessage", say(500, ""), "GET /: 500 Internal Server Error", 500},
		{"BadJSON", say(200, "{"), "ask VMM GET /: read answer: unexpected end of JSON input", 0},
		{"TooMuch", say(200, `{"id":"`+strings.Repeat("x", maxAnswerBytes)+`"}`), "ask VMM GET /: read answer: more than 1048576 bytes", 0},
		{"BrokenOff", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "ask VMM GET /: EOF", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := fakeAPI(t, tt.vmm).Info(t.Context())
			if err == nil || err.Error() != tt.want {
				t.Fatalf("Info = %v, want %q", err, tt.want)
			}
			fault, ok := errors.AsType[*Fault](err)
			if ok != (tt.wantStatus != 0) || ok && fault.Status != tt.wantStatus {
				t.Errorf("Info = %#v, want status %d", err, tt.wantStatus)
			}
		})
	}
}

func TestCallNobodyListens(t *testing.T) {
	_, err := NewClient(filepath.Join(t.TempDir(), "s")).Info(t.Context())
	if !errors.Is(err, syscall.ENOENT) || strings.Contains(err.Error(), "http://") {
		t.Errorf("Info = %v, want ENOENT without a URL", err)
	}
}

func TestCallCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := fakeAPI(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if _, err := client.Info(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Info = %v, want canceled", err)
	}
}
