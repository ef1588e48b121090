package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeVmlinux is an ELF header for a 64-bit x86 with nothing behind it but filling.
func fakeVmlinux(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Phentsize: 56, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	if err := binary.Write(&out, binary.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	out.Write(bytes.Repeat([]byte("kernel "), 10_000))
	return out.Bytes()
}

// bzImageOf lays a payload out as the kernel's build does: boot sector, 3 setup sectors, 100 bytes
// of decompressor, payload, more code. size is the plain size that the build appends.
func bzImageOf(payload []byte, size int) []byte {
	image := make([]byte, 4*sectorBytes+100)
	image[offsetSetupSectors] = 3
	copy(image[offsetHeaderMagic:], "HdrS")
	binary.LittleEndian.PutUint16(image[offsetProtocol:], 0x20f)
	binary.LittleEndian.PutUint32(image[offsetPayload:], 100)
	binary.LittleEndian.PutUint32(image[offsetPayloadLength:], uint32(len(payload)+4))
	image = append(image, payload...)
	image = binary.LittleEndian.AppendUint32(image, uint32(size))
	return append(image, "more code"...)
}

func zstdOf(t testing.TB, plain []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(plain, nil)
}

// through compresses plain with what newWriter returns.
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

// xzOf compresses with the real xz.
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

func TestVmlinux(t *testing.T) {
	plain := fakeVmlinux(t)
	gz := through(t, plain, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	lz := through(t, plain, func(w io.Writer) io.WriteCloser {
		z := lz4.NewWriter(w)
		if err := z.Apply(lz4.LegacyOption(true)); err != nil {
			t.Fatal(err)
		}
		return z
	})
	for name, image := range map[string][]byte{
		"Zstd": bzImageOf(zstdOf(t, plain), len(plain)),
		"Gzip": bzImageOf(gz, len(plain)),
		// as scripts/xz_wrap.sh
		"XZ":  bzImageOf(xzOf(t, plain, "--check=crc32", "--x86", "--lzma2=dict=32MiB"), len(plain)),
		"LZ4": bzImageOf(lz, len(plain)),
		"ELF": plain,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := vmlinux(image)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%d bytes, %v; want %d", len(got), err, len(plain))
			}
		})
	}
}

func TestVmlinuxErrors(t *testing.T) {
	plain := fakeVmlinux(t)
	packed := zstdOf(t, plain)
	good := bzImageOf(packed, len(plain))
	with := func(change func([]byte)) []byte {
		image := bytes.Clone(good)
		change(image)
		return image
	}
	for _, test := range []struct {
		name  string
		image []byte
		want  string
	}{
		{"ErrEmpty", nil, "an x86 bzImage"},
		{"ErrNoHeader", make([]byte, 4096), "an x86 bzImage"},
		{"ErrOldProtocol", with(func(b []byte) { b[offsetProtocol], b[offsetProtocol+1] = 7, 2 }), "too old"},
		{"ErrPayloadOutside", with(func(b []byte) { binary.LittleEndian.PutUint32(b[offsetPayload:], 1<<31) }), "outside the file"},
		{"ErrPayloadTooLong", with(func(b []byte) { binary.LittleEndian.PutUint32(b[offsetPayloadLength:], 0xffffffff) }), "outside the file"},
		{"ErrPayloadTooShort", with(func(b []byte) { binary.LittleEndian.PutUint32(b[offsetPayloadLength:], 7) }), "outside the file"},
		{"ErrTruncated", good[:len(good)/2], "outside the file"},
		{"ErrHugeSize", bzImageOf(packed, maxVmlinuxBytes+1), "plain size"},
		{"ErrShorterThanSaid", bzImageOf(packed, len(plain)+1), "unpack kernel"},
		{"ErrUnknownCompression", bzImageOf([]byte("\x5d\x00\x00 lzma"), 10), "unknown compression"},
		{"ErrDamaged", with(func(b []byte) { clear(b[4*sectorBytes+110 : 4*sectorBytes+130]) }), "unpack kernel"},
		{"ErrNotELF", bzImageOf(zstdOf(t, make([]byte, 100)), 100), "read kernel"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := vmlinux(test.image)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	arm := bytes.Clone(plain)
	arm[18] = byte(elf.EM_AARCH64)
	if _, err := vmlinux(arm); err == nil || !strings.Contains(err.Error(), "want a 64-bit x86") {
		t.Errorf("kernel of another machine: %v", err)
	}
}

func FuzzVmlinux(f *testing.F) {
	plain := fakeVmlinux(f)
	f.Add(plain[:200])
	f.Add(bzImageOf(zstdOf(f, plain[:200]), 200))
	f.Add(bzImageOf(through(f, plain[:200], func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }), 200))
	f.Fuzz(func(t *testing.T, data []byte) {
		image, err := vmlinux(data)
		if err == nil && !bytes.HasPrefix(image, []byte(elf.ELFMAG)) {
			t.Error("no ELF file and no error")
		}
		if errors.Is(err, errNotBzImage) && image != nil {
			t.Error("both an image and an error")
		}
	})
}
