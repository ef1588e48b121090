package compression

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const window = 8 << 20

// through packs plain with what newWriter returns.
func through(t testing.TB, plain []byte, newWriter func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var out bytes.Buffer
	w := newWriter(&out)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipOf(t testing.TB, plain []byte) []byte {
	return through(t, plain, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}

func zstdOf(t testing.TB, plain []byte, options ...zstd.EOption) []byte {
	return through(t, plain, func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w, options...)
		if err != nil {
			t.Fatal(err)
		}
		return z
	})
}

// xzOf packs with the real xz.
func xzOf(t testing.TB, plain []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "xz", append([]string{"-c"}, args...)...)
	cmd.Stdin = bytes.NewReader(plain)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run xz (package xz-utils): %v", err)
	}
	return out
}

func lz4Of(t testing.TB, plain []byte) []byte {
	return through(t, plain, func(w io.Writer) io.WriteCloser {
		z := lz4.NewWriter(w)
		if err := z.Apply(lz4.LegacyOption(true)); err != nil {
			t.Fatal(err)
		}
		return z
	})
}

func bytesOf(t testing.TB, digits string) []byte {
	t.Helper()
	out, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// printf 'hello\n' | bzip2
const bzip2Hello = "425a6839314159265359c1c080e2000001410000100244a00030cd00c3462997177245385090c1c080e2"

func TestOpen(t *testing.T) {
	long := bytes.Repeat([]byte("what is packed "), 20_000)
	for _, tt := range []struct {
		name   string
		data   []byte
		want   string
		packed bool
	}{
		{"Gzip", gzipOf(t, long), string(long), true},
		{"GzipOfTwoStreams", append(gzipOf(t, []byte("one ")), gzipOf(t, []byte("two"))...), "one two", true},
		{"Zstd", zstdOf(t, long), string(long), true},
		{"XZ", xzOf(t, long), string(long), true},
		{"Bzip2", bytesOf(t, bzip2Hello), "hello\n", true},
		{"LZ4", lz4Of(t, long), string(long), true},
		{"Plain", long, string(long), false},
		{"Empty", nil, "", false},
		{"ShorterThanAMagic", []byte("\xfd7zX"), "\xfd7zX", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Open(iotest.OneByteReader(bytes.NewReader(tt.data)), window)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if string(got) != tt.want || err != nil || r.Packed() != tt.packed {
				t.Errorf("%d bytes, packed %v, %v; want %d, %v", len(got), r.Packed(), err, len(tt.want), tt.packed)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenFails(t *testing.T) {
	long := make([]byte, 64<<10)
	broken := errors.New("the disk is broken")
	for _, tt := range []struct {
		name string
		r    io.Reader
		want string
	}{
		{"ErrRead", iotest.ErrReader(broken), broken.Error()},
		{"ErrHeader", strings.NewReader("\x1f\x8bno gzip at all"), "decompress: gzip"},
		{"ErrCutGzip", bytes.NewReader(gzipOf(t, long)[:40]), "unexpected EOF"},
		{"ErrCutZstd", bytes.NewReader(zstdOf(t, long)[:12]), "unexpected EOF"},
		{"ErrZstdWindow", bytes.NewReader(zstdOf(t, make([]byte, 3*window), zstd.WithWindowSize(2*window))), "window"},
		{"ErrXZWindow", bytes.NewReader(xzOf(t, long, "--lzma2=dict=16MiB")), "exceeds max"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Open(tt.r, window)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
				_ = r.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// What follows a single stream is not the decompressor's: padding is no damage.
func TestSingleStream(t *testing.T) {
	padded := append(gzipOf(t, []byte("one")), make([]byte, 512)...)
	for _, single := range []bool{true, false} {
		r, err := Open(bytes.NewReader(padded), window)
		if err != nil {
			t.Fatal(err)
		}
		if single {
			r.SingleStream()
		}
		if got, err := io.ReadAll(r); string(got) != "one" || (err == nil) != single {
			t.Errorf("single stream %v: %q, %v", single, got, err)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, tt := range []struct {
		maxBytes, wantBytes int64
		wantErr             error
	}{{6, 5, nil}, {5, 5, nil}, {4, 0, ErrTooLarge}, {0, 0, ErrTooLarge}} {
		for name, r := range map[string]io.Reader{"AtOnce": strings.NewReader("12345"), "ByBytes": iotest.OneByteReader(strings.NewReader("12345"))} {
			l := Limit(r, tt.maxBytes)
			got, err := io.ReadAll(l)
			if !errors.Is(err, tt.wantErr) || int64(len(got)) > tt.maxBytes || err == nil && l.Bytes() != tt.wantBytes {
				t.Errorf("%s, at most %d: %q of %d bytes, %v; want %v", name, tt.maxBytes, got, l.Bytes(), err, tt.wantErr)
			}
			if _, err := l.Read(make([]byte, 1)); tt.wantErr != nil && !errors.Is(err, tt.wantErr) {
				t.Errorf("%s: read again: %v, want %v", name, err, tt.wantErr)
			}
		}
	}
}

// FuzzOpen reads what anybody may have packed: nothing panics, nothing comes beyond the limit, and
// what is not packed comes out as it went in.
func FuzzOpen(f *testing.F) {
	for _, seed := range [][]byte{
		gzipOf(f, []byte("hello")), zstdOf(f, []byte("hello")), xzOf(f, []byte("hello")), lz4Of(f, []byte("hello")), bytesOf(f, bzip2Hello), []byte("hello"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 20
		r, err := Open(bufio.NewReader(bytes.NewReader(data)), window)
		if err != nil {
			return
		}
		defer r.Close()
		got, err := io.ReadAll(Limit(r, most))
		if len(got) > most {
			t.Errorf("%d bytes came", len(got))
		}
		if !r.Packed() && (err != nil || !bytes.Equal(got, data)) && len(data) <= most {
			t.Errorf("%d bytes that are not packed: %d came, %v", len(data), len(got), err)
		}
	})
}
