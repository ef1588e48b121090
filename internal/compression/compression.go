// Package compression reads what is packed by whatever its first bytes tell: gzip, zstd, xz, bzip2
// or lz4, or nothing. Names of files, media types and suffixes are not asked, they are often wrong.
//
// What it reads comes from registries, mirrors and users. A decompressor's memory is bounded by the
// caller's window, and how much comes out by Limit.
package compression

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// bufferBytes is what is read at a time; a caller that wants more passes a larger bufio.Reader.
const bufferBytes = 32 << 10

// ErrTooLarge is the error of a reader of Limit that has more than it may.
var ErrTooLarge = errors.New("it unpacks to more than is allowed for its size")

// formats by their first bytes. Decompressors of gzip, bzip2 and lz4 need a few MiB at most,
// whatever they read; the others get a bound.
var formats = []struct {
	magic string
	open  func(r io.Reader, windowBytes int) (io.ReadCloser, error)
}{
	{"\x1f\x8b", func(r io.Reader, _ int) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"\x28\xb5\x2f\xfd", openZstd},
	{"\xfd7zXZ\x00", func(r io.Reader, windowBytes int) (io.ReadCloser, error) {
		x, err := xz.NewReader(r, uint32(windowBytes))
		return io.NopCloser(x), err
	}},
	{"BZh", func(r io.Reader, _ int) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
	// The legacy frame, the one that the kernel's build uses.
	{"\x02\x21\x4c\x18", func(r io.Reader, _ int) (io.ReadCloser, error) {
		return io.NopCloser(lz4.NewReader(r)), nil
	}},
}

func openZstd(r io.Reader, windowBytes int) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r,
		zstd.WithDecoderMaxWindow(uint64(windowBytes)), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// Reader is what is packed in another reader, or that itself when it is not packed. Close frees its
// memory, and leaves the other one open.
type Reader struct {
	io.ReadCloser
	packed bool
}

// Open returns what is packed in r. A format that lets what is packed say how far its decompressor
// looks back may say at most windowBytes: more is an error, here or when it is read.
func Open(r io.Reader, windowBytes int) (*Reader, error) {
	in := bufio.NewReaderSize(r, bufferBytes)
	head, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, f := range formats {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			out, err := f.open(in, windowBytes)
			if err != nil {
				return nil, fmt.Errorf("decompress: %w", err)
			}
			return &Reader{out, true}, nil
		}
	}
	return &Reader{io.NopCloser(in), false}, nil
}

// Packed reports whether there is a decompressor at work.
func (r *Reader) Packed() bool { return r.packed }

// SingleStream makes a gzip end with its first stream, whatever follows; others do not mind
// padding. Call it before the first read.
func (r *Reader) SingleStream() {
	if z, ok := r.ReadCloser.(*gzip.Reader); ok {
		z.Multistream(false)
	}
}

// Limited is a reader that fails with ErrTooLarge when there is more than it may give, other than
// io.LimitReader, which makes believe that it has ended.
type Limited struct {
	r       io.Reader
	maximum int64
	read    int64
}

// Limit returns a reader of at most maxBytes.
func Limit(r io.Reader, maxBytes int64) *Limited { return &Limited{r: r, maximum: maxBytes} }

func (l *Limited) Read(p []byte) (int, error) {
	left := l.maximum - l.read
	if left < 0 {
		return 0, ErrTooLarge
	}
	n, err := l.r.Read(p[:min(int64(len(p)), left+1)]) // one more tells whether there is more
	if l.read += int64(n); l.read > l.maximum {
		return 0, ErrTooLarge
	}
	return n, err
}

// Bytes is how much was read so far.
func (l *Limited) Bytes() int64 { return l.read }
