package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mirror is a small archive signed by a key of its own. Tests change its files before they fetch.
type mirror struct {
	files map[string][]byte // by URL path
	key   *openpgp.Entity
	wrap  func(http.Handler) http.Handler // faults; nil for none
}

const testDeb = "pool/hello_1.0_amd64.deb"

func newMirror(t *testing.T) *mirror {
	t.Helper()
	key, err := openpgp.NewEntity("Test Archive", "", "archive@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	deb := debOf(t, "data.tar.gz", gzipped(t, tarOf(t, "./usr/bin/hello", "hello")))
	m := &mirror{key: key, files: map[string][]byte{"/" + testDeb: deb}}
	index := fmt.Sprintf(`Package: hello
Version: 1.0
Depends: libc6 (>= 2.14), default-mta | mail-transport-agent, python3:any
Filename: %s
Size: %d
SHA256: %s
Description: greets
 in two lines

Package: other
Version: 2
Filename: pool/other.deb
Size: 1
SHA256: %s
`, testDeb, len(deb), sum(deb), sum(nil))
	m.publish(t, xzOf(t, index), "Codename: trixie\nSuite: stable\nDate: Sat, 12 Sep 2026 07:55:41 UTC\n")
	return m
}

// publish writes and signs InRelease with the hash of the index.
func (m *mirror) publish(t *testing.T, index []byte, fields string) {
	t.Helper()
	m.files["/dists/trixie/main/binary-amd64/Packages.xz"] = index
	m.sign(t, fmt.Sprintf("%sSHA256:\n %s %d main/binary-amd64/Packages.xz\n", fields, sum(index), len(index)))
}

func (m *mirror) sign(t *testing.T, release string) {
	t.Helper()
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, m.key.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(release)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	m.files["/dists/trixie/InRelease"] = append(out.Bytes(), '\n')
}

// open serves the mirror and returns an archive that trusts its key.
func (m *mirror) open(t *testing.T) *Archive {
	t.Helper()
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := m.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	if m.wrap != nil {
		handler = m.wrap(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	a, err := Open(Archive{
		Mirror: server.URL + "/", Suite: "trixie", Folder: t.TempDir(), Keys: openpgp.EntityList{m.key},
		Client: server.Client(), Backoff: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// xzOf compresses with the real xz: nothing here writes the format in Go.
func xzOf(t *testing.T, text string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "xz", "-c")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run xz (package xz-utils): %v", err)
	}
	return out
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func tarOf(t testing.TB, name, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// debOf makes an ar archive as dpkg-deb does, with data under that member name.
func debOf(t testing.TB, member string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	out.WriteString(arMagic)
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", []byte("odd")}, {member, data}} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		out.Write(m.data)
		if len(m.data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}
