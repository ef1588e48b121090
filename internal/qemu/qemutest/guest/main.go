// Command guest is the /init of the tests' VMs. It serves one command a connection on vsock port
// 52: the first line is the command.
//
//	echo            sends back what it gets
//	source N        sends N bytes
//	sink            reads all, then sends how many bytes it was
//	read FILE N     sends the first N bytes of a file or device
//	cat FILE        sends a whole file
//	write FILE TEXT overwrites its beginning, and syncs
//	size FILE       sends its size in bytes
//	exec            forks and execs, and sends "done"
//	dial PORT       connects to the host's PORT, sends "hello" there and sends back the answer
//	hangup          closes the port and opens it again, as when the agent died and was started anew
//	poweroff, reboot, panic
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/vsockmux"
)

const port = 52

func main() {
	if len(os.Args) > 1 {
		return // the child of exec
	}
	if err := boot(); err != nil {
		fmt.Println("guest:", err)
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func boot() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	modules, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	slices.Sort(modules)
	for _, path := range modules {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := unix.InitModule(content, ""); err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	fmt.Println("guest: ready")
	for {
		if err := serve(); err != nil {
			fmt.Println("guest:", err)
		}
	}
}

func serve() error {
	device, err := findPort()
	if err != nil {
		return err
	}
	session, err := vsockmux.Guest(context.Background(), device)
	if err != nil {
		return err
	}
	defer session.Close()
	l, err := session.Listen(port)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := command(session, conn); err != nil {
				fmt.Fprintln(conn, "error:", err)
			}
		}()
	}
}

func findPort() (*os.File, error) {
	for {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, path := range names {
			if name, _ := os.ReadFile(path); strings.TrimSpace(string(name)) == vsockmux.PortName {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(path)), os.O_RDWR, 0)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func command(session *vsockmux.Session, conn net.Conn) error {
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	words := append(strings.Fields(line), "", "", "")
	n, _ := strconv.ParseInt(words[1], 10, 64)
	switch words[0] {
	case "echo":
		_, err = io.Copy(conn, r)
	case "source":
		_, err = io.CopyN(conn, zeros{}, n)
	case "sink":
		n, err = io.Copy(io.Discard, r)
		fmt.Fprint(conn, n)
	case "read":
		n, _ = strconv.ParseInt(words[2], 10, 64)
		err = readFile(conn, words[1], n)
	case "cat":
		err = cat(conn, words[1])
	case "write":
		err = writeFile(conn, words[1], words[2])
	case "size":
		err = size(conn, words[1])
	case "exec":
		if err = exec.Command("/init", "child").Run(); err == nil {
			fmt.Fprint(conn, "done")
		}
	case "dial":
		err = dial(session, conn, uint32(n))
	case "hangup":
		err = session.Close()
	case "poweroff":
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "reboot":
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		err = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	default:
		err = fmt.Errorf("unknown command %q", line)
	}
	return err
}

func readFile(w io.Writer, path string, n int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(w, f, n)
	return err
}

func cat(w io.Writer, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}

func writeFile(w io.Writer, path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	_, err = fmt.Fprint(w, "done")
	return err
}

func size(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(w, end)
	return err
}

func dial(session *vsockmux.Session, w io.Writer, port uint32) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := session.Dial(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	if err := conn.(*vsockmux.Conn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(w, conn)
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
