package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"banger/internal/compression"
)

const (
	maxVmlinuxBytes    = 512 << 20
	maxDictionaryBytes = 256 << 20 // zstd and xz windows; the kernel's zstd -22 --ultra uses 128 MiB
)

// Fields of the x86 boot protocol's setup header (kernel: Documentation/arch/x86/boot.rst).
const (
	offsetSetupSectors  = 0x1f1
	offsetHeaderMagic   = 0x202
	offsetProtocol      = 0x206
	offsetPayload       = 0x248
	offsetPayloadLength = 0x24c
	setupHeaderEnd      = 0x250

	protocolWithPayload = 0x208
	sectorBytes         = 512
)

var errNotBzImage = errors.New("neither a vmlinux (ELF) nor an x86 bzImage")

// vmlinux returns the ELF kernel inside a bzImage. Debian ships only the bzImage; Firecracker boots
// only the ELF.
func vmlinux(bzImage []byte) ([]byte, error) {
	if bytes.HasPrefix(bzImage, []byte(elf.ELFMAG)) {
		return bzImage, checkELF(bzImage)
	}
	payload, err := payloadOf(bzImage)
	if err != nil {
		return nil, err
	}
	// The build appends the plain size to every payload (for gzip it is the format's own trailer).
	size := binary.LittleEndian.Uint32(payload[len(payload)-4:])
	if size > maxVmlinuxBytes {
		return nil, fmt.Errorf("unpack kernel: plain size of %d bytes", size)
	}
	plain, err := unpacked(payload)
	if err != nil {
		return nil, fmt.Errorf("unpack kernel: %w", err)
	}
	defer plain.Close()
	// Growing with the data, not with the claimed size: a small file must not cost 512 MiB. Reading
	// stops at that size, before the decoder meets the appended one.
	var image bytes.Buffer
	if n, err := io.CopyN(&image, plain, int64(size)); err != nil {
		return nil, fmt.Errorf("unpack kernel: %d of %d bytes: %w", n, size, err)
	}
	return image.Bytes(), checkELF(image.Bytes())
}

// payloadOf returns the compressed kernel of a bzImage, at least 8 bytes.
func payloadOf(image []byte) ([]byte, error) {
	if len(image) < setupHeaderEnd || string(image[offsetHeaderMagic:offsetHeaderMagic+4]) != "HdrS" {
		return nil, errNotBzImage
	}
	if protocol := binary.LittleEndian.Uint16(image[offsetProtocol:]); protocol < protocolWithPayload {
		return nil, fmt.Errorf("%w: boot protocol %#x is too old", errNotBzImage, protocol)
	}
	sectors := uint64(image[offsetSetupSectors])
	if sectors == 0 {
		sectors = 4 // as the boot protocol says
	}
	start := (sectors+1)*sectorBytes + uint64(binary.LittleEndian.Uint32(image[offsetPayload:]))
	length := uint64(binary.LittleEndian.Uint32(image[offsetPayloadLength:]))
	if length < 8 || start+length > uint64(len(image)) {
		return nil, fmt.Errorf("%w: payload of %d bytes at %d lies outside the file", errNotBzImage, length, start)
	}
	return image[start : start+length], nil
}

func checkELF(image []byte) error {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	if file.Class != elf.ELFCLASS64 || file.Machine != elf.EM_X86_64 {
		return fmt.Errorf("read kernel: %v for %v, want a 64-bit x86 ELF file", file.Class, file.Machine)
	}
	return nil
}

// unpacked returns the plain content of packed data: a kernel's, a module's or an initrd's.
func unpacked(data []byte) (*compression.Reader, error) {
	r, err := compression.Open(bytes.NewReader(data), maxDictionaryBytes)
	if err == nil && !r.Packed() {
		err = fmt.Errorf("unknown compression, first bytes % x", data[:min(len(data), 4)])
	}
	return r, err
}
