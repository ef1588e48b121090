package oci

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

const (
	blobBuffer = 256 << 10

	// maxWindowBytes bounds what a decompressor keeps in memory; zstd --ultra and xz -9 need that much.
	maxWindowBytes = 128 << 20
)

// errBomb says that a blob unpacks to more than its limit.
var errBomb = errors.New("it unpacks to more than is allowed for its size")

// decompressors by the first bytes of what they read: registries' media types and the names of files are often wrong.
var decompressors = []struct {
	magic string
	open  func(io.Reader) (io.ReadCloser, error)
}{
	{"\x1f\x8b", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"\x28\xb5\x2f\xfd", openZstd},
	{"\xfd7zXZ\x00", func(r io.Reader) (io.ReadCloser, error) {
		x, err := xz.NewReader(r, maxWindowBytes)
		return io.NopCloser(x), err
	}},
	{"BZh", func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
}

func openZstd(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindowBytes), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// decompress returns what is packed in r, or r itself when it is not packed. Close it to free its memory.
func decompress(r io.Reader) (_ io.ReadCloser, packed bool, err error) {
	in := bufio.NewReaderSize(r, blobBuffer)
	head, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	for _, d := range decompressors {
		if bytes.HasPrefix(head, []byte(d.magic)) {
			out, err := d.open(in)
			if err != nil {
				return nil, false, fmt.Errorf("decompress: %w", err)
			}
			return out, true, nil
		}
	}
	return io.NopCloser(in), false, nil
}

// limitedReader fails, other than io.LimitReader, when there is more than left.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p[:min(int64(len(p)), l.left+1)])
	if l.left -= int64(n); l.left < 0 {
		return 0, errBomb
	}
	return n, err
}

// hashed reads a layer from its first byte to its last and knows, at the end, whether it was the announced one.
type hashed struct {
	io.Reader // the tar in the layer

	layer          layer
	raw            io.Reader
	maxBytes       int64
	limit          *limitedReader // of the tar
	rawSum, tarSum hash.Hash      // tarSum is nil when the layer is not packed: rawSum is of the same bytes
	close          func() error
}

// openHashed opens the layer for one pass. maxBytes bounds the tar in it.
func (l layer) openHashed(maxBytes int64) (*hashed, error) {
	h := &hashed{layer: l, rawSum: sha256.New(), maxBytes: maxBytes}
	h.raw = io.TeeReader(io.NewSectionReader(l.blob, 0, l.size), h.rawSum)
	plain, packed, err := decompress(h.raw)
	if err != nil {
		return nil, err
	}
	h.close = plain.Close
	h.limit = &limitedReader{plain, maxBytes}
	h.Reader = h.limit
	if packed {
		h.tarSum = sha256.New()
		h.Reader = io.TeeReader(h.Reader, h.tarSum)
	}
	return h, nil
}

// tarBytes is how much of the tar was read.
func (h *hashed) tarBytes() int64 { return h.maxBytes - h.limit.left }

// verify reads the rest, which no tar reader asks for, compares the sums and returns the blob's.
func (h *hashed) verify() (digest string, err error) {
	if _, err := io.Copy(io.Discard, h.Reader); err != nil {
		return "", err
	}
	if _, err := io.Copy(io.Discard, h.raw); err != nil {
		return "", err
	}
	digest = hex.EncodeToString(h.rawSum.Sum(nil))
	if h.layer.digest != "" && digest != h.layer.digest {
		return "", fmt.Errorf("sha256 %.12s, want %.12s", digest, h.layer.digest)
	}
	sum := digest
	if h.tarSum != nil {
		sum = hex.EncodeToString(h.tarSum.Sum(nil))
	}
	if h.layer.diffID != "" && sum != h.layer.diffID {
		return "", fmt.Errorf("sha256 %.12s of what is in it, want %.12s", sum, h.layer.diffID)
	}
	return digest, nil
}
