package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entry is one entry of a layer, or of what came out.
type entry struct {
	name    string
	kind    byte // default: a file, or a folder when the name ends with a slash
	mode    int64
	uid     int
	link    string
	content string
	xattrs  map[string]string
	major   int64
	minor   int64
}

func (e entry) header() *tar.Header {
	kind, mode := byte(tar.TypeReg), int64(0o644)
	if strings.HasSuffix(e.name, "/") {
		kind, mode = tar.TypeDir, 0o755
	}
	h := &tar.Header{
		Typeflag: cmp.Or(e.kind, kind), Name: e.name, Mode: cmp.Or(e.mode, mode), Uid: e.uid, Gid: e.uid, Linkname: e.link,
		Size: int64(len(e.content)), Devmajor: e.major, Devminor: e.minor, ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatPAX,
	}
	for name, value := range e.xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
	return h
}

// tarOf makes the tar of a layer.
func tarOf(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		if err := w.WriteHeader(e.header()); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func gzipOf(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(plain); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func zstdOf(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(plain, nil)
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// imageOf makes an image of plain layers.
func imageOf(layers ...[]byte) *Image {
	i := &Image{whiteouts: true, limits: Limits{}.withDefaults()}
	for _, l := range layers {
		i.layers = append(i.layers, layer{blob: bytes.NewReader(l), size: int64(len(l)), digest: sumOf(l), diffID: sumOf(l)})
	}
	return i
}

// listing describes each entry of a tar in a line: type, mode, owner, name, and what belongs to its
// type.
func listing(tb testing.TB, archive []byte) []string {
	tb.Helper()
	var lines []string
	in := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := in.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			tb.Fatal(err)
		}
		line := fmt.Sprintf("%c %o %d:%d %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink, tar.TypeLink:
			line += " -> " + h.Linkname
		case tar.TypeChar, tar.TypeBlock:
			line += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
		case tar.TypeReg:
			text, err := io.ReadAll(in)
			if err != nil {
				tb.Fatal(err)
			}
			line += fmt.Sprintf(" %.40q", text)
		}
		for key, value := range h.PAXRecords {
			if strings.HasPrefix(key, "SCHILY") {
				line += fmt.Sprintf(" %s=%q", key, value)
			}
		}
		lines = append(lines, line)
	}
}

func flatten(ctx context.Context, i *Image) ([]byte, error) {
	var out bytes.Buffer
	err := i.Flatten(ctx, &out)
	return out.Bytes(), err
}
