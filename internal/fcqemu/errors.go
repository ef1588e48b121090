package fcqemu

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// The two texts with which Firecracker refuses a request in the wrong phase; clients match them.
var (
	errPostBoot = errors.New("The requested operation is not supported after starting the microVM.")
	errPreBoot  = errors.New("The requested operation is not supported before starting the microVM.")
)

// unsupported refuses what Firecracker has and firecracker-qemu has not, with Firecracker's own
// words for such a case.
func unsupported(what string) error {
	return fmt.Errorf("The requested operation is not supported: %s is not supported by firecracker-qemu", what)
}

// osError is err as Rust prints it, which clients match: No such file or directory (os error 2).
func osError(err error) string {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err.Error()
	}
	text := errno.Error()
	if text != "" {
		text = string(text[0]-'a'+'A') + text[1:]
	}
	return fmt.Sprintf("%s (os error %d)", text, int(errno))
}
