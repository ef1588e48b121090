package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// maxMessage bounds one line of QMP. The longest answers of the commands used here are below 10
// KiB.
const maxMessage = 1 << 20

// ErrMonitorClosed is the error of a command whose answer can no longer come, because QEMU has
// gone.
var ErrMonitorClosed = errors.New("qemu: monitor closed")

// An Event is an asynchronous message of QEMU, see its qapi/run-state.json.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// A CommandError is QEMU's refusal of a command.
type CommandError struct {
	Command string `json:"-"`
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *CommandError) Error() string { return fmt.Sprintf("qemu %s: %s", e.Command, e.Desc) }

// A Monitor speaks QMP, QEMU's control protocol. Its methods may be called concurrently.
type Monitor struct {
	conn    io.ReadWriteCloser
	onEvent func(Event)
	done    chan struct{}

	writing sync.Mutex // held for one whole request; never together with mu

	mu      sync.Mutex
	next    int
	waiting map[int]chan answer
}

type answer struct {
	ID     *int            `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *CommandError   `json:"error"`
	Event
}

// newMonitor reads from conn until it ends, and calls onEvent from that goroutine for each event.
// conn belongs to the monitor.
func newMonitor(conn io.ReadWriteCloser, onEvent func(Event)) *Monitor {
	m := &Monitor{conn: conn, onEvent: onEvent, done: make(chan struct{}), waiting: map[int]chan answer{}}
	go m.read()
	return m
}

func (m *Monitor) read() {
	defer close(m.done)
	lines := bufio.NewScanner(m.conn)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			break
		}
		switch {
		case a.Name != "":
			m.onEvent(a.Event)
		case a.ID != nil:
			m.mu.Lock()
			ch := m.waiting[*a.ID]
			delete(m.waiting, *a.ID)
			m.mu.Unlock()
			if ch != nil {
				ch <- a
			}
		}
		// What is left is the greeting.
	}
	m.conn.Close()
}

// Execute runs a command and decodes what it returns into result, unless that is nil. An error of
// QEMU's is a *CommandError. When ctx ends first the command may still take effect.
func (m *Monitor) Execute(ctx context.Context, command string, arguments, result any) error {
	ch := make(chan answer, 1)
	m.mu.Lock()
	m.next++
	id := m.next
	m.waiting[id] = ch
	m.mu.Unlock()
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, id})
	if err == nil {
		// Requests are small: QEMU, which always reads, takes them at once.
		m.writing.Lock()
		_, err = m.conn.Write(append(request, '\n'))
		m.writing.Unlock()
	}
	if err != nil {
		m.forget(id)
		return fmt.Errorf("qemu %s: %w", command, errors.Join(ErrMonitorClosed, err))
	}
	select {
	case a := <-ch:
		return a.decode(command, result)
	case <-m.done:
		return fmt.Errorf("qemu %s: %w", command, ErrMonitorClosed)
	case <-ctx.Done():
		m.forget(id)
		return fmt.Errorf("qemu %s: %w", command, ctx.Err())
	}
}

func (m *Monitor) forget(id int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waiting, id)
}

func (a answer) decode(command string, result any) error {
	if a.Error != nil {
		a.Error.Command = command
		return a.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(a.Return, result); err != nil {
		return fmt.Errorf("qemu %s: decode answer: %w", command, err)
	}
	return nil
}
