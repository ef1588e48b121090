package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/hostinfo"
	"banger/internal/network"
	"banger/internal/network/plan"
)

// pastaMTU is what pasta gives its interface: connections end in it, so frames need not be the
// host's size.
const pastaMTU = 65520

// Back-off between two starts of pasta; one that has run for pastaSteady begins anew.
const (
	pastaFirstPause = 100 * time.Millisecond
	pastaLastPause  = 10 * time.Second
	pastaSteady     = 10 * time.Second
)

// pasta is the uplink of an ordinary user, a process from passt (https://passt.top) that joins the
// namespaces. It runs in the host's network namespace, so the keeper starts it.
type pasta struct {
	binary  string
	pidFile string
	holder  int  // its pid
	ipv6    bool // the namespace can have it
	log     *slog.Logger
	done    chan struct{}
	cancel  context.CancelFunc

	mu      sync.Mutex
	status  string
	status6 string
}

// startPasta finds pasta and keeps it running until close. That pasta cannot run now (a host
// without a default route) is told by state alone: VMs still reach each other, and it is tried
// again.
func startPasta(c Config, log *slog.Logger) (*pasta, error) {
	binary, err := hostinfo.LookPath("pasta")
	if err != nil {
		return nil, fmt.Errorf("find pasta: %w (install the package passt: apt-get install passt, dnf install passt)",
			err)
	}
	p := &pasta{
		binary:  binary,
		pidFile: c.Dir.PastaPID(),
		holder:  c.Holder,
		ipv6:    c.IPv6,
		log:     log,
		done:    make(chan struct{}),
		status:  "starting",
	}
	p.note6()
	if err := p.endStray(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() {
		defer close(p.done)
		p.keep(ctx)
	}()
	return p, nil
}

// MTU is what the machines' links have, in bytes.
func (p *pasta) MTU() int { return pastaMTU }

// State is UplinkUp, or why it is down.
func (p *pasta) State() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// State6 is UplinkUp, or why IPv6 has no way out.
func (p *pasta) State6() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status6
}

// note6 looks at the host's way out and reports whether it has one for IPv6.
func (p *pasta) note6() bool {
	status := network.UplinkUp
	if err := check6(p.ipv6); err != nil {
		status = err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status6 = status
	return status == network.UplinkUp
}

func (p *pasta) set(status string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
}

// Close ends pasta and waits for its end.
func (p *pasta) Close() error {
	p.cancel()
	<-p.done
	if err := os.Remove(p.pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pasta's pid: %w", err)
	}
	return nil
}

// pastaArguments: no port of the host is forwarded in or out, and the gateway's address is not the
// host (--no-map-gw).
func pastaArguments(holder int, ipv6 bool) []string {
	arguments := []string{
		"--foreground", "--quiet", "--config-net", "--no-map-gw", "--ipv4-only", "--ns-ifname", plan.Uplink,
	}
	if ipv6 {
		arguments = slices.DeleteFunc(arguments, func(a string) bool { return a == "--ipv4-only" })
	}
	return append(arguments, "--mtu", strconv.Itoa(pastaMTU), "-t", "none", "-u", "none", "-T", "none", "-U", "none",
		strconv.Itoa(holder))
}

func (p *pasta) keep(ctx context.Context) {
	pause := pastaFirstPause
	for {
		started := time.Now()
		err := p.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) >= pastaSteady {
			pause = pastaFirstPause
		}
		p.set("down: " + err.Error())
		p.log.WarnContext(ctx, "pasta ended, starting it again", "err", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, pastaLastPause)
	}
}

// run starts pasta and returns how it ended.
func (p *pasta) run(ctx context.Context) error {
	command := exec.CommandContext(ctx, p.binary, pastaArguments(p.holder, p.note6())...)
	var tail tailBuffer
	command.Stderr = &tail
	command.WaitDelay = time.Second
	if err := command.Start(); err != nil {
		return fmt.Errorf("start pasta: %w", err)
	}
	if err := os.WriteFile(p.pidFile, fmt.Appendf(nil, "%d %d", command.Process.Pid, p.holder), 0o600); err != nil {
		p.log.WarnContext(ctx, "a later keeper will not find this pasta", "err", err)
	}
	p.set(network.UplinkUp)
	err := command.Wait()
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("pasta: %w %s", err, tail.bytes)
}

// endStray ends the pasta of a keeper that was killed; pasta is not told of that. A pid is believed
// only when its command line is ours to the last word, the pid of the holder that it was started
// for.
func (p *pasta) endStray() error {
	note, err := os.ReadFile(p.pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pasta's pid: %w", err)
	}
	var pid, holder int // another than ours, when that has died too
	if _, err := fmt.Sscanf(string(note), "%d %d", &pid, &holder); err != nil || pid <= 1 {
		return nil // torn by a crash
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // gone
	}
	defer unix.Close(fd)
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !isPasta(string(line), holder) {
		return nil // another's
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end stray pasta: %w", err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 2000); err != nil &&
		!errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for stray pasta: %w", err)
	}
	return nil
}

// isPasta reports whether a command line, with a NUL behind each word, is that of a pasta of ours.
func isPasta(line string, holder int) bool {
	for _, ipv6 := range []bool{false, true} {
		if strings.HasSuffix(line, "\x00"+strings.Join(pastaArguments(holder, ipv6), "\x00")+"\x00") {
			return true
		}
	}
	return false
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct{ bytes []byte }

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.bytes = append(b.bytes, p...)
	b.bytes = b.bytes[max(0, len(b.bytes)-1024):]
	return len(p), nil
}
