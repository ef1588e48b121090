package fcqemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"banger/internal/qemu/qemutest"
)

// guestConfig makes the test guest ready to start, with vsock at path("v").
func (p *program) guestConfig(t *testing.T) {
	t.Helper()
	p.must(t, "PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":%q,"initrd_path":%q,"boot_args":%q}`,
		qemutest.Kernel(t), qemutest.Initrd(t), qemutest.BootArgs))
	p.must(t, "PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":256}`)
	p.must(t, "PUT", "/vsock", fmt.Sprintf(`{"guest_cid":3,"uds_path":%q}`, p.path("v")))
}

func (p *program) start(t *testing.T) {
	t.Helper()
	p.must(t, "PUT", "/actions", `{"action_type":"InstanceStart"}`)
}

var errRefused = errors.New("closed without a word")

// connect asks for a port of the guest. The error is errRefused when the connection is closed
// without a word.
func (p *program) connect(t *testing.T, request string) (*net.UnixConn, string, error) {
	t.Helper()
	conn, err := net.Dial("unix", p.path("v"))
	if err != nil {
		return nil, "", err
	}
	deadline, _ := testContext(t).Deadline()
	conn.SetDeadline(deadline)
	if _, err := io.WriteString(conn, request); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	line := ""
	for c := [1]byte{}; !strings.HasSuffix(line, "\n"); line += string(c[:]) {
		if _, err := io.ReadFull(conn, c[:]); err != nil {
			conn.Close()
			if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
				return nil, line, errRefused
			}
			return nil, line, err
		}
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UnixConn), line, nil
}

// command sends a command to the guest. Until the guest's agent is there, connections are refused.
func (p *program) command(t *testing.T, command string) *net.UnixConn {
	t.Helper()
	var conn *net.UnixConn
	until(t, "connect to the guest", func() (ok bool) {
		select {
		case <-p.exited:
			t.Fatal("firecracker-qemu has ended")
		default:
		}
		var err error
		conn, _, err = p.connect(t, fmt.Sprintf("CONNECT %d\n", qemutest.Port))
		listens := !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) // bound, a moment before
		if err != nil && !errors.Is(err, errRefused) && listens {
			t.Fatal(err)
		}
		return err == nil
	})
	if _, err := fmt.Fprintln(conn, command); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask sends a command and returns the whole answer.
func (p *program) ask(t *testing.T, command string) string {
	t.Helper()
	conn := p.command(t, command)
	got, err := io.ReadAll(conn)
	conn.Close()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return strings.TrimSpace(string(got))
}

// disk makes an image of size bytes that begins with content.
func (p *program) disk(t *testing.T, name, content string, size int64) string {
	t.Helper()
	if err := os.WriteFile(p.path(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p.path(name), size); err != nil {
		t.Fatal(err)
	}
	return p.path(name)
}

// metricsLines are the lines of a metrics file, without the time.
func (p *program) metricsLines(t *testing.T, name string) []map[string]map[string]any {
	t.Helper()
	content, err := os.ReadFile(p.path(name))
	if err != nil {
		t.Fatal(err)
	}
	var lines []map[string]map[string]any
	for line := range strings.Lines(string(content)) {
		var document map[string]any
		if err := json.Unmarshal([]byte(line), &document); err != nil {
			t.Fatal(err)
		}
		groups := map[string]map[string]any{}
		for name, value := range document {
			if group, ok := value.(map[string]any); ok {
				groups[name] = group
			}
		}
		lines = append(lines, groups)
	}
	return lines
}
