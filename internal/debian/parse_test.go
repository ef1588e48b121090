package debian

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func TestStanzas(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []Stanza
		err        string
	}{
		{"OK", "A: 1\nB:2\n  more\n\n\n# comment\nC: x: y\r\n", []Stanza{{"A": "1", "B": "2\nmore"}, {"C": "x: y"}}, ""},
		{"OKEmpty", "\n \n", nil, ""},
		{"OKEmptyFirstLine", "SHA256:\n a\n b\n", []Stanza{{"SHA256": "\na\nb"}}, ""},
		{"ErrNoField", "A: 1\nnonsense\n", nil, "line without a field"},
		{"ErrContinuation", " x\n", nil, "continuation without a field"},
		{"ErrTwice", "A: 1\nA: 2\n", nil, "twice"},
		{"ErrLongLine", "A: " + strings.Repeat("x", maxLineBytes), nil, "too long"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []Stanza
			err := Stanzas(t.Context(), strings.NewReader(test.text), func(s Stanza) error {
				got = append(got, s)
				return nil
			})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func TestPackageOfErrors(t *testing.T) {
	good := Stanza{"Package": "p", "Filename": "pool/p.deb", "Size": "1", "SHA256": sum(nil)}
	if _, err := packageOf(good); err != nil {
		t.Fatal(err)
	}
	for field, bad := range map[string][]string{
		"Filename": {"", "/etc/passwd", "../x", "pool/../../x", "pool//x"},
		"Size":     {"", "-1", "x", "99999999999999"},
		"SHA256":   {"", "12", strings.ToUpper(sum(nil))},
	} {
		for _, value := range bad {
			s := Stanza{}
			maps.Copy(s, good)
			s[field] = value
			if _, err := packageOf(s); err == nil {
				t.Errorf("%s %q was accepted", field, value)
			}
		}
	}
}

func TestReadDeb(t *testing.T) {
	plain := tarOf(t, "./usr/bin/hello", "hello")
	zst, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer zst.Close()
	for _, test := range []struct {
		name string
		deb  []byte
		err  string
	}{
		{"OKPlain", debOf(t, "data.tar", plain), ""},
		{"OKGzip", debOf(t, "data.tar.gz/", gzipped(t, plain)), ""},
		{"OKXz", debOf(t, "data.tar.xz", xzOf(t, string(plain))), ""},
		{"OKZstd", debOf(t, "data.tar.zst", zst.EncodeAll(plain, nil)), ""},
		{"ErrUnknownCompression", debOf(t, "data.tar.lzo", plain), `unknown compression ".lzo"`},
		{"ErrNoData", debOf(t, "other", plain), "find data.tar"},
		{"ErrNotAr", []byte("PK\x03\x04 and more"), "not a Debian package"},
		{"ErrEmpty", nil, "not a Debian package"},
		{"ErrTruncated", debOf(t, "data.tar", plain)[:300], "unexpected EOF"},
		{"ErrBadHeader", append([]byte(arMagic), make([]byte, arHeaderBytes)...), "bad member header"},
		{"ErrNegativeSize", append([]byte(arMagic), "x               0           0     0     100644  -5        `\n"...), "bad member size"},
		{"ErrOutside", debOf(t, "data.tar", tarOf(t, "../../etc/passwd", "x")), "leads outside"},
		{"ErrAbsolute", debOf(t, "data.tar", tarOf(t, "/etc/passwd", "x")), "leads outside"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.deb")
			if err := os.WriteFile(path, test.deb, 0o600); err != nil {
				t.Fatal(err)
			}
			var got []string
			err := ReadDeb(t.Context(), path, func(h *tar.Header, r io.Reader) error {
				text, err := io.ReadAll(r)
				got = append(got, h.Name+"="+string(text))
				return err
			})
			if test.err == "" {
				if diff := cmp.Diff([]string{"usr/bin/hello=hello"}, got); diff != "" || err != nil {
					t.Errorf("%v\n%s", err, diff)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

func FuzzStanzas(f *testing.F) {
	f.Add([]byte("A: 1\n 2\n\nB: 3\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = Stanzas(t.Context(), bytes.NewReader(data), func(s Stanza) error {
			if len(s) == 0 {
				t.Error("an empty stanza")
			}
			_, _ = packageOf(s)
			_, _ = parseHashes(s["SHA256"])
			return nil
		})
	})
}

func FuzzReadDeb(f *testing.F) {
	f.Add(debOf(f, "data.tar", tarOf(f, "./a", "x")))
	f.Add(debOf(f, "data.tar.gz", gzipped(f, tarOf(f, "./a", "x"))))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, member, err := dataMember(bytes.NewReader(data))
		if err != nil {
			return
		}
		err = readTar(t.Context(), member, func(h *tar.Header, _ io.Reader) error {
			if !filepath.IsLocal(h.Name) {
				t.Errorf("name %q leads outside", h.Name)
			}
			return errors.New("enough")
		})
		_ = err
	})
}
