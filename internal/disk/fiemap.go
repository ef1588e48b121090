package disk

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The FIEMAP ioctl (kernel: Documentation/filesystems/fiemap.rst, include/uapi/linux/fiemap.h).
const (
	ioctlFiemap        = 0xc020660b // _IOWR('f', 11, struct fiemap)
	fiemapHeaderBytes  = 32
	fiemapExtentBytes  = 56
	fiemapExtents      = 256 // asked for at a time
	fiemapExtentLast   = 0x1
	fiemapExtentShared = 0x2000
	maxFiemapCalls     = 4096 // a million extents; what comes after that counts as the file's own
)

// reflinkedBytes returns how much of a file lies in extents that it shares with others. Where the
// filesystem does not tell (most cannot share) that is 0.
func reflinkedBytes(file *os.File) int64 {
	var shared int64
	var start uint64
	buffer := make([]byte, fiemapHeaderBytes+fiemapExtents*fiemapExtentBytes)
	for range maxFiemapCalls {
		clear(buffer[:fiemapHeaderBytes])
		binary.NativeEndian.PutUint64(buffer, start)                // fm_start
		binary.NativeEndian.PutUint64(buffer[8:], ^uint64(0)-start) // fm_length
		binary.NativeEndian.PutUint32(buffer[24:], fiemapExtents)   // fm_extent_count
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), ioctlFiemap, uintptr(unsafe.Pointer(&buffer[0]))); errno != 0 {
			return shared
		}
		count := min(binary.NativeEndian.Uint32(buffer[20:]), fiemapExtents) // fm_mapped_extents
		if count == 0 {
			return shared
		}
		for i := range count {
			extent := buffer[fiemapHeaderBytes+i*fiemapExtentBytes:]
			logical, length := binary.NativeEndian.Uint64(extent), binary.NativeEndian.Uint64(extent[16:])
			flags := binary.NativeEndian.Uint32(extent[40:])
			if flags&fiemapExtentShared != 0 {
				shared += int64(length)
			}
			if flags&fiemapExtentLast != 0 || logical+length <= start {
				return shared
			}
			start = logical + length
		}
	}
	return shared
}
